"""CameraCtrl: the path that the camera takes, merged into the motion modules."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from animatediff.camera import ASPECT, CameraPath, camera_path, is_file, parse_moves, parse_poses
from animatediff.errors import UserError
from animatediff.models.camera import CameraCtrl
from animatediff.sampling.camera import CameraPoses
from animatediff.weights.cameractrl import empty_cameractrl, load_cameractrl

from .conditions import Call, Condition
from .folders import input_file, size_and_date
from .layers import Holder, in_host, weight_dtype

if TYPE_CHECKING:
    from .motion import Motion


@dataclass(frozen=True, kw_only=True)
class Control:
    """A loaded CameraCtrl model: its weights as a model of the host."""

    patcher: ModelPatcher
    path: Path

    @property
    def network(self) -> CameraCtrl:
        """The pose encoder and merge layers, whose weights are the host's to move."""
        return self.patcher.model.network


def check_control(path: Path) -> None:
    """Raise UserError for a file that `load_control` would refuse; reads its header alone."""
    empty_cameractrl(path)


def load_control(path: Path) -> Control:
    """Load a CameraCtrl model. Raises UserError as `load_cameractrl`."""
    return Control(patcher=in_host(Holder(load_cameractrl(path, dtype=weight_dtype()))), path=path)


def read_camera(text: str, aspect: float | None = None) -> str | CameraPath:
    """What the field `camera` means: the text of moves, or the path of poses.

    text: moves (`zoom-in:0.5, pan-left:0.2`), a file in the host's input folder, or the lines of such a file. aspect:
    width by height of the video that poses are of. Raises UserError for anything else.
    """
    if "\n" in text.strip() and any(_has_numbers(line) for line in text.splitlines()):
        return parse_poses(text, aspect=aspect or ASPECT)
    if is_file(text):
        return camera_path(input_file(text.strip()), aspect=aspect)
    parse_moves(text)
    return text


def camera_stamp(text: str) -> str:
    """What changes where the field `camera` means another path: its text, and the date of a file."""
    try:
        return f"{text} {size_and_date(input_file(text.strip()))}" if is_file(text) else text
    except (UserError, OSError, ValueError):
        return text


def _has_numbers(line: str) -> bool:
    words = line.split()
    try:
        return len(words) > 1 and [float(word) for word in words] != []
    except ValueError:
        return False


class CameraMove(Condition):
    """A path of the camera (CameraCtrl, arXiv 2404.02101)."""

    kind = "CameraCtrl"

    def __init__(self, control: Control, camera: str | CameraPath, *, scale: float = 1.0) -> None:
        """camera: as `read_camera` returns it; scale: 1 as trained."""
        self.control, self.camera, self.scale = control, camera, scale
        self._kept: tuple[Any, CameraPoses] | None = None

    def check(self, motion: Motion) -> None:
        try:
            self.control.network.check_fits(motion.adapter.layout)
        except ValueError as error:
            raise UserError(
                f"{self.control.path.name}: {error}; take the motion module that it was trained with (v3_sd15_mm.ckpt "
                "for the published one)"
            ) from None

    def check_clip(self, num_frames: int) -> None:
        self.path(num_frames)

    def path(self, num_frames: int) -> CameraPath:
        """The poses of a clip. Raises UserError for poses of another number."""
        return camera_path(self.camera, num_frames)

    def networks(self) -> Sequence[ModelPatcher]:
        return (self.control.patcher,)

    def seen(self, call: Call) -> dict[str, Any]:
        poses = self._poses(call)
        return {"camera": poses.merges([0] * call.num_clips, call.frames, call.dtype)}

    def _poses(self, call: Call) -> CameraPoses:
        """Those kept for the sampling, or new ones where the clip has another size."""
        size, device, dtype = call.x.shape[-2:], call.x.device, call.dtype
        key = (size, call.num_frames, device, dtype, id(call.adapter))
        if self._kept is None or self._kept[0] != key:
            path, network = self.path(call.num_frames), self.control.network
            height, width = (side * network.config.factor for side in size)

            def rays(frames: Sequence[int]) -> Tensor:
                return path.rays(height, width, frames).to(device, dtype)

            poses = CameraPoses(
                control=network,
                adapter=call.adapter,
                rays=rays,
                num_frames=call.num_frames,
                scale=self.scale,
                follow_weights=False,
            )
            self._kept = (key, poses)
        return self._kept[1]

    def forget(self) -> None:
        self._kept = None
