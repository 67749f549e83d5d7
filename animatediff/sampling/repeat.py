"""A step that runs out of memory is made again, with a measure more against it; those before it are kept."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from animatediff.errors import is_out_of_memory
from animatediff.memory.measures import InUse, Measures
from animatediff.sampling.predict import Predict

logger = logging.getLogger(__name__)

NextMeasures = Callable[[], Measures | None]
"""Goes one measure down; None where there is none left."""


def repeated(predict: Predict, down: NextMeasures) -> Predict:
    """A prediction that is made again by the next measure where memory runs out.

    The sampler has not stepped yet, and no random numbers are drawn in a prediction, so that the step is what it would
    have been by that measure at once. The error is raised again where no measure is left.
    """

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        return until_it_fits(lambda: predict(latents, timestep, frames), down, "a step")

    return call


def until_it_fits(run: Callable[[], Tensor], down: NextMeasures, what: str) -> Tensor:
    """The result of `run`, called again after each measure for which memory ran out."""
    while True:
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            measures = down()
            if measures is None:
                raise
        # here, where the error and with it the tensors of its frames are gone
        let_go()
        logger.warning("out of memory: %s is made again; %s", what, ", ".join(measures.told()))


def let_go() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def stepping(saving: InUse, otherwise: NextMeasures = lambda: None) -> NextMeasures:
    """The measures of a step one after the other, and then what `otherwise` can still do."""
    return lambda: saving.next_step() or otherwise()
