"""Poses of AnimateDiff-Evolved's camera nodes as the lines that AnimateDiff CameraCtrl reads (RealEstate10K's format).

A motion there goes on by the same angle and way from frame to frame, in 16ths of what its name means; its matrices are
from world to camera.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .graph import Link, Node
from .table_seen import INTRINSICS, POSE_NODES

Matrix = list[list[float]]

ANGLE, WAY, BASE = math.pi / 3, 1.5, 16
"""What a motion of strength and speed 1 turns and goes, in so many frames."""
MOTIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "Static": ((0, 0, 0), (0, 0, 0)),
    "Pan Up": ((0, 0, 0), (0, 1, 0)),
    "Pan Down": ((0, 0, 0), (0, -1, 0)),
    "Pan Left": ((0, 0, 0), (1, 0, 0)),
    "Pan Right": ((0, 0, 0), (-1, 0, 0)),
    "Zoom In": ((0, 0, 0), (0, 0, -2)),
    "Zoom Out": ((0, 0, 0), (0, 0, 2)),
    "Roll Clockwise": ((0, 0, -1), (0, 0, 0)),
    "Roll Anticlockwise": ((0, 0, 1), (0, 0, 0)),
    "Tilt Down": ((1, 0, 0), (0, 0, 0)),
    "Tilt Up": ((-1, 0, 0), (0, 0, 0)),
    "Tilt Left": ((0, 1, 0), (0, 0, 0)),
    "Tilt Right": ((0, -1, 0), (0, 0, 0)),
}
"""Name there -> turns round x, y and z, and the way along them, of the world seen from the camera."""
ASPECT = 1280 / 720
"""Width by height of the video that poses are of, where nobody says otherwise."""
MOST_FRAMES = 4096
KINDS = {old.node: {takes.name: takes.default for takes in old.takes if not takes.link} for old in POSE_NODES}
"""Node -> its values, with their defaults."""


class NoPosesError(ValueError):
    """Why lines cannot be made."""


@dataclass(frozen=True)
class Poses:
    """A path of the camera."""

    matrices: Sequence[Matrix]
    """3x4 from world to camera, one a frame."""
    intrinsics: Sequence[tuple[float, float, float, float]]
    """fx, fy, cx, cy of each frame."""
    aspect: float = ASPECT

    def lines(self) -> str:
        """A line a frame: timestamp, intrinsics, two zeros, matrix."""
        rows = [
            [0, *inside, 0, 0, *(value for row in matrix for value in row)]
            for matrix, inside in zip(self.matrices, self.intrinsics, strict=True)
        ]
        return "\n".join(" ".join(f"{value + 0.0:.9g}" for value in row) for row in rows)

    def then(self, other: Poses) -> Poses:
        """These, and the others from the last one of these on."""
        if not math.isclose(self.aspect, other.aspect):
            raise NoPosesError("joins poses of videos of different shapes")
        end = self.matrices[-1]
        joined = [_after(matrix, end) for matrix in other.matrices]
        return replace(self, matrices=[*self.matrices, *joined], intrinsics=[*self.intrinsics, *other.intrinsics])


def poses_of(node: Node, behind: Callable[[Any], Node | None]) -> Poses:
    """The poses of a node of POSE_NODES. behind: the node behind a link.

    Raises NoPosesError, with the reason, where they depend on what is not in the workflow.
    """
    if node.kind not in KINDS:
        raise NoPosesError(f"takes poses of {node.kind}, which are not in the workflow")
    values = {name: node.inputs.get(name, default) for name, default in KINDS[node.kind].items()}
    if any(isinstance(value, Link) for value in values.values()):
        raise NoPosesError("has values that other nodes make")

    def before(name: str) -> Poses | None:
        value = node.inputs.get(name)
        found = behind(value) if isinstance(value, Link) else None
        return None if found is None else poses_of(found, behind)

    try:
        return _poses(node.kind, values, before)
    except (TypeError, ValueError, OverflowError) as error:
        raise error if isinstance(error, NoPosesError) else NoPosesError("has values that are no numbers") from None


def _poses(kind: str, values: Mapping[str, Any], before: Callable[[str], Poses | None]) -> Poses:
    if kind == "ADE_CameraManualPoseAppend":
        first, last = before("poses_first"), before("poses_last")
        if first is None or last is None:
            raise NoPosesError("joins poses, and has not two")
        return first.then(last)
    if kind.startswith("ADE_Replace"):
        if (given := before("poses")) is None:
            raise NoPosesError("has no poses")
        if kind == "ADE_ReplaceOriginalPoseAspectRatio":
            return replace(given, aspect=float(values["orig_pose_width"]) / max(1, float(values["orig_pose_height"])))
        inside = tuple(float(values[name]) for name in ("fx", "fy", "cx", "cy"))
        return replace(given, intrinsics=[inside] * len(given.matrices))
    names = [name for name in values if name.startswith("motion_type")]
    strengths = [float(values.get(name.replace("motion_type", "strength"), 1.0)) for name in names]
    if unknown := [values[name] for name in names if values[name] not in MOTIONS]:
        raise NoPosesError(f"has a motion that is not known here ({str(unknown[0])[:40]})")
    found = _moved([MOTIONS[values[name]] for name in names], strengths, values)
    earlier = before("prev_poses")
    return found if earlier is None else earlier.then(found)


def _moved(motions: Sequence[Any], strengths: Sequence[float], values: Mapping[str, Any]) -> Poses:
    """Motions that are done at the same time."""
    turn, way = (
        [
            sum(strength * motion[part][axis] for strength, motion in zip(strengths, motions, strict=True))
            for axis in range(3)
        ]
        for part in (0, 1)
    )
    num_frames, speed = int(values["frame_length"]), float(values["speed"])
    if not 1 <= num_frames <= MOST_FRAMES:
        raise NoPosesError(f"has {num_frames} frames")
    matrices = []
    for frame in range(num_frames):
        done = speed * frame / BASE
        rows = _rotation([done * ANGLE * angle for angle in turn])
        matrices.append([[*row, done * WAY * go] for row, go in zip(rows, way, strict=True)])
    return Poses(matrices, [INTRINSICS] * num_frames)


def _rotation(angles: Sequence[float]) -> Matrix:
    """Turn round x, then y, then z."""
    found: Matrix = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    for axis, angle in enumerate(angles):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        cos, sin = math.cos(angle), math.sin(angle)
        first, second = found[one], found[other]
        found[one] = [cos * a - sin * b for a, b in zip(first, second, strict=True)]
        found[other] = [sin * a + cos * b for a, b in zip(first, second, strict=True)]
    return found


def _after(matrix: Matrix, end: Matrix) -> Matrix:
    """World to camera by `end` and then by `matrix`, 3x4 each."""
    return [
        [sum(row[k] * end[k][column] for k in range(3)) + (row[3] if column == 3 else 0.0) for column in range(4)]
        for row in matrix
    ]
