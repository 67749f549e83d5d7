"""Measures made on videos: camera motion, stability, amount of motion, loop seam, and what the sprite world shows."""

from animatediff.camera.steps import Camera
from animatediff.evaluation.measure import Measurement, measure
from animatediff.evaluation.moves import Move, camera_move, camera_moves
from animatediff.evaluation.report import Report, evaluate_file
from animatediff.evaluation.sprites import SpriteWorld

__all__ = [
    "Camera",
    "Measurement",
    "Move",
    "Report",
    "SpriteWorld",
    "camera_move",
    "camera_moves",
    "evaluate_file",
    "measure",
]
