"""Context windows over long clips."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import comfy.context_windows
from comfy_api.latest import io

from ..messages import in_host_words
from ..windows import DEFAULTS, handler_of, with_windows

_SCHEDULES = comfy.context_windows.ContextSchedules
SCHEDULES = (_SCHEDULES.STATIC_STANDARD, _SCHEDULES.UNIFORM_STANDARD, _SCHEDULES.UNIFORM_LOOPED, _SCHEDULES.BATCHED)


class AnimateDiffContextWindows(io.ComfyNode):
    """Sample long clips in windows."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffContextWindows",
            display_name="AnimateDiff Context Windows",
            category="AnimateDiff",
            description=(
                "Samples clips that are longer than the motion module knows in windows of frames that overlap and are "
                "blended: any length at the memory of one window. These are ComfyUI's own context windows with the "
                "settings that suit motion modules."
            ),
            search_aliases=["context options", "sliding context", "long video", "loop"],
            inputs=[
                io.Model.Input("model", tooltip="Before or behind AnimateDiff Apply."),
                io.Int.Input(
                    "context_length",
                    default=DEFAULTS.length,
                    min=2,
                    max=1024,
                    tooltip="Frames of a window; 16 is what most motion modules were trained on, 8 for HotshotXL.",
                ),
                io.Int.Input(
                    "context_overlap",
                    default=DEFAULTS.overlap,
                    min=0,
                    max=1023,
                    tooltip="Frames that two neighbouring windows share. More is smoother and takes longer.",
                ),
                io.Combo.Input(
                    "context_schedule",
                    options=list(SCHEDULES),
                    default=DEFAULTS.schedule,
                    tooltip=(
                        "standard_static: the same windows at every step. standard_uniform: they move from step to "
                        "step. looped_uniform: likewise, round a loop. batched: side by side, without overlap."
                    ),
                ),
                io.Combo.Input(
                    "fuse_method",
                    options=list(comfy.context_windows.ContextFuseMethods.LIST_STATIC),
                    default=DEFAULTS.fuse_method,
                    tooltip="How frames of two windows are blended; pyramid counts the middle of a window most.",
                ),
                io.Boolean.Input(
                    "closed_loop",
                    default=False,
                    optional=True,
                    tooltip="The last frame is followed by the first; with context_schedule looped_uniform.",
                ),
                io.Int.Input(
                    "context_stride",
                    default=1,
                    min=1,
                    max=16,
                    optional=True,
                    advanced=True,
                    tooltip="Above 1, windows of frames further apart are added, with the uniform schedules.",
                ),
                io.Boolean.Input(
                    "freenoise",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Shuffles the noise of the first window for later frames, so that windows agree more.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        context_length: int = DEFAULTS.length,
        context_overlap: int = DEFAULTS.overlap,
        context_schedule: str = DEFAULTS.schedule,
        fuse_method: str = DEFAULTS.fuse_method,
        closed_loop: bool = False,
        context_stride: int = 1,
        freenoise: bool = False,
    ) -> io.NodeOutput:
        with in_host_words():
            handler = handler_of(
                length=context_length,
                overlap=context_overlap,
                schedule=context_schedule,
                stride=context_stride,
                closed_loop=closed_loop,
                fuse_method=fuse_method,
                freenoise=freenoise,
            )
            return io.NodeOutput(with_windows(model, handler))


NODES = [AnimateDiffContextWindows]
