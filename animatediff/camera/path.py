"""The path of a camera: its pose at each frame, from named moves or a file, and its rays as CameraCtrl takes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from animatediff.camera.moves import ORBIT_RADIUS, Extent, Move
from animatediff.errors import UserError
from animatediff.files import read_text
from animatediff.ranges import Range

ASPECT = 16 / 9
"""Width by height of the videos that RealEstate10K's intrinsics are fractions of."""
ASPECTS = Range(gt=0, le=100, unit="times the height")
"""Of videos."""
INTRINSICS = (0.474812461, 0.844111024, 0.5, 0.5)
"""fx, fy, cx, cy of named moves and of poses without any: those of RealEstate10K's first test clip, 93 degrees wide."""
NUMBERS = 19
"""In a line: a timestamp, four intrinsics, two zeros, and a 3x4 matrix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraPath:
    """Poses of a camera, one a frame."""

    to_world: Tensor
    """(f, 4, 4) float64: camera to world, each relative to the first, which is the identity."""
    intrinsics: Tensor
    """(f, 4) float64: fx, fy, cx, cy as fractions of the width and height of the video they were measured in."""
    aspect: float = ASPECT
    """Width by height of that video."""

    @classmethod
    def of_world_to_camera(
        cls, matrices: Tensor, intrinsics: Tensor | None = None, aspect: float = ASPECT
    ) -> CameraPath:
        """The path of matrices (f, 3 or 4, 4) from world to camera, as RealEstate10K states them.

        Raises UserError where they cannot be inverted.
        """
        num_frames = len(matrices)
        whole = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
        whole[:, :3] = matrices[:, :3].to("cpu", torch.float64)
        try:
            to_world = whole[0] @ torch.linalg.inv(whole)
        except RuntimeError:  # torch's error for singular matrices
            raise UserError("`camera`: a pose is no rotation and translation (its matrix has no inverse)") from None
        to_world[0] = torch.eye(4, dtype=torch.float64)
        if intrinsics is None:
            intrinsics = torch.tensor([INTRINSICS], dtype=torch.float64).repeat(num_frames, 1)
        return cls(to_world=to_world, intrinsics=intrinsics.to("cpu", torch.float64), aspect=aspect)

    def __len__(self) -> int:
        return len(self.to_world)

    @property
    def positions(self) -> Tensor:
        """(f, 3): where the camera stands at each frame, seen from the first."""
        return self.to_world[:, :3, 3]

    @property
    def directions(self) -> Tensor:
        """(f, 3): where it looks, of length 1."""
        return self.to_world[:, :3, 2]

    def in_pixels(self, height: int, width: int) -> Tensor:
        """Intrinsics (f, 4) in pixels of a clip that is the middle of the video, cut to its shape; float32."""
        fx, fy, cx, cy = self.intrinsics.unbind(-1)
        if self.aspect > width / height:
            fx = fx * (height * self.aspect) / width
        else:
            fy = fy * (width / self.aspect) / height
        return torch.stack([fx * width, fy * height, cx * width, cy * height], dim=-1).float()

    def rays(self, height: int, width: int, frames: Sequence[int] | None = None) -> Tensor:
        """Plücker rays (1, 6, f, height, width) through the middle of each pixel: moment, then direction; float32.

        frames: those of the path that are wanted; None is all.
        """
        chosen = list(range(len(self)) if frames is None else frames)
        fx, fy, cx, cy = self.in_pixels(height, width)[chosen, :, None, None].unbind(1)  # (f, 1, 1)
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        directions = torch.stack(torch.broadcast_tensors((x - cx) / fx, (y - cy) / fy, torch.ones(())), dim=-1)
        directions = directions / directions.norm(dim=-1, keepdim=True)  # (f, h, w, 3)
        poses = self.to_world[chosen].float()
        turned = torch.einsum("fhwc,fdc->fhwd", directions, poses[:, :3, :3])
        origins = poses[:, None, None, :3, 3].expand_as(turned)
        moments = torch.linalg.cross(origins, turned, dim=-1)  # torch.cross without `dim` takes the frames where 3
        return torch.cat([moments, turned], dim=-1).permute(3, 0, 1, 2)[None].contiguous()

    def __str__(self) -> str:
        x, y, z = self.positions[-1].tolist()
        ways = _named((x, -y, z), (("right", "left"), ("up", "down"), ("forward", "back")), "{:.2f} {}", 0.005)
        ahead, right = self.directions[-1], self.to_world[-1, :2, 0]
        yaw = math.degrees(math.atan2(ahead[0], ahead[2]))
        pitch = math.degrees(math.asin(max(-1.0, min(1.0, -float(ahead[1])))))
        turns = _named((yaw, pitch), (("right", "left"), ("up", "down")), "{:.0f} degrees {}", 0.5)
        rolled = math.degrees(math.atan2(right[1], right[0]))
        roll = _named((rolled,), (("clockwise", "anticlockwise"),), "{:.0f} degrees {}", 0.5)
        parts = [
            f"at the end {ways}" if ways else "at the end where it began",
            f"turned {turns}" if turns else "",
            f"rolled {roll}" if roll else "",
        ]
        return ", ".join([f"{len(self)} poses", *filter(None, parts)])


def _named(values: Sequence[float], sides: Sequence[tuple[str, str]], words: str, least: float) -> str:
    """Numbers with the names of their sides, of those above 0 and below; what is less than `least` is left out."""
    pairs = zip(values, sides, strict=True)
    return " and ".join(words.format(abs(value), side[value < 0]) for value, side in pairs if abs(value) >= least)


def check_shape(num_frames: int | None, aspect: float | None) -> None:
    """Raise UserError for a number of frames that is not above 0, and a width by height that no video has."""
    if num_frames is not None:
        Range(ge=1).check("`num_frames`", num_frames)
    if aspect is not None:
        ASPECTS.check("`aspect`", aspect)


def path_of_moves(moves: Sequence[Move], num_frames: int) -> CameraPath:
    """The path of named moves that are done at the same time, over a clip of `num_frames`."""
    poses = torch.stack([_pose(moves, frame / max(1, num_frames - 1)) for frame in range(num_frames)])
    intrinsics = torch.tensor([INTRINSICS], dtype=torch.float64).repeat(num_frames, 1)
    return CameraPath(to_world=poses, intrinsics=intrinsics)


def _pose(moves: Sequence[Move], part: float) -> Tensor:
    """Camera to world (4, 4) where the moves are done to this part, 0 to 1.

    Turns of all moves add up, and so do the ways that they go, along the axes of the first frame.
    """
    sums = Extent(*(sum(values) for values in zip(*(move.at(part) for move in moves), strict=True)))
    radians = {name: math.radians(value) for name, value in sums._asdict().items()}
    around = turn(-radians["orbit"], radians["rise"] * -1)
    pivot = torch.tensor([0.0, 0.0, ORBIT_RADIUS], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = around @ turn(radians["yaw"], radians["pitch"], radians["roll"])
    pose[:3, 3] = pivot - around @ pivot + torch.tensor([sums.x, sums.y, sums.z], dtype=torch.float64)
    return pose


def turn(yaw: float, pitch: float, roll: float = 0.0) -> Tensor:
    """Rotation (3, 3) of a camera that turns right, then up, then clockwise, by so many radians."""
    (a, b), (c, d), (e, f) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    right = torch.tensor([[a, 0.0, b], [0.0, 1.0, 0.0], [-b, 0.0, a]], dtype=torch.float64)
    up = torch.tensor([[1.0, 0.0, 0.0], [0.0, c, -d], [0.0, d, c]], dtype=torch.float64)
    clockwise = torch.tensor([[e, -f, 0.0], [f, e, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return right @ up @ clockwise


def read_poses(path: str | Path, *, aspect: float = ASPECT) -> CameraPath:
    """The path in a file in RealEstate10K's format.

    A line that is no pose, then a line a frame: timestamp, fx, fy, cx, cy as fractions of width and height, two zeros,
    and the 3x4 matrix from world to camera row by row. Raises UserError for anything else.
    """
    return parse_poses(read_text(Path(path)), aspect=aspect, label=str(path))


def parse_poses(text: str, *, aspect: float = ASPECT, label: str = "`camera`") -> CameraPath:
    """The path in the lines of such a file. label: before messages. Raises UserError as `read_poses`."""
    lines = [(number, line.split()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if lines and not _is_pose(lines[0][1]):
        lines = lines[1:]
    if not lines:
        raise UserError(f"{label}: no poses in it; expected {NUMBERS} numbers a frame behind a first line")
    rows: list[list[float]] = []
    for number, words in lines:
        if len(words) != NUMBERS:
            raise UserError(
                f"{label}: line {number} has {len(words)} numbers, expected {NUMBERS}: timestamp, fx, fy, cx, cy, two "
                "zeros, and a 3x4 matrix from world to camera"
            )
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            rows.append([math.nan])
        if not all(map(math.isfinite, rows[-1])):
            raise UserError(f"{label}: line {number} holds something that is no number; expected {NUMBERS} numbers")
        fx, fy, cx, cy = rows[-1][1:5]
        if min(fx, fy) <= 0 or max(fx, fy, cx, cy) > 20:
            raise UserError(
                f"{label}: line {number}: fx, fy, cx, cy are fractions of width and height, such as 0.5, got "
                f"{fx:g}, {fy:g}, {cx:g}, {cy:g}"
            )
    table = torch.tensor(rows, dtype=torch.float64)
    try:
        return CameraPath.of_world_to_camera(table[:, 7:].view(-1, 3, 4), table[:, 1:5], aspect)
    except UserError as error:
        raise UserError(f"{label}: {error}") from None


def _is_pose(words: Sequence[str]) -> bool:
    """Whether a line may be one of poses: a link, which stands first in these files, is one word or more that are no
    numbers."""
    try:
        float(words[0])
    except ValueError:
        return False
    return len(words) > 1
