"""Distilled and unusual UNets: they load exactly, alone or in a whole file, and render as in diffusers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from support import ldm_files
from support.close import relative
from support.paths import GOLDEN
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.base.single_file import load_base, load_base_single_file
from animatediff.weights.base.unet import load_unet, save_image_model
from animatediff.weights.motion import load_motion_module
from animatediff.weights.storage.files import load_tensors

V3 = GOLDEN / "v3"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
KINDS: dict[str, dict[str, Any]] = {
    # SSD-1B and Segmind-Vega: depths that differ between layers, a mid block without attention
    "SSD-1B": {
        "block_out_channels": (32, 64, 64), "layers_per_block": 2, "cross_attention_dim": 96,
        "down_block_types": ("DownBlock2D", *CROSS[:1] * 2), "up_block_types": (*CROSS[1:] * 2, "UpBlock2D"),
        "mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, [1, 1], [2, 2]],
        "reverse_transformer_layers_per_block": [[2, 2, 3], [2, 1, 1], 1], "attention_head_dim": [1, 1, 1],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
    # KOALA: one layer a block, the up path as deep as the down path, no mid block
    "KOALA": {
        "block_out_channels": (32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 96,
        "down_block_types": ("DownBlock2D", *CROSS[:1] * 2), "up_block_types": (*CROSS[1:] * 2, "UpBlock2D"),
        "mid_block_type": None, "transformer_layers_per_block": [1, 1, 2], "attention_head_dim": [1, 1, 1],
        "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    },
    # small-sd and BK-SDM: one layer a block
    "small-sd": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 64},
    # tiny-sd and BK-SDM-Tiny: three levels, no mid block
    "tiny-sd": {
        "block_out_channels": (32, 64, 64), "layers_per_block": 1, "cross_attention_dim": 64, "mid_block_type": None,
        "down_block_types": CROSS[:1] * 3, "up_block_types": CROSS[1:] * 3,
    },
}  # fmt: skip


def generation(kind: str) -> str:
    return "sd1" if kind.endswith("sd") else "sdxl"


@pytest.fixture(scope="module", params=KINDS)
def distilled(request: pytest.FixtureRequest) -> tuple[str, UNet2DConditionModel, dict[str, Any]]:
    torch.manual_seed(2)
    parts = ldm_files.models(generation(request.param))
    return request.param, UNet2DConditionModel(**KINDS[request.param]).eval(), parts


def ldm_unet(kind: str, unet: UNet2DConditionModel, prefix: str = "model.diffusion_model.") -> dict[str, Tensor]:
    per_level = KINDS[kind]["layers_per_block"] + 1
    keys = ldm_files.unet_keys(unet.state_dict(), per_level=per_level, prefix=prefix)
    return {key: value.clone() for key, value in keys.items()}


@torch.inference_mode()
def predict(unet: UNet2DConditionModel) -> Tensor:
    random = torch.Generator().manual_seed(1)
    x, context = (
        torch.randn(2, 4, 16, 16, generator=random),
        torch.randn(2, 5, unet.config["cross_attention_dim"], generator=random),
    )
    added = None
    if unet.config["addition_embed_type"] == "text_time":
        added = {"text_embeds": torch.randn(2, 32, generator=random), "time_ids": torch.ones(2, 6)}
    return unet(x, 500, encoder_hidden_states=context, added_cond_kwargs=added).sample


@pytest.mark.parametrize("layout", ["whole file", "bare LDM", "diffusers"])
def test_single_files_load_exactly_and_compute_as_diffusers(distilled, layout: str, tmp_path: Path) -> None:
    kind, unet, parts = distilled
    whole = ldm_files.single_file(generation(kind), parts)
    others = {key: value for key, value in whole.items() if not key.startswith("model.diffusion_model.")}
    supplied: dict[str, Any] = {name: part for name, part in parts.items() if name != "unet"}
    if layout == "whole file":
        state, supplied = others | ldm_unet(kind, unet), {}
    else:
        state = ldm_unet(kind, unet, "") if layout == "bare LDM" else dict(unet.state_dict())
    save_file(state, tmp_path / "model.safetensors")
    if layout != "whole file":
        options = ", ".join(f"`{name}`" for name in supplied)
        with pytest.raises(UserError, match=f"only a UNet, in the .* layout, .*add {options}"):
            load_base_single_file(tmp_path / "model.safetensors")
    loaded = load_base(tmp_path / "model.safetensors", **supplied)["unet"]
    found, wanted = loaded.state_dict(), unet.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    assert relative(predict(loaded), predict(unet)) < 1e-5


def test_their_own_motion_modules_fit_and_published_ones_are_said_not_to(distilled) -> None:
    _, unet, _ = distilled
    expected = predict(unet)
    attachment = attach(unet, MotionAdapter.from_unet(unet))
    attachment.frames.num_frames = 2
    assert relative(predict(unet), expected) < 1e-5
    attachment.detach()
    for family in ("v2", "v3"):
        with pytest.raises(UserError, match=r"does not fit the base model: its modules are|for SD 1.x base models"):
            load_motion_module(GOLDEN / family / "motion_module.ckpt", unet=unet)
    if unet.mid_block is None:
        with pytest.raises(ValueError, match="no mid block"):
            MotionAdapter.from_unet(unet, mid_block=True)


def test_three_levels_alone_do_not_make_an_sdxl() -> None:
    with pytest.raises(UserError, match="does not fit the base model: its modules are"):
        load_motion_module(V3 / "motion_module.ckpt", unet=UNet2DConditionModel(**KINDS["tiny-sd"]))


SETTINGS: dict[str, dict[str, Any]] = {
    "no mid block": {"mid_block_type": None},
    "mid block without attention": {"mid_block_type": "UNetMidBlock2D"},
    "layers by block": {"layers_per_block": [1, 2, 1, 1]},
    "depths by layer": {
        "transformer_layers_per_block": [[2], [1], [2], 1],
        "reverse_transformer_layers_per_block": [1, [1, 2], [2, 1], [1, 1]],
    },
    "heads by block": {"attention_head_dim": [2, 4, 8, 8]},
    "cross attention only": {"only_cross_attention": True},
    "Fourier time embedding": {"time_embedding_type": "fourier"},
    "kernel": {"conv_in_kernel": 1},
    "attention without text": {
        "down_block_types": ["AttnDownBlock2D"] * 4, "up_block_types": ["AttnUpBlock2D"] * 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS)
def test_stills_from_folders_are_those_of_diffusers(settings: str, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(V3 / "sd", folder, ignore=shutil.ignore_patterns("unet"))
    config = json.loads((V3 / "sd" / "unet" / "config.json").read_text("utf-8"))
    torch.manual_seed(0)
    UNet2DConditionModel.from_config({**config, **SETTINGS[settings]}).save_pretrained(folder / "unet")
    ours = AnimateDiffPipeline.from_pretrained(folder, torch_dtype="float32")
    ours.set_motion_adapter(MotionAdapter.from_unet(ours.unet))
    ours.set_scheduler("ddim")
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, torch_dtype=torch.float32)
    theirs.scheduler = ours.base.scheduler
    for pipe in (ours, theirs):
        pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    call = {"height": 32, "width": 32, "num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    frame = ours("a cat", latents=noise[:, :, None], num_frames=1, negative_prompt="", **call).frames[0, 0]
    image = theirs("a cat", latents=noise, negative_prompt="", **call).images[0]
    assert relative(frame, image) < 1e-5


def test_a_sparsectrl_encoder_keeps_its_own_mid_block(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.weights.sparsectrl import load_sparsectrl

    config = UNet2DConditionModel.load_config(V3 / "sd" / "unet")
    unet: Any = UNet2DConditionModel.from_config({**config, "mid_block_type": None})
    encoder = load_sparsectrl(V3 / "sparsectrl_rgb.ckpt", unet=unet)
    assert encoder.mid_block is not None
    assert "left out" not in caplog.text
    own = SparseCtrl.from_unet(unet)
    own.enable_gradient_checkpointing()
    residuals = own(
        torch.zeros(2, 4, 16, 16), torch.ones(2, 1, 16, 16), torch.tensor([500]), torch.zeros(2, 3, 32), num_frames=2
    )
    assert residuals.mid.shape[1] == unet.config["block_out_channels"][-1]


def test_fp8_weights_are_multiplied_by_their_scales(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = ldm_files.models("sd1")
    state = ldm_files.single_file("sd1", parts)
    expected = dict(parts["unet"].state_dict())
    plain, scaled = "conv_in.weight", "time_embedding.linear_1.weight"
    for name, key, end in (
        (plain, "input_blocks.0.0.weight", "scale_weight"),
        (scaled, "time_embed.0.weight", "weight_scale"),
    ):
        scale = 0.25 if name == plain else torch.linspace(0.1, 0.4, expected[name].shape[0])
        stored = (expected[name] / torch.as_tensor(scale).view(-1, *[1] * (expected[name].ndim - 1))).to(
            torch.float8_e4m3fn
        )
        state[f"model.diffusion_model.{key}"] = stored
        state[f"model.diffusion_model.{key.removesuffix('weight')}{end}"] = torch.as_tensor(scale)
        expected[name] = stored.float() * torch.as_tensor(scale).view(-1, *[1] * (stored.ndim - 1))
    state["model.diffusion_model.scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    save_file(state, tmp_path / "model.safetensors")
    unet = load_base_single_file(tmp_path / "model.safetensors", dtype=torch.float32)["unet"]
    assert "left out" not in caplog.text
    assert all(torch.equal(value, expected[key]) for key, value in unet.state_dict().items())
    written = tmp_path / "trained.safetensors"
    save_image_model(written, unet.state_dict(), tmp_path / "model.safetensors", metadata={})
    again = load_base_single_file(written, dtype=torch.float32)["unet"]
    assert all(torch.equal(value, expected[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("beside", "kind"),
    [
        ({".absmax": "F", ".quant_map": "F"}, "bitsandbytes, 4 bits"),
        ({".quant_state.bitsandbytes__nf4": "F"}, "bitsandbytes, 4 bits"),
        ({".SCB": "F"}, "bitsandbytes, 8 bits"),
        ({}, "int8 numbers"),
    ],
)
def test_quantized_weights_are_refused_by_name(beside: dict[str, str], kind: str, tmp_path: Path) -> None:
    parts = ldm_files.models("sd1")
    state = ldm_files.single_file("sd1", parts)
    key = "model.diffusion_model.time_embed.0.weight"
    state[key] = torch.zeros(state[key].shape, dtype=torch.int8)
    for end in beside:
        stem = key.removesuffix(".weight") if end == ".SCB" else key
        state[stem + end] = torch.zeros(1)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=rf"quantized weights \({kind}"):
        load_base_single_file(tmp_path / "model.safetensors")


def test_unets_alone_are_trained_and_saved_under_their_own_names(tmp_path: Path) -> None:
    kind = "tiny-sd"
    unet = UNet2DConditionModel(**KINDS[kind])
    changed = {key: value + 1 for key, value in unet.state_dict().items()}
    for name, state in (("ldm", ldm_unet(kind, unet, "")), ("diffusers", dict(unet.state_dict()))):
        source, target = tmp_path / f"{name}.safetensors", tmp_path / f"{name}_trained.safetensors"
        save_file(state, source)
        save_image_model(target, changed, source, metadata={})
        assert load_tensors(target).keys() == state.keys()
        load_unet(unet, target)
        assert all(torch.equal(value, changed[key]) for key, value in unet.state_dict().items())
        load_unet(unet, source)


def test_text_encoders_under_every_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = ldm_files.models("sd1")
    path = tmp_path / "model.safetensors"
    whole = ldm_files.single_file("sd1", parts)
    save_file({key: value for key, value in whole.items() if not key.startswith("cond_stage")}, path)
    state = {key.removeprefix("text_model."): value for key, value in parts["text_encoder"].state_dict().items()}
    extra = {"text_projection.weight": torch.zeros(4, 64), "vision_model.a": torch.zeros(1)}
    for name, renamed in {
        "transformers": {f"text_model.{key}": value for key, value in state.items()} | extra,
        "newer": state,
        "ComfyUI": {f"clip_l.transformer.text_model.{key}": value for key, value in state.items()},
        "OpenCLIP": ldm_files.openclip_keys(state, "") | {"visual.conv1.weight": torch.zeros(1)},
    }.items():
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.clone() for key, value in renamed.items()}, file)
        loaded = load_base(path, text_encoder=file)["text_encoder"].state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in parts["text_encoder"].state_dict().items()), name
    assert "left out" not in caplog.text
    long = {**state, "embeddings.position_embedding.weight": torch.zeros(248, 64)}
    save_file(long, tmp_path / "long.safetensors")
    load_base(path, text_encoder=tmp_path / "long.safetensors")
    assert "248 positions" in caplog.text
    original = ldm_files.openclip_keys(state, "") | {"positional_embedding_res": torch.zeros(248, 64)}
    save_file(original, tmp_path / "long_original.safetensors")
    with pytest.raises(UserError, match="a LongCLIP in its original layout"):
        load_base(path, text_encoder=tmp_path / "long_original.safetensors")
