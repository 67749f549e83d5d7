"""Parity with the original implementations: every golden tensor within 1e-5 in float32."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from support.golden import (
    FAMILIES,
    SD15_FAMILIES,
    assert_close,
    case,
    expected,
    load_attached,
    load_pipeline,
    motion_file,
    render,
    run_unet,
)
from support.paths import GOLDEN

from animatediff.weights.lora.load import load_lora, remove_lora, set_lora_scales
from animatediff.weights.motion import load_motion_module

pytestmark = pytest.mark.exact  # the disturbance is larger than the tolerance


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
