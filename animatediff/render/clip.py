"""A rendered clip: its request, its frames as they are decoded, and its notes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from animatediff.render.inputs import Keyframes
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    from animatediff.camera import CameraPath


@dataclass
class Clip:
    """One clip that is sampled; its frames are decoded as they are taken."""

    request: AnimateRequest
    """The request that repeats it: of this clip alone, with its seed and every None filled in."""
    frames: Generator[np.ndarray]
    """Chunks of frames, uint8 (n, h, w, 3), once, and only until the next clip is asked for."""
    keyframes: Keyframes = field(default_factory=Keyframes)
    """Images that it was given, as the model saw them, and the frames that they stand at."""
    notes: list[str] = field(default_factory=list)
    """Choices made for the user, and warnings; complete once the frames are taken."""
    camera: CameraPath | None = None
    """Path of the camera that it follows."""

    def array(self) -> np.ndarray:
        """All frames, uint8 (f, h, w, 3)."""
        chunks = list(self.frames)
        if not chunks:
            raise ValueError("the frames of this clip are gone: take them once, and before the next clip is asked for")
        return np.concatenate(chunks)
