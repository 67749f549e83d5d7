"""LoRAs of a pipeline by the calls of diffusers; frames against those of the file, and weights against plain merges."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import TINY, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline

FOLDER = GOLDEN / "v2"
BY_SIDE = {"unet": {"down": 0.5, "mid": 0.5, "up": 0.5}, "text_encoder": 0.5}
STYLE, MOTION = FOLDER / "style_lora_kohya.safetensors", FOLDER / "motion_lora.ckpt"


@pytest.fixture(scope="module")
def own() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(
        FOLDER / "sd", torch_dtype=torch.float32, motion_adapter=FOLDER / "motion_module.ckpt"
    )


@pytest.fixture
def pipe(own: AnimateDiffPipeline) -> Any:
    yield own
    own.enable_lora()
    own.unload_lora_weights()


def latents(pipe: AnimateDiffPipeline) -> torch.Tensor:
    return pipe("a cat", generator=seeded(1), **TINY).frames


@pytest.fixture(scope="module")
def wanted(own: AnimateDiffPipeline) -> dict[str, torch.Tensor]:
    """Latents without LoRA, and with the style at 1 and at 0.5, as the file is loaded."""
    found = {"plain": latents(own)}
    for name, scale in (("full", 1.0), ("half", 0.5)):
        own.load_lora_weights(STYLE, adapter_name="style", scale=scale)
        found[name] = latents(own)
        own.unload_lora_weights()
    assert relative(found["full"], found["plain"]) > 1e-3
    return found


def test_where_a_lora_is(pipe: AnimateDiffPipeline, wanted: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for file in (tmp_path / "a.safetensors", tmp_path / "sub" / "b.safetensors"):
        file.write_bytes(STYLE.read_bytes())
    save_file(load_file(STYLE), tmp_path / "sub" / "c.safetensors")
    state = load_file(STYLE)
    for load in (
        lambda: pipe.load_lora_weights(tmp_path, weight_name="a.safetensors", adapter_name="style"),
        lambda: pipe.load_lora_weights(str(tmp_path), subfolder="sub", weight_name="b.safetensors"),
        lambda: pipe.load_lora_weights(state, "style", prefix=None, low_cpu_mem_usage=True),
        lambda: pipe.load_lora_weights(STYLE, local_files_only=True, token=None),
    ):
        load()
        assert torch.equal(latents(pipe), wanted["full"])
        pipe.unload_lora_weights()


def test_several_by_tensors(pipe: AnimateDiffPipeline) -> None:
    state = load_file(STYLE)
    before = {key: value.clone() for key, value in state.items()}
    pipe.load_lora_weights(state, "one")
    pipe.load_lora_weights(state, "two")
    assert pipe.get_active_adapters() == ["one", "two"]
    assert all(torch.equal(state[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (
            (FOLDER,),
            {"weight_name": "motion_lora.ckp"},
            "has no file 'motion_lora.ckp'; did you mean 'motion_lora.ckpt'",
        ),
        (({"a": [1]},), {}, "a LoRA given as tensors has a list as 'a'"),
        (({},), {}, "LoRA: not a LoRA: no key has `lora` in it"),
        ((STYLE,), {"wait_name": "x"}, "unknown keyword of load_lora_weights 'wait_name'; did you mean 'weight_name'"),
        ((STYLE,), {"hotswap": True}, "unknown keyword of load_lora_weights 'hotswap'"),
    ],
)
def test_what_is_no_lora(pipe: AnimateDiffPipeline, arguments: Any, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe.load_lora_weights(*arguments, **keywords)
    assert pipe.get_list_adapters() == {}


def test_switching(pipe: AnimateDiffPipeline, wanted: dict[str, torch.Tensor]) -> None:
    pipe.load_lora_weights(STYLE, "style")
    pipe.load_lora_weights(MOTION, "zoom")
    pipe.set_adapters("style")
    assert pipe.get_active_adapters() == ["style"]
    assert torch.equal(latents(pipe), wanted["full"])
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    assert torch.equal(latents(pipe), wanted["plain"])
    pipe.enable_lora()
    assert torch.equal(latents(pipe), wanted["full"])
    assert pipe.get_list_adapters()["unet"] == ["style", "zoom"]
    with pytest.raises(UserError, match="unknown LoRA 'styl'; did you mean 'style'"):
        pipe.delete_adapters(["zoom", "styl"])
    pipe.delete_adapters(["zoom", "style"])
    assert torch.equal(latents(pipe), wanted["plain"]) and pipe.get_list_adapters() == {}


def test_normalisations_are_switched_too(pipe: AnimateDiffPipeline, wanted: dict[str, torch.Tensor]) -> None:
    """PEFT has no layer for them."""
    width = pipe.unet.down_blocks[0].resnets[0].norm1.num_channels
    state = {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.full((width,), 0.5)}
    state |= {"lora_unet_down_blocks_0_resnets_0_norm1.b_norm": torch.full((width,), 0.5)}
    pipe.load_lora_weights(state, "norm")
    changed = latents(pipe)
    assert relative(changed, wanted["plain"]) > 1e-4
    pipe.disable_lora()
    assert torch.equal(latents(pipe), wanted["plain"])
    pipe.enable_lora()
    assert torch.equal(latents(pipe), changed)
    with pytest.raises(UserError, match=r"the LoRA 'norm' is more than low-rank pairs .* leave `fuse_lora` out"):
        pipe.fuse_lora()


@pytest.mark.parametrize(
    "weights",
    [
        0.5,
        [0.5],
        {"unet": 0.5, "text_encoder": 0.5},
        [{"unet": {"down": 0.5, "mid": 0.5, "up": 0.5}, "text_encoder": 0.5}],
    ],
)
def test_strengths(pipe: AnimateDiffPipeline, wanted: dict[str, torch.Tensor], weights: Any) -> None:
    pipe.load_lora_weights(STYLE, "style")
    pipe.set_adapters(["style"], adapter_weights=weights)
    assert torch.equal(latents(pipe), wanted["half"])
    pipe.set_adapters("style", None)
    assert torch.equal(latents(pipe), wanted["full"])


def test_strengths_by_block_are_diffusers(pipe: AnimateDiffPipeline) -> None:
    """Layer by layer as diffusers expands them, on the layers that it knows: those of the image model."""
    from diffusers.loaders.unet_loader_utils import _maybe_expand_lora_scales

    pipe.load_lora_weights(STYLE, "style")
    blocks = [number for number, block in enumerate(pipe.unet.up_blocks) if hasattr(block, "attentions")]
    layers = len(pipe.unet.up_blocks[blocks[0]].attentions)
    strengths = {"down": 0.25, "mid": 0.75, "up": {f"block_{blocks[0]}": [0.1 * i for i in range(layers)]}}
    strengths["up"] |= {f"block_{number}": 0.9 for number in blocks[1:]}
    pipe.set_adapters("style", {"unet": strengths})
    (expanded,) = _maybe_expand_lora_scales(pipe.unet, [strengths])
    assert isinstance(expanded, dict)
    seen = 0
    for path, layer in pipe.unet.named_modules():
        if hasattr(layer, "scaling") and "style" in layer.scaling:
            scale = next((scale for place, scale in expanded.items() if path.startswith(f"{place}.")), None)
            if scale is not None:
                ratio = layer.scaling["style"] / (layer.lora_alpha["style"] / layer.r["style"])
                assert ratio == pytest.approx(scale)
                seen += 1
    assert seen >= 8


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"unt": 1.0}, "unknown model in the strengths of a LoRA 'unt'; did you mean 'unet'"),
        ({"unet": {"dwn": 1.0}}, "unknown side of the UNet in the strengths of a LoRA 'dwn'"),
        ({"unet": {"up": {"block_9": 1.0}}}, "unknown block of the UNet's up side 'block_9'"),
        ({"unet": {"down": {"block_0": [1.0] * 9}}}, "block_0 of the UNet's down side has"),
        ({"text_encoder": {"down": 1.0}}, "the strength of a LoRA on a text_encoder is a number"),
        ("much", "the strength of a LoRA is a number"),
        (float("nan"), "the strength of a LoRA is a number"),
        ([0.1, 0.2], r"1 adapters \(style\) want 1 weights, got 2"),
    ],
)
def test_what_is_no_strength(pipe: AnimateDiffPipeline, weights: Any, message: str) -> None:
    pipe.load_lora_weights(STYLE, "style")
    with pytest.raises(UserError, match=message):
        pipe.set_adapters("style", weights)


def test_fusing(wanted: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(
        FOLDER / "sd", torch_dtype=torch.float32, motion_adapter=FOLDER / "motion_module.ckpt"
    )
    with pytest.raises(UserError, match="there is no LoRA to fuse"):
        pipe.fuse_lora()
    pipe.load_lora_weights(STYLE, "style")
    pipe.load_lora_weights(MOTION, "zoom", scale=0.0)
    with pytest.raises(UserError, match="unknown LoRA 'stile'"):
        pipe.fuse_lora(adapter_names=["stile"])
    pipe.fuse_lora(lora_scale=0.5, safe_fusing=True)
    assert pipe.num_fused_loras == 2
    assert relative(latents(pipe), wanted["half"]) < 1e-5
    with caplog.at_level(logging.WARNING):
        pipe.set_adapters("style", 0.0)
    assert "style: fused into the weights at its strength; call `unfuse_lora` first" in caplog.text
    with pytest.raises(UserError, match="LoRAs are fused already"):
        pipe.fuse_lora()
    with pytest.raises(UserError, match="style: fused into the weights beside others"):
        pipe.delete_adapters("style")
    assert relative(latents(pipe), wanted["half"]) < 1e-5
    pipe.unfuse_lora()
    assert relative(latents(pipe), wanted["full"]) < 1e-5
    pipe.set_adapters("style", 0.0)
    assert relative(latents(pipe), wanted["plain"]) < 1e-5
    pipe.set_adapters("style")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert pipe.get_list_adapters() == {}
    assert relative(latents(pipe), wanted["full"]) < 1e-5
    caplog.clear()
    pipe.unfuse_lora()
    assert "style: was fused and then unloaded, so it stays in the weights" in caplog.text


def test_a_fused_few_step_lora_keeps_its_sampler(tmp_path: Path) -> None:
    """It acts on after it was unloaded."""
    pipe = AnimateDiffPipeline.from_pretrained(
        FOLDER / "sd", torch_dtype=torch.float32, motion_adapter=FOLDER / "motion_module.ckpt"
    )
    state = {key: value for key, value in load_file(STYLE).items() if key.startswith("lora_unet")}
    save_file(state, tmp_path / "lcm_lora.safetensors")
    before = type(pipe.scheduler)
    pipe.load_lora_weights(tmp_path / "lcm_lora.safetensors", "lcm")
    assert type(pipe.scheduler).__name__ == "LCMScheduler"
    pipe.disable_lora()
    assert type(pipe.scheduler) is before
    pipe.enable_lora()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert type(pipe.scheduler).__name__ == "LCMScheduler" and pipe.defaults.num_inference_steps == 6
