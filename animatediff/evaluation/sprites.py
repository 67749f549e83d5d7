"""Object, background and motion of clips of the sprite world, recognised from pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from animatediff.errors import UserError

if TYPE_CHECKING:
    from animatediff.sprites.classifier import Classification


class SpriteWorld:
    """The classifier of the bundled world, loaded once."""

    def __init__(self) -> None:
        from animatediff.sprites.classifier import load_classifier

        self._classifier = load_classifier()

    def classify(self, frames: np.ndarray) -> Classification:
        """Classify a clip: uint8 (f, h, w, 3), square frames of any size. Raises UserError for others."""
        import torch

        from animatediff.sprites.classifier import classify_clip
        from animatediff.sprites.world import SIZE

        height, width = frames.shape[1:3]
        if height != width:
            raise UserError(f"clips of the sprite world are square, {SIZE}x{SIZE}, and this one is {width}x{height}")
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        if width != SIZE:
            pixels = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        return classify_clip(self._classifier, pixels)
