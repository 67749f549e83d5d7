"""Output of the pipeline: defaults, progress, frames."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from animatediff.errors import Cancelled

if TYPE_CHECKING:
    from torch import Tensor

    from animatediff.pipelines.saves import Saves


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """Defaults of a call, by the loaded base model and motion module."""

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
    """0 where frames come without end."""
    latents: Tensor | None = None
    """While denoising: the sampler's estimate (b, c, f, h, w) of the clean latents where it gives one, else the latents
    of the step; what a preview shows."""


@dataclass(frozen=True)
class Callbacks:
    """Progress callback and cancellation of a call, and its saved state."""

    on_progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    saves: Saves | None = None
    """Where the state is saved, and what is there to go on with."""

    def inside(self, phase: str, **more: Any) -> Callbacks:
        """The callbacks of a part of the call, whose state stands inside of the call's, with `more` beside it."""
        return replace(self, saves=None if self.saves is None else self.saves.inside(phase, **more))

    def step(self, phase: str, step: int, total: int, latents: Tensor | None = None) -> None:
        """Report a step that was made. Raises Cancelled if the call is to end."""
        if self.on_progress is not None:
            self.on_progress(Progress(phase, step, total, latents))
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"cancelled after {phase} {step} of {total}")

    def of(self, phase: str) -> Callable[[int, int], None]:
        """Report steps of one phase: (step, total)."""
        return partial(self.step, phase)


@dataclass
class AnimateDiffOutput:
    """Frames as in diffusers.

    `frames` is a list of lists of PIL images (`"pil"`), an array (b, f, h, w, c) in 0..1 (`"np"`), a tensor
    (b, f, c, h, w) in 0..1 (`"pt"`), or latents (b, c, f, h, w) (`"latent"`).
    """

    frames: Any

    def __getitem__(self, place: int | str) -> Any:
        """`out[0]` and `out["frames"]`, as of diffusers' outputs."""
        return self.frames if place == "frames" else (self.frames,)[place]  # pyright: ignore

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frames,))

    def __len__(self) -> int:
        return 1

    def to_tuple(self) -> tuple[Any]:
        """The frames alone in a tuple."""
        return (self.frames,)


def gathered(chunks: Iterable[Tensor], num_clips: int, output_type: str) -> Any:
    """Frames as `output_type` from chunks (n, 3, H, W) in 0..1 of all clips in order.

    Each chunk leaves the device as soon as it is decoded, as bytes for `"pil"`.
    """
    import numpy as np
    import torch
    from einops import rearrange

    from animatediff.pipelines.vae import to_bytes

    images = torch.cat([to_bytes(chunk) if output_type == "pil" else chunk.float().cpu() for chunk in chunks])
    if output_type == "pil":
        from PIL import Image

        frames = [Image.fromarray(frame) for frame in images.numpy()]
        per_clip = len(frames) // num_clips
        return [frames[i : i + per_clip] for i in range(0, len(frames), per_clip)]
    clips = rearrange(images, "(b f) c h w -> b f c h w", b=num_clips)
    if output_type == "pt":
        return clips
    return np.ascontiguousarray(rearrange(clips, "b f c h w -> b f h w c").numpy())
