"""What a user gives as the path of the camera, in any of its forms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.camera.moves import Move, is_file, is_video, parse_moves
from animatediff.camera.path import ASPECT, CameraPath, check_shape, path_of_moves, read_poses
from animatediff.camera.video import path_of_video
from animatediff.errors import UserError

FEWEST_FRAMES = 2


def camera_path(given: Any, num_frames: int | None = None, *, aspect: float | None = None) -> CameraPath:
    """The path that a text of moves, a file of poses, a video, a tensor, or moves mean, for a clip of `num_frames`.

    given: `zoom-in:0.5, pan-left:0.2`; a file in RealEstate10K's format; a video, or a folder of images, whose camera
    is followed (`path_of_video`); matrices (f, 3 or 4, 4) from world to camera; or a `CameraPath`. aspect: of the video
    of a file or of matrices. Moves go over as many frames as there are, a video may have more; all others must have so
    many. Raises UserError for anything else.
    """
    check_shape(num_frames, aspect)
    if isinstance(given, str | Path) and is_video(given):
        return _checked(path_of_video(given, num_frames, aspect=aspect), num_frames, f"{given}: ")
    if isinstance(given, Path) or (isinstance(given, str) and is_file(given)):
        path = read_poses(given, aspect=aspect or ASPECT)
        return _checked(path, num_frames, f"{given}: ")
    if isinstance(given, str):
        given = parse_moves(given)
    if isinstance(given, Move):
        given = (given,)
    if isinstance(given, Sequence) and given and all(isinstance(one, Move) for one in given):
        return _checked(path_of_moves(given, num_frames or 16), None, "")
    if isinstance(given, CameraPath):
        return _checked(given, num_frames, "")
    matrices = _matrices(given)
    return _checked(CameraPath.of_world_to_camera(matrices, aspect=aspect or ASPECT), num_frames, "")


def _matrices(given: Any) -> Tensor:
    try:
        matrices = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrices = torch.empty(0)
    if matrices.ndim != 3 or tuple(matrices.shape[1:]) not in ((3, 4), (4, 4)) or not matrices.isfinite().all():
        shape = f" of shape {tuple(given.shape)}" if isinstance(given, Tensor) else ""
        raise UserError(
            "`camera` takes moves such as zoom-in:0.5, a file of poses, or matrices (f, 3 or 4, 4) from world to "
            f"camera, got a {type(given).__name__}{shape}"
        )
    return matrices


def _checked(path: CameraPath, num_frames: int | None, label: str) -> CameraPath:
    if num_frames is not None and len(path) != num_frames:
        raise UserError(
            f"{label}{len(path)} camera poses for a clip of {num_frames} frames; give one a frame, or leave "
            "`num_frames` out"
        )
    if len(path) < FEWEST_FRAMES:
        raise UserError(
            f"{label}a camera moves over {FEWEST_FRAMES} frames or more, and this clip has 1 (`num_frames`)"
        )
    return path
