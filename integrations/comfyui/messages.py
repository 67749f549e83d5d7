"""Messages of the library in the words of the nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from animatediff.errors import UserError, renamed

NAMES = {
    "motion_module": "AnimateDiff Load Motion Module",
    "motion_loras": "AnimateDiff MotionLoRA",
    "domain_adapter": "AnimateDiff Domain Adapter",
    "sparsectrl": "AnimateDiff Load SparseCtrl",
    "loras": "Load LoRA",
    "controlnet": "Load ControlNet Model",
    "model": "Load Checkpoint",
    "vae": "Load VAE",
    "family": "family",
    "num_frames": "the batch size of the latents",
    "motion_scale": "motion_scale",
}
"""Setting of the library -> node or input that takes it here."""


@contextmanager
def in_host_words() -> Iterator[None]:
    """Raise mistakes of users as ValueErrors that name nodes; the host shows their text at the node."""
    try:
        yield
    except UserError as error:
        raise ValueError(renamed(str(error), NAMES)) from None


def verdict(check: Callable[[], Any], *given: Any) -> bool | str:
    """What a node's `validate_inputs` returns: True, or what is wrong with its inputs.

    given: inputs that `check` needs. One that comes by a link is None before anything runs, and is checked when it is
    there.
    """
    if any(value is None for value in given):
        return True
    try:
        with in_host_words():
            check()
    except (ValueError, OSError) as error:
        return str(error)
    return True
