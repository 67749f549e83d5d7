"""The golden cases: models of each family, what the original implementations computed, and how close is equal."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file

from animatediff.motion import Attachment, attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.motion import load_motion_module
from support.paths import GOLDEN

TOLERANCE = 1e-5
SD15_FAMILIES = ("v1", "v2", "v3")
FAMILIES = (*SD15_FAMILIES, "sdxl", "hotshot")
FILES = {
    "hotshot": "motion_module.safetensors",
    "pia": "pia.ckpt",
    "cameractrl": "v3_sd15_mm.ckpt",
    "animatelcm": "AnimateLCM_sd15_t2v.ckpt",
    "animatelcm_i2v": "AnimateLCM_sd15_i2v.ckpt",
}
"""Motion modules of other names than motion_module.ckpt."""


@cache
def expected(family: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / family / "expected.safetensors")


@cache
def case(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "case.json").read_text())


def motion_file(family: str) -> Path:
    return GOLDEN / family / FILES.get(family, "motion_module.ckpt")


def load_unet(family: str) -> UNet2DConditionModel:
    folder = GOLDEN / family / ("unet" if family in ("sdxl", "hotshot") else "sd/unet")
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def load_attached(family: str) -> Attachment:
    unet = load_unet(family)
    adapter, found = load_motion_module(motion_file(family), unet=unet, dtype=torch.float32)
    assert found.name == family, "recognised from its tensors alone"
    return attach(unet, adapter)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    difference = (found - wanted).abs().max().item()
    assert difference <= TOLERANCE, f"differs by {difference:.2e}"


def load_pipeline(family: str) -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / family / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(motion_file(family))
    return pipe


@torch.no_grad()
def run_unet(motion: Attachment, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The UNet's output for the tensors of a case, on its device and in its number format."""
    place = {"device": motion.unet.device, "dtype": motion.unet.dtype}
    sample = tensors["unet.sample"].to(**place)
    num_frames = motion.frames.num_frames = sample.shape[2]

    def each(name: str) -> torch.Tensor:
        return tensors[name].to(**place).repeat_interleave(num_frames, 0)

    conditions = None
    if "unet.text_embeds" in tensors:
        conditions = {"text_embeds": each("unet.text_embeds"), "time_ids": each("unet.time_ids")}
    out = motion.unet(
        rearrange(sample, "b c f h w -> (b f) c h w"),
        tensors["unet.timestep"].to(motion.unet.device),
        each("unet.encoder_hidden_states"),
        added_cond_kwargs=conditions,
    ).sample
    return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames)


def render(pipe: AnimateDiffPipeline, family: str, **settings: Any) -> torch.Tensor:
    """The clip of a case: (b, c, f, h, w). settings: arguments of the call beside the case's, or in their place."""
    facts = case(family)
    of_case = {
        "negative_prompt": facts["negative_prompt"],
        "num_frames": facts["frames"],
        "height": facts.get("height", facts.get("size")),
        "width": facts.get("width", facts.get("size")),
        "num_inference_steps": facts["steps"],
        "guidance_scale": facts.get("guidance_scale"),
        "latents": expected(family)["pipeline.latents"].to(pipe.unet.device, pipe.unet.dtype),
        "output_type": "pt",
    }
    out = pipe(facts["prompt"], **(of_case | settings))
    return rearrange(out.frames, "b f c h w -> b c f h w")
