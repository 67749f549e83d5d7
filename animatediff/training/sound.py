"""Sound weights: finite ones, and the steps that fp16 leaves out so that they stay so."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError

logger = logging.getLogger(__name__)

MOST_OVERFLOWS = 40
"""Steps that may overflow one after the other: the loss scale begins at 2**16 and is halved at each of them."""


class Overflows:
    """Count of steps whose gradients were too large for fp16, whose update the loss scaler leaves out."""

    def __init__(self, scaler: Any) -> None:
        """scaler: torch's `GradScaler` of the run; None where the precision needs none."""
        self.scaler = scaler
        self.count = 0
        """All of them, in this process."""
        self.now = 0
        """Those without a sound step since."""

    @contextmanager
    def watched(self, step: int) -> Iterator[None]:
        """A context for the update of the weights in a step.

        Raises UserError where no update has been made for long: still lower scales do not help then.
        """
        if self.scaler is None:
            yield
            return
        before = self.scaler.get_scale()
        yield
        # The scale alone tells: fused optimizers are called in any case, and leave the update out themselves.
        skipped = self.scaler.get_scale() < before
        self.now = self.now + 1 if skipped else 0
        self.count += skipped
        if skipped and self.count == 1:
            logger.warning(
                "step %d: the gradients overflowed in fp16; its update is left out, and the run goes on with a lower "
                "loss scale, as now and then in fp16 (further ones are counted in skipped_updates)",
                step,
            )
        if self.now >= MOST_OVERFLOWS:
            raise UserError(
                f"step {step}: the last {self.now} updates all overflowed in fp16, whatever the loss scale; take "
                "precision=bf16 or precision=no"
            )


def unsound(weights: Mapping[str, Tensor], saved: Mapping[str, Tensor], dtype: str) -> str | None:
    """The reason why trained weights, or those to be saved in `dtype`, are of no use; None if they are sound."""
    if name := not_finite(weights):
        return f"the weights are not finite (first {name}); a lower `learning_rate` or `warmup_steps` may help"
    if name := not_finite(saved):
        return f"the averaged weights are not finite (first {name})"
    if name := not_finite(saved, getattr(torch, dtype)):
        return f"the weights do not fit into weights_dtype={dtype} (first {name}); take bfloat16 or float32"
    return None


def not_finite(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str | None:
    """The first of some tensors that is not finite, as it is or in `dtype`; None if all are."""
    return next((name for name, tensor in tensors.items() if not _finite(tensor, dtype)), None)


def _finite(tensor: Tensor, dtype: torch.dtype | None) -> bool:
    # The largest magnitude alone: one number in place of a copy of the tensor.
    if not tensor.numel():
        return True
    low, high = (end if dtype is None else end.to(dtype) for end in torch.aminmax(tensor.detach()))
    return bool(low.isfinite() and high.isfinite())


def check_start(parameters: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError where the weights that a run begins with, from `source`, are not finite: no step mends them."""
    for name, parameter in parameters.items():
        local = getattr(parameter, "to_local", None)  # this process's part, with FSDP
        if not _finite(parameter if local is None else local(), None):
            raise UserError(f"{source}: the weights to begin with are not finite (first {name}); take others")
