"""Affinity masks of PIA: how like the image each frame is to be, and thereby how much the clip moves.

PIA (arXiv 2312.13964), section 3.2, and its presets (`animatediff/utils/util.py`). Other programs number these, each in
another way, so they have names here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from animatediff.errors import UserError
from animatediff.frames import Curve, frame_curve

logger = logging.getLogger(__name__)

MOTION_AMOUNTS: Mapping[str, tuple[float, ...]] = {
    "small": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8),
    "moderate": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75),
    "large": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5),
    "loop-small": (1.0, 0.9, 0.85, 0.85, 0.85, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.85, 0.85, 0.9, 1.0),
    "loop-moderate": (1.0, 0.8, 0.8, 0.8, 0.79, 0.78, 0.75, 0.75, 0.75, 0.75, 0.75, 0.78, 0.79, 0.8, 0.8, 1.0),
    "loop-large": (1.0, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.8, 1.0),
    "style-small": (0.5, 0.4, 0.4, 0.4, 0.35, 0.3),
    "style-moderate": (0.5, 0.4, 0.4, 0.4, 0.35, 0.35, 0.3, 0.25, 0.2),
    "style-large": (0.5, 0.2),
}
"""Name -> affinity by distance from the image's frame, in frames; the last number goes on. Less of it, more motion."""
DEFAULT_AMOUNT = "small"
"""The preset that the original takes where none is named."""
LOOP = "loop-"
LOOP_FRAMES = 16
"""Frames of the clips for which the tables of loops close."""


def preset_mask(amount: str, num_frames: int, frame: int = 0) -> list[float]:
    """Affinity of each frame of a clip to the image at `frame`, by a name in `MOTION_AMOUNTS`.

    >>> preset_mask("style-large", 4, frame=1)
    [0.2, 0.5, 0.2, 0.2]
    """
    table = MOTION_AMOUNTS[amount]
    return [table[min(abs(place - frame), len(table) - 1)] for place in range(num_frames)]


def affinity_mask(amount: str, affinity: Curve | None, num_frames: int, frame: int = 0) -> list[float]:
    """Affinity of each frame of a clip to the image at `frame`, by a preset, or by a curve in its place.

    affinity: 0..1 at frames, as `animatediff.frames.parse_curve` reads it; None is the preset. Raises UserError for one
    above 1 or of frames beyond the clip; warns of a loop that does not close in a clip of this length.
    """
    if affinity is None:
        if loop_is_open(amount, num_frames, frame):
            logger.warning(
                "motion_amount=%s: its table was made for %d frames from the image on, and does not close in this "
                "clip; for other loops give `image_affinity`, such as 0=1.0,8=0.8,-1=1.0",
                *(amount, LOOP_FRAMES),
            )
        return preset_mask(amount, num_frames, frame)
    mask = frame_curve(affinity, num_frames, "image_affinity")
    check_affinity(mask)
    return list(mask)


def check_affinity(values: Iterable[float]) -> None:
    """Raise UserError for an affinity above 1."""
    if (most := max(values)) > 1:
        raise UserError(f"image_affinity: {most:g} is more than 1, the affinity of the image itself")


def loop_is_open(amount: str, num_frames: int, frame: int = 0) -> bool:
    """Whether a loop's table does not end where the clip does, so that its last frame is not the image again."""
    return amount.startswith(LOOP) and (num_frames != LOOP_FRAMES or frame not in (0, num_frames - 1))
