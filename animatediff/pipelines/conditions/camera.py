"""CameraCtrl (arXiv 2404.02101): the path that the camera takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff.bundled import no_camera_control
from animatediff.camera import CameraPath, Move, camera_path, is_file, is_video
from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting
from animatediff.pipelines.parts import LoadedParts
from animatediff.sampling.camera import CameraPoses

if TYPE_CHECKING:
    from typing_extensions import Self

    from animatediff.models.camera import CameraCtrl


@dataclass(frozen=True, kw_only=True)
class CameraCondition(Condition):
    """A path of the camera for each clip, or one for all."""

    control: CameraCtrl
    given: Sequence[Any]
    """One for all clips, or one a prompt."""
    scale: float
    aspect: float | None
    each: int = 1
    """Clips of each prompt."""
    num_frames: int | None = None
    """Poses of a path that has one a frame; None where the path is made for the clip."""
    paths: Sequence[CameraPath] = ()
    """Set when fitted."""
    size: tuple[int, int] = (0, 0)
    """(height, width) in pixels; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts) -> CameraCondition | None:
        """The path of a call. Raises UserError where no CameraCtrl model is loaded, and for a path that is none."""
        if call.camera is None:
            return None
        control = parts.camera_control
        if control is None:
            raise UserError(no_camera_control())
        if parts.attachment is not None:
            try:
                control.check_fits(parts.attachment.adapter.layout)  # others may have been loaded since
            except ValueError as error:
                raise UserError(f"the CameraCtrl model does not fit: {error}") from None
        if control.config.factor != parts.base.vae_scale_factor:
            raise UserError(
                f"this CameraCtrl model is for latents {control.config.factor} times smaller than the image, and those "
                f"of this base model are {parts.base.vae_scale_factor} times smaller; take the one made for it"
            )
        given = [_measured(one, call) for one in _listed(call.camera)]
        return cls(
            control=control,
            given=given,
            scale=call.camera_scale,
            aspect=call.camera_aspect,
            each=call.num_videos_per_prompt or 1,
            num_frames=_num_frames(given, call),
        )

    def fitted(self, clip: ClipShape) -> Self:
        num_prompts = clip.num_clips // self.each
        if len(self.given) not in (1, num_prompts, clip.num_clips):
            raise UserError(f"{clip.num_clips} clips want one `camera` or one each, got {len(self.given)}")
        paths = [camera_path(one, clip.num_frames, aspect=self.aspect) for one in self.given]
        if 1 < len(paths) < clip.num_clips:
            paths = [path for path in paths for _ in range(self.each)]
        return replace(self, paths=paths, size=(clip.height, clip.width))

    def networks(self) -> Sequence[nn.Module]:
        return (self.control,)

    def prepare(self, setting: Setting) -> Prepared:
        if self.scale == 0:
            return Prepared()
        assert setting.parts.attachment is not None, "checked when the job was made"

        def rays(frames: Sequence[int]) -> Tensor:
            return torch.cat([path.rays(*self.size, frames) for path in self.paths])

        poses = CameraPoses(
            control=self.control,
            adapter=setting.parts.attachment.adapter,
            rays=rays,
            num_frames=setting.clip.num_frames,
            scale=self.scale,
        )
        return Prepared(camera=poses)


def _measured(given: Any, call: Arguments) -> Any:
    """The path of a video, which is looked at once; anything else as it is."""
    if isinstance(given, str | Path) and is_video(given):
        return camera_path(given, call.num_frames, aspect=call.camera_aspect)
    return given


def _num_frames(given: Sequence[Any], call: Arguments) -> int | None:
    """Number of poses of the paths that have one a frame; None for moves. Raises UserError where it is not the same."""
    found = {
        place: len(camera_path(one, aspect=call.camera_aspect)) for place, one in enumerate(given) if not _is_moves(one)
    }
    if len(set(found.values())) > 1:
        named = ", ".join(f"{_called(call.camera, place)} has {length}" for place, length in found.items())
        raise UserError(
            f"`camera`: {named} poses; clips of one call are of one length, so give paths of as many poses, or, of "
            "videos, `num_frames`"
        )
    return next(iter(found.values()), None)


def _called(given: Any, place: int) -> str:
    """What messages call one of several paths."""
    one = given[place]
    return str(one) if isinstance(one, str | Path) else f"camera[{place}]"


def _is_moves(given: Any) -> bool:
    """Whether a path is made for the clip, of whatever length."""
    return isinstance(given, Move) or (isinstance(given, str) and not is_file(given)) or _moves(given)


def _moves(given: Any) -> bool:
    return isinstance(given, Sequence) and bool(given) and all(isinstance(one, Move) for one in given)


def _listed(given: Any) -> list[Any]:
    """One entry a path."""
    if isinstance(given, Tensor) and given.ndim == 4:
        return list(given)
    if isinstance(given, list | tuple) and given and not _moves(given) and not _numbers(given):
        return list(given)
    return [given]


def _numbers(given: Sequence[Any]) -> bool:
    """Whether a list is matrices, rather than a list of paths."""
    first = given[0]
    return isinstance(first, list | tuple) or getattr(first, "ndim", 0) == 2
