"""What a call says of clips longer than the motion module knows: their windows, and where these lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from animatediff.errors import UserError, nearest
from animatediff.motion import BLENDS, Window, plan_windows
from animatediff.pipelines.checks import check_window
from animatediff.sampling import NOISES

LONG_MODES = ("unet", "motion")
"""Windows over the whole UNet, or inside the motion modules alone."""


@dataclass(frozen=True, kw_only=True)
class LongClip:
    """The windows of a clip; one that holds all frames where the clip is short."""

    windows: Sequence[Window]
    length: int
    overlap: int
    mode: str

    @property
    def over_unet(self) -> Sequence[Window]:
        """Windows that are predicted one after the other; empty where the UNet gets all frames at once."""
        return self.windows if self.mode == "unet" and len(self.windows) > 1 else ()

    @property
    def in_motion(self) -> Sequence[Window]:
        """Windows inside the motion modules; empty where all frames see each other, or the UNet gets only some."""
        return self.windows if self.mode == "motion" and len(self.windows) > 1 else ()


def long_clip(
    num_frames: int,
    *,
    window: int | None,
    overlap: int | None,
    stride: int,
    blend: str,
    closed_loop: bool,
    mode: str,
    noise: str,
    default_window: int,
    max_positions: int,
) -> LongClip:
    """Check the settings of a call and lay out its windows. Raises UserError for values out of range."""
    for name, value, known in (
        ("long_mode", mode, LONG_MODES),
        ("blend", blend, BLENDS),
        ("noise", noise, NOISES),
    ):
        if value not in known:
            close = nearest(value, known)
            hint = f"did you mean {close!r}? " if close else ""
            raise UserError(f"unknown {name} {value!r}; {hint}known are {', '.join(known)}")
    if stride < 1:
        raise UserError(f"stride must be at least 1 (windows of neighbouring frames only), got {stride}")
    length, shared = check_window(window, overlap, num_frames, default_window, max_positions)
    windows = plan_windows(num_frames, length, shared, stride=stride, closed_loop=closed_loop, blend=blend)
    return LongClip(windows=windows, length=length, overlap=shared, mode=mode)
