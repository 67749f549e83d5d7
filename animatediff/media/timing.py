"""When frames are shown, and the same at a constant rate: the frame shown at a time stays the frame shown then."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

DEFAULT_FPS = 8
"""Of a file that does not say."""
ROUNDED_S = 0.01
"""Seconds by which the length of a frame may miss a multiple of the shortest one: formats round them, GIF the most."""
MOST_REPEATS = 4
AT_LEAST = 64
"""A file of n frames becomes at most max(4 n, 64) at a constant rate, whatever the pauses in it."""


@dataclass(frozen=True)
class Steady:
    """Frames of a file at a constant rate."""

    fps: float
    indices: tuple[int, ...]
    """Ascending; a frame that is shown longer comes several times."""
    num_left_out: int = 0
    """Frames shown too shortly to be among them."""


def steady(times: Sequence[float], end: float, fps: float, tick: float = 0.0) -> Steady:
    """All frames as they are where they are shown equally long, or else by time at a rate that suits them.

    times: when each is shown, in seconds, the first at 0; end: when the last one ends; fps: of the file, where its rate
    is constant; tick: the unit, in seconds, that the file's format rounds lengths to.

    >>> steady([0, 1, 3], 4, 1).indices
    (0, 1, 1, 2)
    """
    count = len(times)
    if count < 2:
        return Steady(fps, tuple(range(count)))
    gap = times[-1] / (count - 1)
    off = max(abs(time - index * gap) for index, time in enumerate(times))
    if off <= max(gap / 4, tick / 2 + 1e-6) and end - times[-1] <= 1.5 * gap + tick:
        return Steady(fps, tuple(range(count)))
    lengths = [later - earlier for earlier, later in pairwise((*times, end))]
    most = max(MOST_REPEATS * count, AT_LEAST)
    number = _common(lengths, most)
    if number is None:  # none shown as long as most are falls between two
        number = min(max(count, round(end / max(median(lengths), 1e-6))), most)
    # a frame that begins a little late still counts: times are rounded, and those of telephones waver
    indices = tuple(shown_at(times, i * end / number, late(number / end)) for i in range(number))
    return Steady(whole(number, end, tick), indices, count - len(set(indices)))


def _common(lengths: Sequence[float], most: int) -> int | None:
    """Number of frames at the rate of the shortest, if all lengths are multiples of its, and that is not too many."""
    shortest = min((length for length in lengths if length > 0), default=0.0)
    if not shortest:
        return None
    repeats = [max(1, round(length / shortest)) for length in lengths]
    number = sum(repeats)
    unit = sum(lengths) / number
    fits = all(abs(length - times * unit) <= ROUNDED_S for length, times in zip(lengths, repeats, strict=True))
    return number if fits and number <= most else None


def whole(count: int, seconds: float, tick: float) -> float:
    """Frames per second of `count` in so many seconds; a whole rate that rounding to ticks explains is meant."""
    fps = count / seconds
    near = round(fps)
    return float(near) if near and abs(count / near - seconds) <= tick / 2 + 1e-9 else fps


def late(fps: float) -> float:
    """Seconds by which a frame may begin after the time that it is taken for, at a rate that was chosen for it."""
    return min(1 / fps / 4, ROUNDED_S)


def shown_at(times: Sequence[float], time: float, near: float = 1e-4) -> int:
    """Index of the frame that is shown at a time; times in files are rounded, so one that begins `near` it counts."""
    return max(0, bisect_right(times, time + near) - 1)
