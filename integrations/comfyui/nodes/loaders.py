"""Load motion modules, and put MotionLoRAs on them."""

# pyright: reportMissingImports=false

from __future__ import annotations

from comfy_api.latest import io

from animatediff.weights.families import FAMILIES

from ..custom_types import MotionModuleLink
from ..folders import MOTION_LORAS, MOTION_MODULES, file_path, files, stamp
from ..messages import in_host_words, verdict
from ..motion import Motion, check_motion_module, load_motion, lora_of_kind, with_lora

AUTO = "auto"
"""The family that the file says."""


def _family(name: str) -> str | None:
    return None if name == AUTO else name


class AnimateDiffLoadMotionModule(io.ComfyNode):
    """Load a motion module of any family."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffLoadMotionModule",
            display_name="AnimateDiff Load Motion Module",
            category="AnimateDiff",
            description=(
                "Loads a motion module: AnimateDiff v1, v2, v3 and SDXL beta, AnimateLCM, AnimateDiff-Lightning, "
                "LongAnimateDiff, HotshotXL, and those trained with AnimateDiff. Files are looked for in "
                "models/animatediff_models and models/Motion_Module. Connect it to AnimateDiff Apply, or to "
                "AnimateDiff MotionLoRA before that."
            ),
            search_aliases=["motion model", "mm_sd", "v3_sd15_mm", "animatediff loader"],
            inputs=[
                io.Combo.Input("motion_module", options=files(MOTION_MODULES), tooltip="File of the motion module."),
                io.Combo.Input(
                    "family",
                    options=[AUTO, *FAMILIES],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "How it was trained. auto: what is in the file says it, which is right for published files "
                        "under any name. Set it where two families have files of one shape and the name was lost: "
                        "AnimateDiff-Lightning looks like v2."
                    ),
                ),
                io.Boolean.Input(
                    "conv_in_from_file",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "PIA only: take its first layer wholly from its file, which suits the checkpoint that it was "
                        "trained with. Off: what the layer does with the noise is the checkpoint's own."
                    ),
                ),
            ],
            outputs=[MotionModuleLink.Output(display_name="motion_module", tooltip="For AnimateDiff Apply.")],
        )

    @classmethod
    def validate_inputs(cls, motion_module: str) -> bool | str:
        return verdict(lambda: check_motion_module(file_path(MOTION_MODULES, motion_module)), motion_module)

    @classmethod
    def fingerprint_inputs(cls, motion_module: str, family: str = AUTO, conv_in_from_file: bool = False) -> str:
        return f"{stamp(MOTION_MODULES, motion_module)} {family} {conv_in_from_file}"

    @classmethod
    def execute(cls, motion_module: str, family: str = AUTO, conv_in_from_file: bool = False) -> io.NodeOutput:
        with in_host_words():
            path = file_path(MOTION_MODULES, motion_module)
            return io.NodeOutput(load_motion(path, _family(family), conv_in_from_file=conv_in_from_file))


class AnimateDiffMotionLora(io.ComfyNode):
    """Put a MotionLoRA on a motion module."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffMotionLora",
            display_name="AnimateDiff MotionLoRA",
            category="AnimateDiff",
            description=(
                "Adds a MotionLoRA to a motion module: camera moves such as zooming in, panning left or rolling. The "
                "published ones were made for the v2 motion module. Chain several of these nodes to combine moves. "
                "Files are looked for in models/animatediff_motion_lora and models/MotionLoRA."
            ),
            search_aliases=["motion lora", "camera move", "zoom", "pan", "tilt", "roll"],
            inputs=[
                MotionModuleLink.Input("motion_module", tooltip="From AnimateDiff Load Motion Module."),
                io.Combo.Input("lora", options=files(MOTION_LORAS), tooltip="File of the MotionLoRA."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="1 as trained, 0 off. Less than 1 moves less; above 1.2 images soon break.",
                ),
            ],
            outputs=[MotionModuleLink.Output(display_name="motion_module", tooltip="The module with the LoRA on it.")],
        )

    @classmethod
    def validate_inputs(cls, lora: str) -> bool | str:
        return verdict(lambda: lora_of_kind(file_path(MOTION_LORAS, lora), "motion_lora"), lora)

    @classmethod
    def fingerprint_inputs(cls, lora: str, **inputs: object) -> str:
        return f"{stamp(MOTION_LORAS, lora)} {inputs.get('strength')}"

    @classmethod
    def execute(cls, motion_module: Motion, lora: str, strength: float) -> io.NodeOutput:
        with in_host_words():
            return io.NodeOutput(with_lora(motion_module, file_path(MOTION_LORAS, lora), strength))


NODES = [AnimateDiffLoadMotionModule, AnimateDiffMotionLora]
