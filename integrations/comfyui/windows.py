"""Context windows over long clips, by the host's own handler, which slices latents and what belongs to frames."""

# pyright: reportMissingImports=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.context_windows
from comfy.model_patcher import ModelPatcher

from animatediff.errors import UserError

CLIP_FRAMES = "animatediff_num_frames"
"""Entry of `transformer_options`: the frames of the whole clip."""
TRAVEL_FRAMES = "animatediff_travel_frames"
"""Entry of a conditioning that has a row for each frame: how many."""
FRAMES = 0
"""Dimension of the latents that is time: frames are the batch."""


@dataclass(frozen=True)
class WindowDefaults:
    """What windows are where nobody says otherwise."""

    length: int = 16
    overlap: int = 4
    schedule: str = "standard_static"
    fuse_method: str = "pyramid"


DEFAULTS = WindowDefaults(
    schedule=comfy.context_windows.ContextSchedules.STATIC_STANDARD,
    fuse_method=comfy.context_windows.ContextFuseMethods.PYRAMID,
)


def handler_of(
    *,
    length: int,
    overlap: int,
    schedule: str = DEFAULTS.schedule,
    stride: int = 1,
    closed_loop: bool = False,
    fuse_method: str = DEFAULTS.fuse_method,
    freenoise: bool = False,
) -> comfy.context_windows.IndexListContextHandler:
    """A handler of the host for windows of frames.

    Raises UserError for an overlap that is not less than a window, and for settings that the schedule has no use for.
    """
    schedules = comfy.context_windows.ContextSchedules
    if closed_loop and schedule != schedules.UNIFORM_LOOPED:
        raise UserError(f"closed_loop needs context_schedule {schedules.UNIFORM_LOOPED}, got {schedule}")
    if stride > 1 and schedule not in (schedules.UNIFORM_LOOPED, schedules.UNIFORM_STANDARD):
        raise UserError(
            f"context_stride {stride} needs context_schedule {schedules.UNIFORM_STANDARD} or "
            f"{schedules.UNIFORM_LOOPED}, got {schedule}"
        )
    if not 0 <= overlap < length:
        raise UserError(
            f"context_overlap must be at least 0 and less than context_length, got {overlap} of windows of {length}"
        )
    found = comfy.context_windows.get_matching_context_schedule(schedule)
    by_host = found.func
    found.func = lambda num_frames, handler, options: within(by_host(num_frames, handler, options), num_frames)
    return comfy.context_windows.IndexListContextHandler(
        context_schedule=found,
        fuse_method=comfy.context_windows.get_matching_fuse_method(fuse_method),
        context_length=length,
        context_overlap=overlap,
        context_stride=stride,
        closed_loop=closed_loop,
        dim=FRAMES,
        freenoise=freenoise,
        causal_window_fix=False,  # an added frame before each window is for video models that look back alone
    )


def within(windows: list[list[int]], num_frames: int) -> list[list[int]]:
    """Windows that lie in the clip and cover it: with a stride, the host's uniform ones may do neither.

    >>> within([[0, 1, 2], [4, 5, 6]], 6)
    [[0, 1, 2], [3, 4, 5]]
    """

    def upto_end(start: int, length: int) -> list[int]:
        start = max(0, min(start, num_frames - length))
        return list(range(start, min(start + length, num_frames)))

    found = [window if max(window) < num_frames else upto_end(window[0], len(window)) for window in windows]
    for frame in range(num_frames):
        if not any(frame in window for window in found):
            found.append(upto_end(frame, len(found[0])))
    return found


def with_windows(model: ModelPatcher, handler: comfy.context_windows.IndexListContextHandler) -> ModelPatcher:
    """A clone of a MODEL that samples long clips in these windows."""
    patched = model.clone()
    patched.model_options["context_handler"] = handler
    comfy.context_windows.create_prepare_sampling_wrapper(patched)
    if handler.freenoise:
        comfy.context_windows.create_sampler_sample_wrapper(patched)
    return patched


def current_frames(options: dict[str, Any], num_frames: int) -> list[int]:
    """The frames of the clip that this call of the model has, in their order; without windows all, from 0."""
    window = options.get("context_window")
    if window is None:
        return list(range(num_frames))
    frames = list(window.index_list)
    before = getattr(window, "causal_anchor_index", None)  # a frame that the host's own node may put in front
    if before is not None and before >= 0:
        frames = [before, *frames]
    return frames if len(frames) == num_frames else list(range(num_frames))
