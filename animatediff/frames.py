"""Values at frames of a clip: `FRAME=VALUE`, indices that may count from the end, and curves between given frames."""

from __future__ import annotations

import math
import operator
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from animatediff.errors import UserError

Curve = float | Mapping[int, float] | Sequence[float]
"""One value, values at frames (negatives count from the end), or one value a frame."""

HOW = "a number, or frames and values as in 0=1.0,15=0.3"


def frame_number(value: Any) -> int:
    """Read a frame from a number or a text; negatives count from the end. Raises UserError for anything else.

    >>> frame_number(" -1")
    -1
    """
    if isinstance(value, str):
        if re.fullmatch(r"\s*[+-]?[0-9]{1,9}\s*", value):
            return int(value)
    elif not isinstance(value, bool) and hasattr(value, "__index__"):
        return operator.index(value)
    raise UserError(f"{value!r} is no frame; expected a whole number, such as 8, or -1 for the last")


def at_frame(text: str) -> tuple[int, str]:
    """Split `FRAME=VALUE` into the frame and the value as it is written, which may be empty.

    >>> at_frame("-1=end.png")
    (-1, 'end.png')
    """
    frame, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"expected FRAME=VALUE, such as 8=0.5, got {text!r}")
    return frame_number(frame), value


def neighbours(frames: Sequence[int], num_frames: int) -> list[tuple[int, int, float]]:
    """For every frame of a clip: the place of the key before it, of the key after it, and the fraction of the way.

    frames: of the keys, all different, in any order; places are places in this sequence. A frame that is a key, that
    comes before the first or behind the last has one key on both sides, and the fraction 0.

    >>> neighbours([3, 1], 5)
    [(1, 1, 0.0), (1, 1, 0.0), (1, 0, 0.5), (0, 0, 0.0), (0, 0, 0.0)]
    """
    order = sorted(range(len(frames)), key=frames.__getitem__)
    keys = [frames[place] for place in order]
    found: list[tuple[int, int, float]] = []
    for frame in range(num_frames):
        after = min(bisect_left(keys, frame), len(keys) - 1)
        before = after if after == 0 or keys[after] <= frame else after - 1
        fraction = 0.0 if before == after else (frame - keys[before]) / (keys[after] - keys[before])
        found.append((order[before], order[after], fraction))
    return found


def parse_curve(value: Any) -> float | dict[int, float]:
    """A number, or numbers at frames, from a setting in a file or on a command line.

    Taken are numbers, mappings of frames to numbers, lists of one number a frame, and texts such as `1.2` or
    `0=1.0,15=0.3`. Raises UserError for anything else, and for a frame given twice.

    >>> parse_curve("0=1.0, -1=0.3")
    {0: 1.0, -1: 0.3}
    """
    if isinstance(value, str) and "=" in value:
        pairs: list[tuple[int, Any]] = [at_frame(part) for part in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = [(frame_number(frame), number) for frame, number in value.items()]
    elif isinstance(value, list | tuple):
        pairs = list(enumerate(value))
    else:
        return _number(value)
    curve = {frame: _number(number) for frame, number in pairs}
    if len(curve) != len(pairs) or not curve:
        raise UserError(f"{'a frame is given twice' if curve else 'no values'}; expected {HOW}")
    return curve


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
    values = list(keys.values())
    return [
        values[before] if before == after else values[before] + (values[after] - values[before]) * fraction
        for before, after, fraction in neighbours(list(keys), num_frames)
    ]


def _keys(curve: Mapping[int, float], num_frames: int, name: str) -> dict[int, float]:
    keys: dict[int, float] = {}
    for key, value in curve.items():
        try:
            frame = _in_clip(key, num_frames)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        if frame in keys:
            raise UserError(f"{name}: frame {frame} of {num_frames} is given twice")
        keys[frame] = value
    return keys


def _in_clip(index: int, num_frames: int) -> int:
    """The frame that an index means, counted from 0. Raises UserError for an index beyond the clip."""
    if not -num_frames <= index < num_frames:
        raise UserError(
            f"there is no frame {index} in a clip of {num_frames}: frames go from 0 to {num_frames - 1}, or from "
            f"-1 (the last) to {-num_frames}"
        )
    return index % num_frames


def frame_indices(indices: Sequence[int], num_images: int, num_frames: int | None = None) -> list[int]:
    """One frame an image, negatives counted from the end of the clip.

    `num_frames` None: the length is not known yet, so that only the number of indices and plain repetitions are
    checked. Raises UserError for more or fewer indices than images, a frame beyond the clip, and a frame with two
    images.

    >>> frame_indices([0, -1], 2, 16)
    [0, 15]
    """
    if len(indices) != num_images:
        raise UserError(
            f"{_count(num_images, 'image')} and {_count(len(indices), 'frame index')} "
            f"({', '.join(map(str, indices)) or 'none'}): give one index for each image, such as 0 for the first "
            "frame and -1 for the last"
        )
    frames = list(indices) if num_frames is None else [_in_clip(index, num_frames) for index in indices]
    for place, frame in enumerate(frames):
        if frame in frames[:place]:
            first = indices[frames.index(frame)]
            raise UserError(
                f"two images for frame {frame} (indices {first} and {indices[place]}): a frame takes one image"
            )
    return frames


def _count(number: int, what: str) -> str:
    plural = {"image": "images", "frame index": "frame indices"}[what]
    return f"1 {what}" if number == 1 else f"{number} {plural}"
