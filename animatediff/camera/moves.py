"""Named moves of a camera, as people write them: `zoom-in:0.5, pan-left:0.2@ease-in-out`. No torch here.

Names say what the camera does, as those of MotionLoRAs do: with `pan-left` it turns left, and what is seen moves right.
Rolls are named after what is seen, likewise: with `roll-clockwise` it turns clockwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from animatediff.errors import UserError, did_you_mean
from animatediff.signatures import IMAGE_SUFFIXES, VIDEO_SUFFIXES


class Extent(NamedTuple):
    """What a move of strength 1 does from the first frame to the last."""

    yaw: float = 0.0
    """Degrees that the camera turns to the right."""
    pitch: float = 0.0
    """Degrees that it turns up."""
    roll: float = 0.0
    """Degrees that it turns clockwise, seen from behind it; what is seen turns the other way."""
    x: float = 0.0
    """Lengths that it goes to the right."""
    y: float = 0.0
    """Lengths that it goes down."""
    z: float = 0.0
    """Lengths that it goes forward."""
    orbit: float = 0.0
    """Degrees of a circle to the right round a point in front of it, which it keeps looking at."""
    rise: float = 0.0
    """Degrees of a circle upwards, likewise."""


DEGREES, LENGTH, SIDEWAYS = 30.0, 2.0, 1.0
"""Of moves of strength 1: about what the training videos of CameraCtrl show in 16 frames."""
ORBIT_RADIUS = 2.0
"""Lengths from the camera to the point that it goes round."""

MOVES: dict[str, Extent] = {
    "pan-left": Extent(yaw=-DEGREES),
    "pan-right": Extent(yaw=DEGREES),
    "tilt-up": Extent(pitch=DEGREES),
    "tilt-down": Extent(pitch=-DEGREES),
    "roll-clockwise": Extent(roll=-DEGREES),
    "roll-anticlockwise": Extent(roll=DEGREES),
    "zoom-in": Extent(z=LENGTH),
    "zoom-out": Extent(z=-LENGTH),
    "truck-left": Extent(x=-SIDEWAYS),
    "truck-right": Extent(x=SIDEWAYS),
    "pedestal-up": Extent(y=-SIDEWAYS),
    "pedestal-down": Extent(y=SIDEWAYS),
    "orbit-left": Extent(orbit=-DEGREES),
    "orbit-right": Extent(orbit=DEGREES),
    "orbit-up": Extent(rise=DEGREES),
    "orbit-down": Extent(rise=-DEGREES),
    "still": Extent(),
}
"""Name -> what it does."""
OTHER_NAMES = {
    "dolly-in": "zoom-in", "dolly-out": "zoom-out", "dolly-forward": "zoom-in", "dolly-backward": "zoom-out",
    "rolling-clockwise": "roll-clockwise", "rolling-anticlockwise": "roll-anticlockwise",
    "roll-counterclockwise": "roll-anticlockwise", "static": "still", "crane-up": "pedestal-up",
    "crane-down": "pedestal-down", "move-left": "truck-left", "move-right": "truck-right",
    "move-up": "pedestal-up", "move-down": "pedestal-down",
}  # fmt: skip
"""Further names of moves -> the name here."""
_PLAIN = {name.replace("-", ""): move for name, move in [*((name, name) for name in MOVES), *OTHER_NAMES.items()]}
MAX_STRENGTH = 20.0

EASINGS: dict[str, Callable[[float], float]] = {
    "linear": lambda u: u,
    "ease-in": lambda u: u * u,
    "ease-out": lambda u: u * (2 - u),
    "ease-in-out": lambda u: (1 - math.cos(math.pi * u)) / 2,
}
"""How much of a move is done, 0 to 1, at each part of the clip, 0 to 1."""
_SUFFIX = re.compile(r"\.[A-Za-z]\w{0,9}$")
_NUMBERS = re.compile(r"[\s,;]*[-+]?[\d.]")


@dataclass(frozen=True)
class Move:
    """One named move."""

    name: str
    """A name in `MOVES`."""
    strength: float = 1.0
    """Factor of its extent; below 0 it goes the other way."""
    easing: str = "linear"

    def at(self, part: float) -> Extent:
        """What is done of it at this part of the clip, 0 to 1."""
        done = self.strength * EASINGS[self.easing](part)
        return Extent(*(done * value for value in MOVES[self.name]))


def is_file(text: str) -> bool:
    """Whether a text means a file, of poses or a video, rather than moves.

    >>> is_file("poses.txt"), is_file("zoom-in:0.5, pan-left")
    (True, False)
    """
    text = text.strip()
    if _SUFFIX.search(text) is not None or "/" in text or "\\" in text:
        return True
    return bool(text) and _known(text) is None and Path(text).exists()  # a folder, or a file without suffix


def is_video(path: str | Path) -> bool:
    """Whether a path means a video, an animated image or a folder of images, rather than a file of poses.

    >>> is_video("walk.mp4"), is_video("poses.txt"), is_video("zoom-in:0.5")
    (True, False, False)
    """
    suffix = Path(path).suffix.lower()
    return suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or (is_file(str(path)) and Path(path).is_dir())


def parse_moves(text: str) -> tuple[Move, ...]:
    """The moves of a text: `NAME[:STRENGTH][@EASING]`, separated by commas or `+`. They are done at the same time.

    Raises UserError for an unknown name or easing, and a strength that is no number.

    >>> parse_moves("Zoom In:0.5, pan-left @ease-in-out")
    (Move(name='zoom-in', strength=0.5, easing='linear'), Move(name='pan-left', strength=1.0, easing='ease-in-out'))
    """
    if _NUMBERS.match(text):
        raise UserError(
            "`camera` takes named moves such as zoom-in:0.5, or the name of a file of poses or of a video; got numbers"
        )
    moves = tuple(_move(part.strip()) for part in re.split(r"[,+\n]", text) if part.strip())
    if not moves:
        raise UserError("`camera` is empty; give moves such as zoom-in:0.5, a file of poses, or a video")
    return moves


def _move(text: str) -> Move:
    rest, at, easing = text.partition("@")
    name, colon, strength = rest.partition(":")
    easing = re.sub(r"[\s_]+", "-", easing.strip().lower())
    if at and easing not in EASINGS:
        raise UserError(f"`camera`: {text}: there is no easing {easing!r}; known are {', '.join(EASINGS)}")
    try:
        value = float(strength) if colon else 1.0
    except ValueError:
        value = math.nan
    if not abs(value) <= MAX_STRENGTH:
        raise UserError(
            f"`camera`: {text}: the strength behind the colon is a number up to {MAX_STRENGTH:g}, such as 0.5, got "
            f"{strength.strip()[:40]!r}"
        )
    return Move(_name(name.strip()), value, easing or "linear")


def _known(text: str) -> str | None:
    """The move that a name means, if one; capitals, blanks and dashes do not matter."""
    return _PLAIN.get(re.sub(r"[\s_-]+", "", text.lower()))


def _name(text: str) -> str:
    """The move that a name means. Raises UserError for one that means none."""
    if found := _known(text):
        return found
    hint = did_you_mean(text.lower(), [*MOVES, *OTHER_NAMES])
    raise UserError(
        f"`camera`: there is no move {text[:60]!r}; {hint}known are {', '.join(MOVES)}; or give a file of poses, or a "
        "video"
    )
