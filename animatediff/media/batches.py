"""Images and videos of a call, one set for all its clips or one a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.images import as_tensor


def clips_of(given: Any) -> list[Any]:
    """Take apart by clips: a list of lists of images, or of arrays and tensors of several images, is one a clip.

    Arrays (b, f, h, w, c) are taken apart; tensors (b, f, c, h, w), as diffusers has them, where no other reading fits.
    """
    if (
        isinstance(given, Tensor)
        and given.ndim == 5
        and given.shape[1] not in (1, 3, 4)
        and given.shape[2] in (1, 3, 4)
    ):
        return list(given)
    if isinstance(given, np.ndarray) and given.ndim == 5:
        return list(given)
    if isinstance(given, list | tuple) and given and all(_is_clip(one) for one in given):
        return list(given)
    return [given]


def _is_clip(given: Any) -> bool:
    if isinstance(given, np.ndarray | Tensor):
        return given.ndim == 4 and len(given) > 1
    return isinstance(given, list | tuple) and bool(given) and isinstance(given[0], Image.Image | np.ndarray | Tensor)


def stacked(clips: Sequence[Any], width: int, height: int, setting: str, num_frames: int | None = None) -> Tensor:
    """The clips of `clips_of`, (1 or b, c, n, height, width) as `as_tensor` gives them.

    num_frames: as many of each are taken. Raises UserError for clips of different length.
    """
    if len(clips) == 1:
        return as_tensor(clips[0], width, height, setting)
    tensors = [as_tensor(clip, width, height, setting)[:, :, :num_frames] for clip in clips]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise UserError(f"{setting}: the clips differ in length or kind: {', '.join(map(str, sorted(shapes)))}")
    return torch.cat(tensors)


def for_clips(given: Tensor, num_clips: int, each: int, setting: str) -> Tensor:
    """(1 or b, ...) for 1, each prompt or each clip, as (1 or `num_clips`, ...). each: clips of each prompt.

    Raises UserError for another number.
    """
    count = len(given)
    if count in (1, num_clips):
        return given
    if count * each == num_clips:
        return given.repeat_interleave(each, 0)
    raise UserError(f"{num_clips} clips want {setting} for all of them, or {num_clips}; got {count}")
