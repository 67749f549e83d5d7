"""Shape of the clips of one call. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


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

    @property
    def latent_size(self) -> tuple[int, int]:
        """(h, w) of the latents."""
        return self.height // self.factor, self.width // self.factor


def larger(side: int, factor: float) -> int:
    """A side in pixels, a multiple of 8, that is about `factor` times as long.

    >>> larger(512, 1.5), larger(88, 1.3)
    (768, 112)
    """
    return max(8, round(side * factor / 8) * 8)
