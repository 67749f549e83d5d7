"""Shape of the clips of one call. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from animatediff.limits import MAX_CLIP_PIXELS, MAX_FRAMES, MAX_PIXELS


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Clips of one call: how many, how long, how large."""

    num_clips: int
    num_frames: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    channels: int
    """Of the latents."""
    factor: int
    """Pixels per latent, each way."""

    @property
    def latents(self) -> tuple[int, int, int, int, int]:
        """(b, c, f, h, w) of the latents."""
        height, width = self.latent_size
        return self.num_clips, self.channels, self.num_frames, height, width

    def enlarged(self, height: int, width: int) -> tuple[int, int, int, int, int]:
        """(b, c, f, h, w) of the latents of the same clips at another size in pixels."""
        return self.num_clips, self.channels, self.num_frames, height // self.factor, width // self.factor

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.height // self.factor, self.width // self.factor


def check_bounds(num_frames: int | None, width: int | None, height: int | None, upscale: float | None = None) -> None:
    """Raise UserError for a clip beyond the limits; None is a value that is not known yet."""
    if num_frames is not None:
        MAX_FRAMES.check(num_frames, f"`num_frames`={num_frames}")
    factor = upscale or 1.0
    size = [larger(side or 8, factor) for side in (width, height)]
    pixels = size[0] * size[1]
    MAX_PIXELS.check(pixels, f"frames of {size[0]} x {size[1]} (`width` x `height`) have {pixels:,} pixels")
    if num_frames is not None:
        whole = pixels * num_frames
        what = f"{num_frames:,} frames (`num_frames`) of {size[0]} x {size[1]} (`width` x `height`)"
        MAX_CLIP_PIXELS.check(whole, f"{what} have {whole:,} pixels")


def larger(side: int, factor: float) -> int:
    """A side in pixels, a multiple of 8, that is about `factor` times as long.

    >>> larger(512, 1.5), larger(88, 1.3)
    (768, 112)
    """
    return max(8, round(side * factor / 8) * 8)
