"""Norm of motion modules in diffusers: over all frames of a clip, whatever they were trained with."""

from __future__ import annotations

from animatediff.motion import MotionNumerics

PER_FRAME = """\
import torch
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D

for norm in [layer.norm for layer in {model}.modules() if isinstance(layer, AnimateDiffTransformer3D)]:
    norm.forward = lambda x, over=norm.forward: torch.stack([over(frame) for frame in x.unbind(2)], 2)
"""
"""Code for a model of diffusers, run once after loading: its motion modules then normalize each frame by itself, as the
original does (`animatediff/models/motion_module.py`: frames are in the batch where the norm is)."""


def runs_otherwise(numerics: MotionNumerics, *, model: str = "pipe.unet") -> str | None:
    """Why diffusers computes something else with motion modules of these numerics, and what to do; None if it does not.

    model: name of the network with the modules, for the code.
    """
    parts = []
    if not numerics.motion_norm_over_frames:
        parts.append(
            "diffusers normalizes all frames of a clip together in its motion modules, and these were trained with "
            "each frame by itself, so frames differ there (by 8 % in small models). For the same frames run once, "
            f"after loading:\n{PER_FRAME.format(model=model)}"
            "or train for diffusers (`norm`: over-frames in the stage motion)"
        )
    if numerics.image_norm_over_frames:
        parts.append(
            "this family was trained with image layers that normalize all frames of a clip together, and diffusers "
            'takes each frame by itself; docs/models.md ("Numbers in diffusers") has the code for it'
        )
    return "; and ".join(parts) or None
