"""Camera poses: named moves, pose files and videos made into paths, and paths into Plücker rays.

Axes are those of RealEstate10K (and OpenCV): x to the right, y down, z forward. Lengths are in the unit of the scene,
in which training clips moved by one to three over 16 frames.

>>> from animatediff.camera import camera_path
>>> path = camera_path("zoom-in:0.5, pan-left:0.2", num_frames=3)
>>> path.positions.round(decimals=3).tolist()
[[0.0, 0.0, 0.0], [0.0, 0.0, 0.5], [0.0, 0.0, 1.0]]
>>> path.rays(64, 96).shape  # (1, 6, f, h, w)
torch.Size([1, 6, 3, 64, 96])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from animatediff.camera.moves import EASINGS, MOVES, Move, is_file, is_video, parse_moves

if TYPE_CHECKING:
    from animatediff.camera.given import camera_path
    from animatediff.camera.path import ASPECT, CameraPath, parse_poses, read_poses
    from animatediff.camera.video import path_of_video

__all__ = [
    "ASPECT",
    "EASINGS",
    "MOVES",
    "CameraPath",
    "Move",
    "camera_path",
    "is_file",
    "is_video",
    "parse_moves",
    "parse_poses",
    "path_of_video",
    "read_poses",
]


def __getattr__(name: str) -> Any:
    """What needs torch, imported when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    places = {"camera_path": "given", "path_of_video": "video"}
    return getattr(import_module(f"animatediff.camera.{places.get(name, 'path')}"), name)
