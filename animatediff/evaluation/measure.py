"""Everything that is measured on one clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from animatediff.camera.similarity import track
from animatediff.camera.steps import Camera, mean_camera, read_camera
from animatediff.errors import UserError
from animatediff.evaluation.stability import mean_length, warp_error
from animatediff.media.flow import AnalysedImage, Tracker, transform_flow
from animatediff.media.seam import LoopSeam, frame_difference

OnStep = Callable[[int, int], None]
"""Called with the number of steps measured and the number of all."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured on a clip. "Per frame" is per step from a frame to the next."""

    num_frames: int
    width: int
    height: int
    camera: Camera
    """Mean of `steps`."""
    steps: tuple[Camera, ...]
    """The camera from each frame to the next: num_frames - 1."""
    motion: float
    """How far the texture moves, pixels per frame: the mean length of the flow."""
    own_motion: float
    """The same once the camera's movement is taken away: what moves in the scene."""
    warp_error: float
    """Percent of full brightness by which a frame differs from the next one warped back to it, where the flow is
    consistent: flicker and shapes that come and go. 0 is steady."""
    frame_difference: float
    """Percent of full brightness by which neighbours differ, nothing warped."""
    loop_seam: float
    """Difference of the last and the first frame over `frame_difference`: 1 is a seamless loop, more is a jump."""

    @property
    def side(self) -> float:
        """Side of the square that has the frame's area, in pixels."""
        return (self.width * self.height) ** 0.5

    @property
    def pan_percent(self) -> float:
        """`camera.pan` in percent of the frame's width."""
        return 100 * self.camera.pan / self.width

    @property
    def tilt_percent(self) -> float:
        """`camera.tilt` in percent of the frame's height."""
        return 100 * self.camera.tilt / self.height

    @property
    def motion_percent(self) -> float:
        """`motion` in percent of the frame's side."""
        return 100 * self.motion / self.side

    @property
    def own_motion_percent(self) -> float:
        """`own_motion` in percent of the frame's side."""
        return 100 * self.own_motion / self.side

    def as_dict(self) -> dict[str, Any]:
        """All figures under their names, for JSON."""
        derived = ("pan_percent", "tilt_percent", "motion_percent", "own_motion_percent")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}


def measure(frames: np.ndarray, on_step: OnStep | None = None) -> Measurement:
    """Measure a clip: uint8 (f, h, w, 3), at least two frames. Raises UserError for fewer, or without OpenCV."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (f, h, w, 3), got {frames.dtype} {frames.shape}")
    return measure_each(iter(frames), len(frames), on_step)


def measure_each(frames: Iterator[np.ndarray], num_frames: int, on_step: OnStep | None = None) -> Measurement:
    """The same for uint8 frames (h, w, 3) that come one after another; two are in memory at a time."""
    frame = next(frames, None)  # a damaged file is called that, not short
    if frame is None or num_frames < 2:
        raise UserError(f"{num_frames} frame{'' if num_frames == 1 else 's'}: measuring motion takes at least 2")
    tracker, seam = Tracker(), LoopSeam()
    steps, motions, own_motions, warp_errors, differences = [], [], [], [], []
    height, width = frame.shape[:2]
    second = AnalysedImage.of(frame)
    seam.add(frame[None])
    for i, after in enumerate(frames):
        before, frame = frame, after
        seam.add(frame[None])
        first, second = second, AnalysedImage.of(frame)
        matrix, flow, valid = track(tracker, first, second)
        steps.append(read_camera(matrix, first, flow, valid))
        own = flow - transform_flow(matrix, *valid.shape)
        motions.append(mean_length(flow, first.tracked * valid) / first.scale)
        own_motions.append(mean_length(own, first.tracked * valid) / first.scale)
        warp_errors.append(warp_error(before, frame, flow, valid))
        differences.append(frame_difference(before, frame))
        if on_step is not None:
            on_step(i + 1, num_frames - 1)
    return Measurement(
        num_frames=num_frames,
        width=width,
        height=height,
        camera=mean_camera(tuple(steps)),
        steps=tuple(steps),
        motion=float(np.mean(motions)),
        own_motion=float(np.mean(own_motions)),
        warp_error=float(np.mean(warp_errors)),
        frame_difference=float(np.mean(differences)),
        loop_seam=seam.value(),
    )
