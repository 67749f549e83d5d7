"""Object, background and motion of clips of the sprite world, recognised from pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from animatediff.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from animatediff.sprites.classifier import Classification, SpriteClassifier


class SpriteWorld:
    """The classifier of the bundled world, loaded once."""

    def __init__(self) -> None:
        from animatediff.sprites.classifier import load_classifier

        self._classifier = load_classifier()

    def classify(self, frames: np.ndarray) -> Classification:
        """Classify a clip: uint8 (f, h, w, 3), square frames of any size. Raises UserError for others."""
        view = self.view()
        for frame in frames:
            view.seen(frame)
        return view.classify()

    def view(self) -> View:
        """A view of a clip whose frames come one after another."""
        return View(self._classifier)


class View:
    """A clip as the classifier sees it, frame by frame."""

    def __init__(self, classifier: SpriteClassifier) -> None:
        self._classifier = classifier
        self._pixels: list[Tensor] = []

    def seen(self, frame: np.ndarray) -> np.ndarray:
        """Add a frame, uint8 (h, w, 3), and return it. Raises UserError unless it is square."""
        import torch

        from animatediff.sprites.world import SIZE

        height, width = frame.shape[:2]
        if height != width:
            raise UserError(f"clips of the sprite world are square, {SIZE}x{SIZE}, and this one is {width}x{height}")
        pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
        if width != SIZE:
            pixels = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
        self._pixels.append(pixels)
        return frame

    def classify(self) -> Classification:
        """The classification of the frames so far."""
        import torch

        from animatediff.sprites.classifier import classify_clip

        return classify_clip(self._classifier, torch.cat(self._pixels))
