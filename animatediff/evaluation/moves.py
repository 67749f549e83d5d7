"""Which of the eight camera moves of the published MotionLoRAs a clip shows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from animatediff.evaluation.measure import Measurement

Kind = Literal["pan", "tilt", "zoom", "roll"]

NAMES: dict[tuple[Kind, int], str] = {
    ("pan", 1): "PanRight",
    ("pan", -1): "PanLeft",
    ("tilt", 1): "TiltUp",
    ("tilt", -1): "TiltDown",
    ("zoom", 1): "ZoomIn",
    ("zoom", -1): "ZoomOut",
    ("roll", 1): "RollingClockwise",
    ("roll", -1): "RollingAnticlockwise",
}
"""The published names, by kind and sign."""

MIN_STRENGTH = 0.2
"""A weaker movement is none: 2 pixels of 64, or 8 of 256, over 16 frames."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One camera move of a clip."""

    kind: Kind
    sign: int
    """1 or -1, as the signs of `Camera`."""
    strength: float
    """How far it moves a pixel per frame (root mean square over the frame), in percent of the frame's side.

    The side of a frame that is no square is the root of its area. This makes the four kinds comparable.
    """

    @property
    def name(self) -> str:
        """As the published MotionLoRA files are called: PanLeft, ZoomIn, RollingClockwise, ..."""
        return NAMES[self.kind, self.sign]


def camera_moves(measurement: Measurement, min_strength: float = MIN_STRENGTH) -> list[Move]:
    """All moves of at least this strength, strongest first."""
    camera, side = measurement.camera, measurement.side
    # distance of a pixel from the middle, root mean square over the frame, in sides
    radius = ((measurement.width**2 + measurement.height**2) / 12) ** 0.5 / side
    amounts: dict[Kind, float] = {
        "pan": 100 * camera.pan / side,
        "tilt": 100 * camera.tilt / side,
        "zoom": camera.zoom * radius,
        "roll": 100 * math.radians(camera.roll) * radius,
    }
    moves = [Move(kind=kind, sign=1 if x > 0 else -1, strength=abs(x)) for kind, x in amounts.items()]
    return sorted((m for m in moves if m.strength >= min_strength), key=lambda m: -m.strength)


def camera_move(measurement: Measurement, min_strength: float = MIN_STRENGTH) -> Move | None:
    """The strongest move of a clip, or None where the camera stands still."""
    return next(iter(camera_moves(measurement, min_strength)), None)
