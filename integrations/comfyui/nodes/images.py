"""An image that a motion module animates: PIA and AnimateLCM-I2V."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from animatediff.errors import UserError
from animatediff.frames import Curve, parse_curve
from animatediff.sampling.affinity import DEFAULT_AMOUNT, MOTION_AMOUNTS, check_affinity

from ..custom_types import MotionModuleLink
from ..images import I2VImage, PIAImage
from ..messages import in_host_words, verdict
from ..motion import Motion, with_condition

FARTHEST = 4096
"""Frames from either end at which the image may stand."""


def _image_inputs(module: str) -> list[Any]:
    return [
        MotionModuleLink.Input("motion_module", tooltip=f"From AnimateDiff Load Motion Module: {module}."),
        io.Image.Input("image", tooltip="One image, brought to the size of the clip by cutting edges."),
        io.Vae.Input("vae", tooltip="Of the checkpoint."),
    ]


class AnimateDiffPIA(io.ComfyNode):
    """Let PIA animate an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffPIA",
            display_name="AnimateDiff PIA Image",
            category="AnimateDiff",
            description=(
                "Animates an image with PIA (pia.ckpt), by a prompt that says what happens. Stands between AnimateDiff "
                "Load Motion Module and AnimateDiff Apply. Best with the checkpoint that made the image; the style "
                "amounts are for another one."
            ),
            search_aliases=["image to video", "i2v", "animate image", "ADE_ApplyAnimateDiffModelWithPIA"],
            inputs=[
                *_image_inputs("pia.ckpt"),
                io.Combo.Input(
                    "motion_amount",
                    options=list(MOTION_AMOUNTS),
                    default=DEFAULT_AMOUNT,
                    tooltip=(
                        "How much the clip moves. loop-...: the last of 16 frames is the image again. style-...: "
                        "frames take the look of the checkpoint more than that of the image."
                    ),
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=-FARTHEST,
                    max=FARTHEST,
                    optional=True,
                    tooltip="Frame that shows the image; -1 is the last.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    optional=True,
                    tooltip="How strongly the image acts: 1 as trained, 0 as without it.",
                ),
                io.String.Input(
                    "image_affinity",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Likeness to the image at frames, in place of motion_amount, with straight lines between: "
                        "0=1.0,8=0.8,-1=1.0. Less of it, more motion. Empty: motion_amount counts."
                    ),
                ),
            ],
            outputs=[MotionModuleLink.Output(display_name="motion_module", tooltip="The module with its image.")],
        )

    @classmethod
    def validate_inputs(cls, image_affinity: str = "") -> bool | str:
        return verdict(lambda: _affinity(image_affinity))

    @classmethod
    def execute(
        cls,
        motion_module: Motion,
        image: Any,
        vae: Any,
        motion_amount: str = DEFAULT_AMOUNT,
        frame: int = 0,
        strength: float = 1.0,
        image_affinity: str = "",
    ) -> io.NodeOutput:
        with in_host_words():
            condition = PIAImage(
                _one(image),
                vae,
                amount=motion_amount,
                affinity=_affinity(image_affinity),
                frame=frame,
                strength=strength,
            )
            return io.NodeOutput(with_condition(motion_module, condition))


class AnimateDiffI2V(io.ComfyNode):
    """Let AnimateLCM-I2V start a clip from an image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffI2V",
            display_name="AnimateDiff I2V Image",
            category="AnimateDiff",
            description=(
                "Starts a clip from an image with AnimateLCM-I2V (AnimateLCM_sd15_i2v.ckpt). Stands between "
                "AnimateDiff Load Motion Module and AnimateDiff Apply. With its own LoRA at 0.8, the sampler lcm, 2 to "
                "4 steps and cfg 1."
            ),
            search_aliases=["image to video", "i2v", "animatelcm", "ADE_ApplyAnimateLCMI2VModel", "ref_latent"],
            inputs=[
                *_image_inputs("AnimateLCM_sd15_i2v.ckpt"),
                io.Float.Input(
                    "image_motion_scale",
                    default=0.8,
                    min=0.0,
                    max=1.5,
                    step=0.01,
                    tooltip="How much the clip moves: 0.8 as trained, 0 a still.",
                ),
            ],
            outputs=[MotionModuleLink.Output(display_name="motion_module", tooltip="The module with its image.")],
        )

    @classmethod
    def execute(cls, motion_module: Motion, image: Any, vae: Any, image_motion_scale: float = 0.8) -> io.NodeOutput:
        with in_host_words():
            condition = I2VImage(_one(image), vae, motion_scale=image_motion_scale)
            return io.NodeOutput(with_condition(motion_module, condition))


def _one(image: Any) -> Any:
    """The one image of a batch. Raises UserError where there are more."""
    if len(image) != 1:
        raise UserError(f"these motion modules animate one image, and `image` has {len(image)}: choose one of them")
    return image


def _affinity(text: str | None) -> Curve | None:
    """The curve of `image_affinity`; None for none. Raises UserError for one that is none, or above 1."""
    if not text or not text.strip():
        return None
    curve = parse_curve(text)
    check_affinity(curve.values() if isinstance(curve, dict) else [curve])
    return curve


NODES = [AnimateDiffPIA, AnimateDiffI2V]
