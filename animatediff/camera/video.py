"""The path of the camera in a video, from how its frames shift, grow and turn."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from animatediff.camera.path import INTRINSICS, CameraPath, check_shape, turn
from animatediff.camera.plane import DISTANCE
from animatediff.camera.similarity import can_be_tracked, track
from animatediff.camera.steps import CUT, Camera, mean_camera, read_camera
from animatediff.media.flow import ANALYSED_SIDE, AnalysedImage, Tracker
from animatediff.media.source import Source, open_source

logger = logging.getLogger(__name__)

STILL = 0.1
"""Movement of a step, in percent of the frame's side, below which it is none worth a warning."""


def path_of_video(
    given: str | Path | Source | Sequence[Any],
    num_frames: int | None = None,
    *,
    fps: float | None = None,
    start: float = 0.0,
    duration: float | None = None,
    aspect: float | None = None,
    name: str = "camera",
) -> CameraPath:
    """The path of a video, an animated image, a folder of images, or frames from memory; it begins at the first frame.

    Shift is taken for a turn of the camera, growth for a way forward, in a scene `DISTANCE` lengths away: what a
    sideways way looks like in depth is not measured. Across a cut, and where there is nothing to see the movement by,
    the camera stands. Intrinsics are those of named moves, for the shape of the frames.
    From memory: PIL images, arrays (h, w, 3) or tensors (3, h, w), two or more, or stacked; `name` is what messages
    call them. num_frames: the first ones, None is all; fps, start and duration (seconds) choose a part, as of
    `--video-fps`; aspect: width by height of the video, None is that of the frames.
    Raises UserError for a file or frames that are none, fewer frames than `num_frames` or than two, an fps or aspect
    that is not above 0, or without OpenCV.
    """
    check_shape(num_frames, aspect)
    source = given
    if not isinstance(source, Source):
        source = open_source(source, fps=fps, start=start, duration=duration, setting=name)
    width, height = source.size
    smaller = min(1.0, ANALYSED_SIDE / math.sqrt(width * height))  # more is not looked at
    size = max(2, round(width * smaller)), max(2, round(height * smaller))
    frames = source.read(num_frames or len(source.indices), *size, "stretch")
    return _path_of_frames(frames, aspect or width / height, str(source.path))


def _path_of_frames(frames: np.ndarray, aspect: float, name: str) -> CameraPath:
    """The path of uint8 frames (f, h, w, 3), two or more. name: of the video, in warnings."""
    height, width = frames.shape[1:3]
    tracker, steps, seen = Tracker(), [], False
    for first, second in pairwise(map(AnalysedImage.of, frames)):
        seen = seen or can_be_tracked(first)
        matrix, flow, valid = track(tracker, first, second)
        steps.append(read_camera(matrix, first, flow, valid))
    intrinsics = torch.tensor([INTRINSICS[1] / aspect, *INTRINSICS[1:]], dtype=torch.float64)
    slopes = 1 / intrinsics[:2]  # of the rays from one edge to the other
    cuts = _cuts(steps)
    poses = [torch.eye(4, dtype=torch.float64)]
    for index, step in enumerate(steps):
        poses.append(poses[-1] if index in cuts else poses[-1] @ _pose(step, (width, height), slopes))
    if not seen:
        logger.warning("%s: its frames show nothing to see a movement by; the camera is taken to stand", name)
    _warn(name, steps, cuts, (width * height) ** 0.5)
    return CameraPath(to_world=torch.stack(poses), intrinsics=intrinsics.repeat(len(poses), 1), aspect=aspect)


def _pose(step: Camera, size: tuple[int, int], slopes: Tensor) -> Tensor:
    """Pose (4, 4) after a step, seen from the one before it."""
    grown = 1 + step.zoom / 100
    right = float(step.pan / size[0] * slopes[0]) / grown
    up = float(step.tilt / size[1] * slopes[1]) / grown
    pose = torch.eye(4, dtype=torch.float64)
    yaw = math.atan(right)
    pose[:3, :3] = turn(yaw, math.atan(up * math.cos(yaw)), -math.radians(step.roll))
    pose[2, 3] = DISTANCE * math.log(grown)
    return pose


def _cuts(steps: list[Camera]) -> set[int]:
    """Steps across which the picture is another one."""
    agreements = [step.agreement for step in steps]
    return {index for index, value in enumerate(agreements) if value < CUT * np.median(agreements)}


def _warn(name: str, steps: list[Camera], cuts: set[int], side: float) -> None:
    if cuts:
        frames = ", ".join(str(index + 1) for index in sorted(cuts)[:5]) + (", ..." if len(cuts) > 5 else "")
        logger.warning("%s: cut before frame %s; the camera is taken to stand there", name, frames)
    moving = [step for step in steps if 100 * math.hypot(step.pan, step.tilt) > STILL * side or abs(step.zoom) > STILL]
    if moving and mean_camera(tuple(moving)).is_unsure:
        logger.warning(
            "%s: the edges of its frames show little of the movement; it may be one of things, not of the camera", name
        )
