"""AnimateDiff's idea: attention over frames, plugged into an image UNet that stays as it is.

Read `module.py` (what a motion module computes), then `attach.py` (where it is called; `ldm.py` in other programs).

>>> import torch
>>> from diffusers import UNet2DConditionModel
>>> from animatediff.motion import MotionAdapter, attach
>>> unet = UNet2DConditionModel(
...     sample_size=8, cross_attention_dim=16, layers_per_block=1, block_out_channels=(32, 64), attention_head_dim=4,
...     down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
... )
>>> keys = set(unet.state_dict())
>>> motion = attach(unet, MotionAdapter.from_unet(unet))  # new modules change nothing until they are trained
>>> motion.num_points
6
>>> motion.frames.num_frames = 16
>>> latents, text = torch.randn(2 * 16, 4, 8, 8), torch.randn(2 * 16, 5, 16)  # two clips: (b f) c h w
>>> unet(latents, 500, text).sample.shape
torch.Size([32, 4, 8, 8])
>>> adapter = motion.detach()  # the UNet has the keys and hooks that it had before
>>> set(unet.state_dict()) == keys
True
"""

import warnings
from typing import Any

from animatediff.motion.adapter import MotionAdapter, MotionLayout, MotionNumerics
from animatediff.motion.attach import Attachment, attach, attachment_of, detach, frames_of, norms_over_frames, remember
from animatediff.motion.first_layer import IMAGE_CHANNELS, ImageConvIn, image_channels
from animatediff.motion.ldm import LdmAttachment, attach_ldm, detach_ldm, layout_of_ldm, refuse_images
from animatediff.motion.module import CameraMerge, FrameContext, MotionModule, frame_positions
from animatediff.motion.windows import BLENDS, Window, closed_windows, plan_windows, uniform_windows, window_weights

__all__ = [
    "BLENDS",
    "IMAGE_CHANNELS",
    "Attachment",
    "CameraMerge",
    "FrameContext",
    "ImageConvIn",
    "LdmAttachment",
    "MotionAdapter",
    "MotionLayout",
    "MotionModule",
    "MotionNumerics",
    "Window",
    "attach",
    "attach_ldm",
    "attachment_of",
    "closed_windows",
    "detach",
    "detach_ldm",
    "frame_positions",
    "frames_of",
    "image_channels",
    "layout_of_ldm",
    "norms_over_frames",
    "plan_windows",
    "refuse_images",
    "remember",
    "uniform_windows",
    "window_weights",
]

_RENAMED = {"FrameCount": "FrameContext"}


def __getattr__(name: str) -> Any:
    """Names of earlier versions, each with one warning."""
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now called {_RENAMED[name]}", FutureWarning, stacklevel=2)
    globals()[name] = globals()[_RENAMED[name]]
    return globals()[name]
