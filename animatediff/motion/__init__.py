"""AnimateDiff's idea: attention over frames, plugged into an image UNet that stays as it is.

Read `module.py` (what a motion module computes), then `attach.py` (where it is called).
"""

from animatediff.motion.adapter import MotionAdapter, MotionLayout, MotionNumerics
from animatediff.motion.attach import Attachment, attach, detach, frames_of, norms_over_frames
from animatediff.motion.module import FrameCount, MotionModule, frame_positions
from animatediff.motion.windows import BLENDS, Window, closed_windows, plan_windows, uniform_windows, window_weights

__all__ = [
    "BLENDS",
    "Attachment",
    "FrameCount",
    "MotionAdapter",
    "MotionLayout",
    "MotionModule",
    "MotionNumerics",
    "Window",
    "attach",
    "closed_windows",
    "detach",
    "frame_positions",
    "frames_of",
    "norms_over_frames",
    "plan_windows",
    "uniform_windows",
    "window_weights",
]
