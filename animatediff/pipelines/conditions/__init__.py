"""Conditions: ways of conditioning a clip besides its prompt, one file each."""

from __future__ import annotations

from dataclasses import replace

from PIL.Image import Image

from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.conditions.base import (
    Condition,
    Prepared,
    PreparedConditions,
    Setting,
    Suggestion,
    on_device,
    prepare_all,
)
from animatediff.pipelines.conditions.camera import CameraCondition
from animatediff.pipelines.conditions.controlnet import ControlNetCondition
from animatediff.pipelines.conditions.i2v import I2VCondition
from animatediff.pipelines.conditions.image import ImageCondition
from animatediff.pipelines.conditions.ip_adapter import IPAdapterCondition
from animatediff.pipelines.conditions.motion_from import MotionFromCondition
from animatediff.pipelines.conditions.pia import PIACondition
from animatediff.pipelines.conditions.sparsectrl import SparseCtrlCondition
from animatediff.pipelines.conditions.video import VideoCondition
from animatediff.pipelines.parts import LoadedParts

__all__ = [
    "Condition",
    "Prepared",
    "PreparedConditions",
    "Setting",
    "Suggestion",
    "conditions_of",
    "on_device",
    "prepare_all",
]


def conditions_of(call: Arguments, parts: LoadedParts) -> list[Condition]:
    """Conditions of a call, in the order in which they suggest its size and are prepared.

    Raises UserError for inputs that nothing loaded can read, and settings that contradict each other.
    """
    images = ImageCondition.of(call, parts)
    shown = None if images is None else {f: image for f, image in images.images.items() if isinstance(image, Image)}
    by_sparsectrl = dict(images.images) if images is not None and images.route == "sparsectrl" else {}
    pia = PIACondition.of(call, images, parts)
    i2v = None
    if images is not None and images.route == "i2v":
        i2v = I2VCondition.of(call, parts.motion_image_encoder, images.images)
    controlnets = ControlNetCondition.all_of(call, parts.controlnets, sparsectrl=parts.sparsectrl is not None)
    if any(condition.by_frames for condition in controlnets):  # they take what else is for SparseCtrl
        call = replace(call, conditioning_frames=None)
    found: list[Condition | None] = [
        VideoCondition.of(call, parts.base.vae_scale_factor, begins=pia is not None),
        images,
        i2v,
        pia,
        *controlnets,
        SparseCtrlCondition.of(call, parts.sparsectrl, by_sparsectrl),
        IPAdapterCondition.of(call, parts.unet, shown or None),
        CameraCondition.of(call, parts),
        MotionFromCondition.of(call, parts),
    ]
    return [condition for condition in found if condition is not None]
