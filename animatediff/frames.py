"""Values at frames of a clip: `FRAME=VALUE`, indices that may count from the end, and curves between given frames."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from animatediff.errors import UserError

Curve = float | Mapping[int, float] | Sequence[float]
"""One value, values at frames (negatives count from the end), or one value a frame."""

HOW = "a number, or frames and values as in 0=1.0,15=0.3"


def parse_curve(value: Any) -> float | dict[int, float]:
    """A number, or numbers at frames, from what a file or a command line says.

    Taken are numbers, mappings of frames to numbers, lists of one number a frame, and texts such as `1.2` or
    `0=1.0,15=0.3`. Raises UserError for anything else, and for a frame given twice.

    >>> parse_curve("0=1.0, -1=0.3")
    {0: 1.0, -1: 0.3}
    """
    if isinstance(value, str) and "=" in value:
        pairs = [(frame, number) for frame, _, number in (part.partition("=") for part in value.split(","))]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    else:
        return _number(value)
    curve = {_frame(frame): _number(number) for frame, number in pairs}
    if len(curve) != len(pairs) or not curve:
        raise UserError(f"{'a frame is given twice' if curve else 'no values'}; expected {HOW}")
    return curve


def _frame(value: Any) -> int:
    try:
        return int(value) if isinstance(value, str) else operator.index(value)
    except (TypeError, ValueError):
        raise UserError(f"{value!r} is no frame; expected {HOW}") from None


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise UserError(f"{value!r} is no finite number of at least 0; expected {HOW}")
    return number


def frame_curve(curve: Curve, num_frames: int, name: str) -> list[float]:
    """The value at every frame: straight lines between the given ones, level before the first and behind the last.

    Raises UserError, naming the setting, for values that are no finite numbers of at least 0, for frames beyond the
    clip or given twice, and for a list that is not one value a frame.

    >>> frame_curve({0: 1.0, 2: 0.0}, 4, "motion_scale")
    [1.0, 0.5, 0.0, 0.0]
    """
    if isinstance(curve, Sequence) and not isinstance(curve, str) and len(curve) != num_frames:
        raise UserError(f"{name}: {len(curve)} values for {num_frames} frames; give one a frame, or {HOW}")
    try:
        parsed = parse_curve(curve)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    keys = _keys(parsed, num_frames, name) if isinstance(parsed, dict) else {0: parsed}
    frames = sorted(keys)
    return [_at(frame, frames, keys) for frame in range(num_frames)]


def _keys(curve: Mapping[int, float], num_frames: int, name: str) -> dict[int, float]:
    keys: dict[int, float] = {}
    for key, value in curve.items():
        if not -num_frames <= key < num_frames:
            raise UserError(
                f"{name}: there is no frame {key} in a clip of {num_frames}: frames go from 0 to {num_frames - 1}, or "
                f"from -1 (the last) to {-num_frames}"
            )
        if key % num_frames in keys:
            raise UserError(f"{name}: frame {key % num_frames} of {num_frames} is given twice")
        keys[key % num_frames] = value
    return keys


def _at(frame: int, frames: Sequence[int], keys: Mapping[int, float]) -> float:
    before = max((key for key in frames if key <= frame), default=frames[0])
    after = min((key for key in frames if key >= frame), default=frames[-1])
    if before == after:
        return float(keys[before])
    way = (frame - before) / (after - before)
    return keys[before] + (keys[after] - keys[before]) * way


def frame_indices(indices: Sequence[int], num_pictures: int, num_frames: int | None = None) -> list[int]:
    """One frame a picture, negatives counted from the end of the clip.

    `num_frames` None: the length is not known yet, so that only the number of indices and plain repetitions are
    checked. Raises UserError for more or fewer indices than pictures, a frame beyond the clip, and a frame with two
    pictures.

    >>> frame_indices([0, -1], 2, 16)
    [0, 15]
    """
    if len(indices) != num_pictures:
        raise UserError(
            f"{_count(num_pictures, 'picture')} and {_count(len(indices), 'frame index')} "
            f"({', '.join(map(str, indices)) or 'none'}): give one index for each picture, such as 0 for the first "
            "frame and -1 for the last"
        )
    frames = list(indices)
    if num_frames is not None:
        for index in indices:
            if not -num_frames <= index < num_frames:
                raise UserError(
                    f"there is no frame {index} in a clip of {num_frames}: indices go from 0 to {num_frames - 1}, or "
                    f"from -1 (the last) to {-num_frames}"
                )
        frames = [index % num_frames for index in indices]
    for place, frame in enumerate(frames):
        if frame in frames[:place]:
            first = indices[frames.index(frame)]
            raise UserError(
                f"two pictures for frame {frame} (indices {first} and {indices[place]}): a frame takes one picture"
            )
    return frames


def _count(number: int, what: str) -> str:
    plural = {"picture": "pictures", "frame index": "frame indices"}[what]
    return f"1 {what}" if number == 1 else f"{number} {plural}"
