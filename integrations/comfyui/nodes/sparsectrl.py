"""SparseCtrl: images or sketches at some frames of the clip."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from animatediff.errors import UserError
from animatediff.frames import frame_indices, frame_number

from ..custom_types import SparseCtrlLink
from ..folders import SPARSECTRLS, file_path, files, stamp
from ..messages import in_host_words, verdict
from ..sparsectrl import Encoder, SparseControl, check_encoder, load_encoder, with_control
from .percents import check_percents, percent_inputs


class AnimateDiffLoadSparseCtrl(io.ComfyNode):
    """Load a SparseCtrl encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffLoadSparseCtrl",
            display_name="AnimateDiff Load SparseCtrl",
            category="AnimateDiff",
            description=(
                "Loads a SparseCtrl encoder: v3_sd15_sparsectrl_rgb reads images, v3_sd15_sparsectrl_scribble reads "
                "sketches. Files are looked for in models/SparseCtrl and models/controlnet."
            ),
            search_aliases=["sparsectrl loader", "v3_sd15_sparsectrl"],
            inputs=[io.Combo.Input("sparsectrl", options=files(SPARSECTRLS), tooltip="File of the encoder.")],
            outputs=[SparseCtrlLink.Output(display_name="sparsectrl", tooltip="For AnimateDiff SparseCtrl Apply.")],
        )

    @classmethod
    def validate_inputs(cls, sparsectrl: str) -> bool | str:
        return verdict(lambda: check_encoder(file_path(SPARSECTRLS, sparsectrl)), sparsectrl)

    @classmethod
    def fingerprint_inputs(cls, sparsectrl: str) -> str:
        return stamp(SPARSECTRLS, sparsectrl)

    @classmethod
    def execute(cls, sparsectrl: str) -> io.NodeOutput:
        with in_host_words():
            return io.NodeOutput(load_encoder(file_path(SPARSECTRLS, sparsectrl)))


class AnimateDiffSparseCtrlApply(io.ComfyNode):
    """Show images at frames of a clip."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffSparseCtrlApply",
            display_name="AnimateDiff SparseCtrl Apply",
            category="AnimateDiff",
            description=(
                "Shows images or sketches at frames of the clip: one image at frame 0 is animated, two at 0 and -1 are "
                "the first and the last, sketches draw what happens. Connect both outputs to the sampler; the MODEL "
                "needs the v3 motion module, best with the domain adapter at strength 1. Can follow and precede "
                "ComfyUI's own Apply ControlNet."
            ),
            search_aliases=["image to video", "i2v", "keyframe", "first and last frame", "sketch"],
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                SparseCtrlLink.Input("sparsectrl", tooltip="From AnimateDiff Load SparseCtrl."),
                io.Image.Input(
                    "images", tooltip="A batch of images, brought to the size of the clip by cutting edges."
                ),
                io.String.Input(
                    "frames",
                    default="0",
                    tooltip="A frame for each image, such as 0 or 0,8,-1; -1 is the last frame of the clip.",
                ),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01, tooltip="1 as trained, 0 off."),
                *percent_inputs("it"),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Of the checkpoint; the encoder of images (rgb) needs it, that of sketches does not.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames: str) -> bool | str:
        return verdict(lambda: _frames(frames), frames)

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        sparsectrl: Encoder,
        images: Any,
        frames: str = "0",
        strength: float = 1.0,
        start_percent: float = 0.0,
        end_percent: float = 1.0,
        vae: Any = None,
    ) -> io.NodeOutput:
        if strength == 0:
            return io.NodeOutput(positive, negative)
        with in_host_words():
            check_percents(start_percent, end_percent)
            indices = _frames(frames)
            frame_indices(indices, len(images))
            if sparsectrl.network.kind == "rgb" and vae is None:
                raise UserError(f"{sparsectrl.path.name} reads images: connect the VAE of the checkpoint")
            control = SparseControl(sparsectrl, images, indices)
        control.set_cond_hint(images, strength, (start_percent, end_percent), vae=vae)
        control.vae = vae
        copies: dict[Any, SparseControl] = {}
        return io.NodeOutput(*(with_control(cond, control, copies) for cond in (positive, negative)))


def _frames(text: str) -> list[int]:
    """Frames from a text such as `0,8,-1`. Raises UserError for one that is none."""
    return [frame_number(part) for part in text.split(",") if part.strip()]


NODES = [AnimateDiffLoadSparseCtrl, AnimateDiffSparseCtrlApply]
