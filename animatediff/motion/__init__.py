"""AnimateDiff's idea: attention over frames, plugged into an image UNet that stays as it is.

Read `module.py` (what a motion module computes), then `attach.py` (where it is called).
"""

from animatediff.motion.adapter import MotionAdapter, MotionLayout, MotionNumerics
from animatediff.motion.attach import Attachment, attach, detach, frames_of
from animatediff.motion.module import FrameCount, MotionModule, frame_positions
from animatediff.motion.windows import frame_weights, uniform_windows

__all__ = [
    "Attachment",
    "FrameCount",
    "MotionAdapter",
    "MotionLayout",
    "MotionModule",
    "MotionNumerics",
    "attach",
    "detach",
    "frame_positions",
    "frame_weights",
    "frames_of",
    "uniform_windows",
]
