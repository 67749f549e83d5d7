"""Motion modules and domain adapters in a MODEL."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from animatediff.errors import UserError
from animatediff.frames import parse_curve

from ..attach import MotionRun, apply_motion
from ..custom_types import MotionModuleLink
from ..domain_adapter import check_adapter, with_adapter
from ..folders import ADAPTERS, file_path, files, stamp
from ..messages import in_host_words, verdict
from ..motion import Motion
from ..sampling_settings import AUTO, CHOICES, with_family_sampling
from .percents import check_percents, percent_inputs

LARGEST_SCALE = 10.0
"""Of `motion_scale`, and of its curve."""


class AnimateDiffApply(io.ComfyNode):
    """Let a motion module act in a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffApply",
            display_name="AnimateDiff Apply",
            category="AnimateDiff",
            description=(
                "Lets a motion module act in a Stable Diffusion model. Connect the MODEL to any sampler; the batch of "
                "latents is the clip: batch_size of Empty Latent Image is the number of frames, 16 for most modules. "
                "Clips longer than the module knows (32 frames for most) are sampled in context windows of 16 frames; "
                "AnimateDiff Context Windows sets others. A batch of 1 is an image."
            ),
            search_aliases=["animatediff", "video", "animation", "motion"],
            inputs=[
                io.Model.Input("model", tooltip="Of a checkpoint of the kind that the motion module was trained on."),
                MotionModuleLink.Input("motion_module", tooltip="From AnimateDiff Load Motion Module."),
                io.Float.Input(
                    "motion_scale",
                    default=1.0,
                    min=0.0,
                    max=LARGEST_SCALE,
                    step=0.01,
                    tooltip="How strongly things move: 1 as trained, 0 the image model alone; 0.8 to 1.3 are usual.",
                ),
                io.Combo.Input(
                    "sampling_settings",
                    options=list(CHOICES),
                    default=AUTO,
                    tooltip=(
                        "auto: the noise schedule that the motion module was trained with (linear betas for v1 to v3, "
                        "LCM for AnimateLCM, its own for SDXL beta). Without it most modules give grey, soft frames."
                    ),
                ),
                io.String.Input(
                    "scale_curve",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip=(
                        "Further factors of motion_scale at frames, with straight lines between: 0=1.0,15=0.3 starts "
                        "moving and calms down. -1 is the last frame. Empty: the same at all frames."
                    ),
                ),
                *percent_inputs(
                    "the motion module", "; after that each frame is an image of its own", optional=True, advanced=True
                ),
            ],
            outputs=[io.Model.Output(tooltip="For any sampler.")],
        )

    @classmethod
    def validate_inputs(cls, scale_curve: str = "") -> bool | str:
        return verdict(lambda: _curve(scale_curve))

    @classmethod
    def execute(
        cls,
        model: Any,
        motion_module: Motion,
        motion_scale: float = 1.0,
        sampling_settings: str = AUTO,
        scale_curve: str = "",
        start_percent: float = 0.0,
        end_percent: float = 1.0,
    ) -> io.NodeOutput:
        with in_host_words():
            check_percents(start_percent, end_percent)
            run = MotionRun(
                motion=motion_module,
                scale=motion_scale,
                curve=_curve(scale_curve),
                start_percent=start_percent,
                end_percent=end_percent,
            )
            patched = apply_motion(model, run)
            if sampling_settings == AUTO:
                patched = with_family_sampling(patched, motion_module.family)
            return io.NodeOutput(patched)


def _curve(text: str | None) -> float | dict[int, float]:
    """The factors of `scale_curve`, in the range of `motion_scale`."""
    if not text or not text.strip():
        return 1.0
    curve = parse_curve(text)
    for factor in curve.values() if isinstance(curve, dict) else [curve]:
        if factor > LARGEST_SCALE:
            raise UserError(f"scale_curve: {factor:g} is out of range; factors are 0 to {LARGEST_SCALE:g}")
    return curve


class AnimateDiffDomainAdapter(io.ComfyNode):
    """Put a domain adapter on a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffDomainAdapter",
            display_name="AnimateDiff Domain Adapter",
            category="AnimateDiff",
            description=(
                "Adds a domain adapter to the image layers, such as v3_sd15_adapter beside the v3 motion module: the "
                "LoRA that took up the look of the training videos. With SparseCtrl it belongs to the model at "
                "strength 1; else less, or none, gives cleaner images. Files are looked for in models/loras, "
                "models/animatediff_motion_lora and models/MotionLoRA."
            ),
            search_aliases=["v3_sd15_adapter", "adapter lora"],
            inputs=[
                io.Model.Input("model", tooltip="Of the checkpoint."),
                io.Combo.Input("adapter", options=files(ADAPTERS), tooltip="File of the domain adapter."),
                io.Float.Input("strength", default=1.0, min=-10.0, max=10.0, step=0.05, tooltip="1 as trained, 0 off."),
            ],
            outputs=[io.Model.Output(tooltip="The model with the adapter on it.")],
        )

    @classmethod
    def validate_inputs(cls, adapter: str) -> bool | str:
        return verdict(lambda: check_adapter(file_path(ADAPTERS, adapter)), adapter)

    @classmethod
    def fingerprint_inputs(cls, adapter: str, **inputs: object) -> str:
        return f"{stamp(ADAPTERS, adapter)} {inputs.get('strength')}"

    @classmethod
    def execute(cls, model: Any, adapter: str, strength: float) -> io.NodeOutput:
        with in_host_words():
            return io.NodeOutput(with_adapter(model, file_path(ADAPTERS, adapter), strength))


NODES = [AnimateDiffApply, AnimateDiffDomainAdapter]
