"""Context windows of a call: clips longer than the motion module knows, seen a part at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from animatediff.errors import UserError
from animatediff.motion import Window, plan_windows
from animatediff.pipelines.arguments import Arguments

LONG_MODES = ("unet", "motion", "fifo")
"""Windows over the whole UNet, or inside the motion modules alone, or over a queue of frames (`sampling.fifo`)."""


@dataclass(frozen=True, kw_only=True)
class ContextWindows:
    """Windows of a clip; one that holds all frames where the clip is short."""

    windows: Sequence[Window]
    length: int
    overlap: int
    mode: str
    streams: bool = False
    """Whether frames come out of a queue one after the other; the windows are those of the clip that it begins with."""

    @classmethod
    def of(
        cls,
        call: Arguments,
        num_frames: int,
        *,
        default_length: int,
        max_positions: int,
        steps: int = 1,
        endless: bool = False,
    ) -> ContextWindows:
        """Lay out the windows of a call.

        default_length: of windows where the clip is longer than `max_positions`, of a queue in any case. steps: of the
        sampler, as long is a queue. endless: a clip whose length is not known. Raises UserError for a window beyond the
        trained positions, and for an overlap that is not smaller than the window.
        """
        length, overlap = call.window, call.overlap
        if length is None:
            usual, fifo = min(default_length, max_positions), call.long_mode == "fifo"
            fits = num_frames <= (usual if fifo else max_positions) and not endless
            length = num_frames if fits else usual
        if not 1 <= length <= max_positions:
            raise UserError(f"window must be 1 to {max_positions} frames with this motion module, got {length}")
        streams = call.long_mode == "fifo" and (endless or num_frames > length)
        if overlap is None:
            overlap = length // 2 if streams else length // 4
        if not 0 <= overlap < length:
            raise UserError(f"overlap must be at least 0 and less than the window of {length} frames, got {overlap}")
        planned = steps if streams else num_frames
        windows = plan_windows(
            planned, length, overlap, stride=call.stride, closed_loop=call.closed_loop, blend=call.blend
        )
        return cls(windows=windows, length=length, overlap=overlap, mode=call.long_mode, streams=streams)

    @property
    def over_unet(self) -> Sequence[Window]:
        """Windows that are predicted one after the other; empty where the UNet gets all frames at once."""
        return self.windows if self.mode != "motion" and len(self.windows) > 1 else ()

    @property
    def in_motion(self) -> Sequence[Window]:
        """Windows inside the motion modules; empty where all frames see each other, or the UNet gets only some."""
        return self.windows if self.mode == "motion" and len(self.windows) > 1 else ()
