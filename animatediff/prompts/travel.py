"""Prompt travel: the two texts of each frame, and how much of the second. No tensors here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from animatediff.errors import UserError
from animatediff.frames import frame_number, neighbours

INTERPOLATIONS = ("linear", "slerp")
DEFAULT_HOLD = 0.5
"""As in animatediff-cli-prompt-travel: half of a stretch holds its text, the other half blends to the next."""


class Blend(NamedTuple):
    """The prompt of one frame: (1 - share) of `first` and `share` of `second`."""

    first: str
    second: str
    share: float


@dataclass(frozen=True)
class PromptTravel:
    """Texts at frames; between two of them a clip holds the earlier one for a while and then blends to the later one.

    Before the first frame named its text holds, after the last one that one does. Raises UserError for frames that are
    no whole numbers from 0 or are given twice, for texts that are none, and for values out of range.
    """

    texts: Mapping[int, str]
    """Frame, from 0 -> text."""
    head: str = field(default="", kw_only=True)
    """Put before every text."""
    tail: str = field(default="", kw_only=True)
    """Put after every text."""
    interpolation: str = field(default="linear", kw_only=True)
    """`linear`, or `slerp`: along the arc, which keeps the length of the prompt embeddings."""
    hold: float = field(default=DEFAULT_HOLD, kw_only=True)
    """Share of each stretch that shows its text before it blends: 0 blends all the way, 1 switches at the next text."""
    loop: bool = field(default=False, kw_only=True)
    """Whether the last text blends back to the first, for clips that loop."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", dict(sorted(texts_at(self.texts).items())))
        if not self.texts:
            raise UserError('a prompt that travels needs a text at one frame at least, as in {0: "spring"}')
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"prompt interpolation must be {' or '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if not 0 <= self.hold <= 1:
            raise UserError(f"prompt hold is a share of each stretch, 0 to 1; got {self.hold}")

    def check(self, num_frames: int) -> None:
        """Raise UserError for a text at a frame that the clip does not have."""
        check_frames(self.texts, num_frames)

    def whole(self, text: str) -> str:
        """`text` between head and tail."""
        return joined(self.head, text, self.tail)

    @property
    def shortest_stretch(self) -> int | None:
        """Frames between the two neighbouring texts that are closest; None if there is one text."""
        frames = list(self.texts)
        return min((later - frame for frame, later in pairwise(frames)), default=None)

    def blends(self, num_frames: int) -> list[Blend]:
        """Compute the prompt of each of `num_frames` frames, in whole texts.

        >>> [round(blend.share, 2) for blend in PromptTravel({0: "a", 4: "b"}, hold=0.5).blends(6)]
        [0.0, 0.0, 0.0, 0.5, 0.0, 0.0]
        """
        self.check(num_frames)
        frames, texts = list(self.texts), [self.whole(text) for text in self.texts.values()]
        if self.loop:  # the stretch from the last text to the first one runs on over both ends of the clip
            frames = [frames[-1] - num_frames, *frames, frames[0] + num_frames]
            texts = [texts[-1], *texts, texts[0]]
        found: list[Blend] = []
        for frame, (before, after, _) in enumerate(neighbours(frames, num_frames)):
            start, end = frames[before], frames[after]
            held = start + round((end - start) * self.hold)  # to a whole frame, as in animatediff-cli-prompt-travel
            blends = frame > held and before != after and texts[before] != texts[after]
            share = (frame - held) / (end - held) if blends else 0.0
            found.append(Blend(texts[before], texts[after] if blends else texts[before], share))
        return found


def joined(head: str, text: str, tail: str) -> str:
    """The parts that are not empty, with commas between them.

    >>> joined("a meadow", "", "oil painting")
    'a meadow, oil painting'
    """
    if not head.strip() and not tail.strip():
        return text
    return ", ".join(part for given in (head, text, tail) if (part := given.strip().strip(",").strip()))


def texts_at(given: Mapping[Any, Any]) -> dict[int, str]:
    """Frames and texts of a mapping. Frames may be written as text, as JSON does; UserError for anything else."""
    found: dict[int, str] = {}
    for key, text in given.items():
        frame = frame_of(key)
        if frame in found:
            raise UserError(f"frame {frame} has two texts, {found[frame]!r} and {text!r}; keep one of them")
        if not isinstance(text, str):
            raise UserError(f"frame {frame}: expected a text, got {text!r}")
        found[frame] = text
    return found


def frame_of(key: Any) -> int:
    """The frame that a key means. Raises UserError for anything but a whole number from 0."""
    try:
        if (frame := frame_number(key)) >= 0:
            return frame
    except UserError:
        pass
    raise UserError(f'{key!r} is no frame to put a text at; expected a whole number from 0, as in 12: "summer"')


def check_frames(texts: Mapping[int, str], num_frames: int) -> None:
    """Raise UserError for a text at a frame that the clip does not have."""
    if (last := max(texts, default=0)) >= num_frames:
        raise UserError(
            f"frame {last} is to show {texts[last]!r}, but the clip has {num_frames} frames, 0 to {num_frames - 1}; "
            f"move the text, or render {last + 1} frames or more (`num_frames`)"
        )
