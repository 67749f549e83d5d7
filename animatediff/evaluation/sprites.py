"""What clips of the sprite world show: object, background and motion, recognised from pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from animatediff.errors import UserError

if TYPE_CHECKING:
    from animatediff.sprites.classifier import Reading


class SpriteWorld:
    """The reader of the bundled world, loaded once."""

    def __init__(self) -> None:
        from animatediff.sprites.classifier import load_reader

        self._reader = load_reader()

    def read(self, frames: np.ndarray) -> Reading:
        """Read a clip: uint8 (f, h, w, 3), square frames of any size. Raises UserError for others."""
        import torch

        from animatediff.sprites.classifier import read_clip
        from animatediff.sprites.world import SIZE

        height, width = frames.shape[1:3]
        if height != width:
            raise UserError(f"clips of the sprite world are square, {SIZE}x{SIZE}, and this one is {width}x{height}")
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        if width != SIZE:
            pixels = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        return read_clip(self._reader, pixels)
