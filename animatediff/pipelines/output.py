"""What the pipeline tells: its defaults, its progress, its frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from animatediff.errors import Cancelled


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a call takes where it is not told otherwise, by the loaded base model and motion module."""

    num_frames: int
    num_inference_steps: int
    guidance_scale: float
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    fps: float
    """Frames per second at which the motion has its natural speed."""
    window: int
    """Frames that the motion module sees at once in longer clips."""


@dataclass(frozen=True)
class Progress:
    """A step that has been made."""

    phase: str
    """`"encode"` (frames of a video), `"denoise"` (steps of the sampler) or `"decode"` (frames)."""
    step: int
    """Steps made, from 1 to `total`."""
    total: int


@dataclass(frozen=True)
class Listener:
    """Who wants to know how far a call is, and may end it."""

    on_progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None

    def hear(self, phase: str, step: int, total: int) -> None:
        """Raises Cancelled if the call is to end."""
        if self.on_progress is not None:
            self.on_progress(Progress(phase, step, total))
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"cancelled after {phase} {step} of {total}")

    def of(self, phase: str) -> Callable[[int, int], None]:
        """`hear` of one phase: (step, total)."""
        return partial(self.hear, phase)


@dataclass
class AnimateDiffOutput:
    """Frames as in diffusers.

    `frames` is a list of lists of PIL images (`"pil"`), an array (b, f, h, w, c) in 0..1 (`"np"`), a tensor
    (b, f, c, h, w) in 0..1 (`"pt"`), or latents (b, c, f, h, w) (`"latent"`).
    """

    frames: Any
