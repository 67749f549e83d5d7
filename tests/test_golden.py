"""Parity with the original implementations: every golden tensor within 1e-5 in float32."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from einops import rearrange
from safetensors.torch import load_file

from animatediff.motion import Attachment, attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.lora.load import load_lora, remove_lora, set_lora_scales
from animatediff.weights.motion import load_motion_module

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
SD15_FAMILIES = ("v1", "v2", "v3")
FAMILIES = (*SD15_FAMILIES, "sdxl", "hotshot")

pytestmark = pytest.mark.exact  # the disturbance is larger than the tolerance


@cache
def expected(family: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / family / "expected.safetensors")


@cache
def case(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "case.json").read_text())


def motion_file(family: str) -> Path:
    return GOLDEN / family / ("motion_module.safetensors" if family == "hotshot" else "motion_module.ckpt")


def load_unet(family: str) -> UNet2DConditionModel:
    folder = GOLDEN / family / ("sd/unet" if family in SD15_FAMILIES else "unet")
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def load_attached(family: str) -> Attachment:
    unet = load_unet(family)
    adapter, found = load_motion_module(motion_file(family), unet=unet, dtype=torch.float32)
    assert found.name == family, "recognised from its tensors alone"
    return attach(unet, adapter)


@torch.no_grad()
def run_unet(motion: Attachment, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    sample = tensors["unet.sample"]
    num_frames = motion.frames.num_frames = sample.shape[2]
    conditions = None
    if "unet.text_embeds" in tensors:
        conditions = {
            "text_embeds": tensors["unet.text_embeds"].repeat_interleave(num_frames, 0),
            "time_ids": tensors["unet.time_ids"].repeat_interleave(num_frames, 0),
        }
    out = motion.unet(
        rearrange(sample, "b c f h w -> (b f) c h w"),
        tensors["unet.timestep"],
        tensors["unet.encoder_hidden_states"].repeat_interleave(num_frames, 0),
        added_cond_kwargs=conditions,
    ).sample
    return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    difference = (found - wanted).abs().max().item()
    assert difference <= TOLERANCE, f"differs by {difference:.2e}"


@pytest.mark.parametrize("family", FAMILIES)
def test_motion_module_alone(family: str) -> None:
    tensors = expected(family)
    adapter, _ = load_motion_module(motion_file(family), dtype=torch.float32)
    x = tensors["motion_module.in"]
    with torch.no_grad():
        y = adapter.get_submodule("down_blocks.1.motion_modules.0")(
            rearrange(x, "b c f h w -> (b f) c h w"), x.shape[2]
        )
    assert_close(rearrange(y, "(b f) c h w -> b c f h w", f=x.shape[2]), tensors["motion_module.out"])


@pytest.mark.parametrize("family", FAMILIES)
def test_unet(family: str) -> None:
    assert_close(run_unet(load_attached(family), expected(family)), expected(family)["unet.out"])


@pytest.mark.parametrize("family", SD15_FAMILIES)
def test_loras_at_every_strength(family: str) -> None:
    motion, tensors = load_attached(family), expected(family)
    unet = motion.unet
    load_lora(GOLDEN / family / "motion_lora.ckpt", unet=unet)
    for strength in (1.0, 0.5):
        set_lora_scales([unet], {"motion_lora": strength})
        assert_close(run_unet(motion, tensors), tensors[f"unet.out.motion_lora_{strength}"])
    load_lora(GOLDEN / family / "domain_adapter.ckpt", unet=unet)
    set_lora_scales([unet], {"motion_lora": 0.8, "domain_adapter": 0.6})
    assert_close(run_unet(motion, tensors), tensors["unet.out.adapter_0.6_and_motion_lora_0.8"])
    set_lora_scales([unet], {"motion_lora": 0.0, "domain_adapter": 1.0})
    assert_close(run_unet(motion, tensors), tensors["unet.out.domain_adapter_1.0"])
    for name in ("motion_lora", "domain_adapter"):
        remove_lora([unet], name)
    assert torch.equal(run_unet(motion, tensors), run_unet(load_attached(family), tensors)), "removed bit for bit"


def load_pipeline(family: str) -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / family / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(motion_file(family))
    return pipe


def render(pipe: AnimateDiffPipeline, family: str) -> torch.Tensor:
    facts = case(family)
    out = pipe(
        facts["prompt"],
        negative_prompt=facts["negative_prompt"],
        num_frames=facts["frames"],
        height=facts["size"],
        width=facts["size"],
        num_inference_steps=facts["steps"],
        guidance_scale=facts["guidance_scale"],
        latents=expected(family)["pipeline.latents"],
        output_type="pt",
    )
    return rearrange(out.frames, "b f c h w -> b c f h w")


@pytest.mark.parametrize("family", SD15_FAMILIES)
def test_prompts(family: str) -> None:
    pipe, tensors, facts = load_pipeline(family), expected(family), case(family)
    texts = [*facts["prompts"], facts["negative_prompt"]]
    ids = pipe.tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, tensors["pipeline.token_ids"].to(ids.dtype))
    states, _ = pipe.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)
    assert_close(states, tensors["pipeline.text_embeddings"])


@pytest.mark.parametrize("family", SD15_FAMILIES)
def test_pipeline_video(family: str) -> None:
    pipe, tensors = load_pipeline(family), expected(family)
    video = render(pipe, family)
    assert_close(video, tensors["pipeline.video"])
    pipe.load_lora_weights(GOLDEN / family / "motion_lora.ckpt")
    assert_close(render(pipe, family), tensors["pipeline.video.motion_lora_1.0"])
    pipe.unload_lora_weights()
    pipe.load_lora_weights(GOLDEN / family / "style_lora_kohya.safetensors", adapter_name="style")
    pipe.set_adapters(["style"], [0.8])
    assert_close(render(pipe, family), tensors["pipeline.video.style_lora_0.8"])
    pipe.unload_lora_weights()
    assert torch.equal(render(pipe, family), video), "removed bit for bit"
