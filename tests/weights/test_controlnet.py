"""ControlNet files: differences to a base model, folders of every make, and their relatives, each refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.close import relative
from support.controlnet_files import in_original_names, save_controlnet
from support.paths import GOLDEN
from support.weight_files import write_hollow

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.addons.controlnet import check_controlnet, load_controlnet

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(GOLDEN / "v3" / "sd", subfolder="unet")


@pytest.fixture(scope="module")
def folder(unet: UNet2DConditionModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_controlnet(tmp_path_factory.mktemp("net") / "edges", unet, 1, (8, 16))


def load(path: Path, unet: UNet2DConditionModel) -> ControlNetModel:
    return load_controlnet(path, unet=unet, dtype=torch.float32)


@pytest.mark.parametrize("names", ["diffusers", "original"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_difference_is_added_to_the_plain_base(
    names: str, dtype: torch.dtype, folder: Path, unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    difference = ControlNetModel.from_pretrained(folder)
    torch.manual_seed(4)
    with torch.no_grad():  # small ones, so that adding nothing, or twice, is seen
        for parameter in difference.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-2)
    state = {key: value.to(dtype) for key, value in difference.state_dict().items()}
    base = unet.state_dict()
    wanted = {key: value.float() + base[key] if key in base else value.float() for key, value in state.items()}
    assert 0 < sum(key not in base for key in state) < len(state) / 2
    named = state if names == "diffusers" else {k: v.to(dtype) for k, v in in_original_names(difference).items()}
    file = {f"control_model.{key}": value for key, value in named.items()} | {"difference": torch.tensor(0.0)}
    save_file(file, tmp_path / "diff.safetensors")
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    pair = {"A": torch.randn(4, 32), "B": torch.randn(32, 4)}
    save_file({f"unet.{layer}.lora_{k}.weight": v for k, v in pair.items()}, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")  # whose layer keeps the base's weights inside
    found = pipe.load_controlnet(tmp_path / "diff.safetensors").state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key
    assert torch.equal(unet.state_dict()[f"{layer}.weight"], base[f"{layer}.weight"])


def test_folders_in_half_precision_or_several_parts_and_files_inside_a_folder(
    folder: Path, unet: UNet2DConditionModel, tmp_path: Path
) -> None:
    copy = tmp_path / "half"
    ControlNetModel.from_pretrained(folder, torch_dtype=torch.float16).save_pretrained(copy, variant="fp16")
    assert not (copy / WEIGHTS).exists()
    shards = tmp_path / "shards"
    ControlNetModel.from_pretrained(folder).save_pretrained(shards, max_shard_size="300KB")
    assert len(list(shards.glob("*.safetensors"))) > 1
    check_controlnet(copy)
    whole = load_file(folder / WEIGHTS)
    for path in (copy, shards, copy / "diffusion_pytorch_model.fp16.safetensors", folder / WEIGHTS):
        for key, value in load(path, unet).state_dict().items():
            assert relative(value, whole[key]) < (1e-3 if "half" in str(path) else 1e-9), (path, key)


def altered(folder: Path, to: Path, **changes: torch.Tensor | None) -> Path:
    """The folder with tensors added, replaced, or (None) taken out."""
    shutil.copytree(folder, to)
    state = {key: value for key, value in (load_file(folder / WEIGHTS) | changes).items() if value is not None}
    save_file(state, to / WEIGHTS)
    return to


def test_missing_misshapen_and_surplus_tensors(
    folder: Path, unet: UNet2DConditionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = "down_blocks.0.resnets.0.conv1.weight"
    for name, changes, message in (
        ("missing", {first: None}, f"not a whole ControlNet: 1 tensors missing, first {first}"),
        ("shape", {first: torch.zeros(2, 2)}, f"{first} has shape \\(2, 2\\), expected \\(32, 32, 3, 3\\)"),
        ("more", {"down_blocks.0.resnets.7.conv1.weight": torch.zeros(2)}, "layers beyond .*down_blocks.0.resnets.7"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            load(altered(folder, tmp_path / name, **changes), unet)
        assert name in str(caught.value)
    more = altered(folder, tmp_path / "surplus", odd=torch.zeros(2), **{"mid_block.extra": torch.zeros(2)})
    with caplog.at_level(logging.WARNING):
        loaded = load(more, unet)
    assert "2 tensors that no ControlNet has are left out: mid_block.extra, odd" in caplog.text
    assert torch.equal(loaded.state_dict()[first], load_file(folder / WEIGHTS)[first])


def test_small_ones_of_sdxl_in_a_file(tmp_path: Path) -> None:
    """A ControlNet without attentions for a base model that has some."""
    from support import tiny_models

    unet: Any = UNet2DConditionModel(**tiny_models.UNETS["sdxl"])
    blocks = ("DownBlock2D",) * len(unet.config["down_block_types"])
    config = {name: unet.config[name] for name in ("block_out_channels", "layers_per_block", "cross_attention_dim")}
    for name in ("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"):
        config[name] = unet.config[name]
    net = ControlNetModel(
        down_block_types=blocks, mid_block_type="UNetMidBlock2D", norm_num_groups=unet.config["norm_num_groups"],
        conditioning_embedding_out_channels=(8, 16), **config,
    )  # fmt: skip
    save_file(net.state_dict(), tmp_path / "small.safetensors")
    loaded = load(tmp_path / "small.safetensors", unet)
    assert loaded.config["mid_block_type"] == "UNetMidBlock2D"
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


TRUNK = {
    "conv_in.weight": (4, 4, 3, 3), "controlnet_cond_embedding.conv_in.weight": (8, 3, 3, 3),
    "controlnet_mid_block.weight": (4, 4, 1, 1),
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight": (4, 768),
}  # fmt: skip


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({**TRUNK, "task_embedding": (6, 320), "transformer_layes.0.ln_1.weight": (320,)}, "a ControlNet Union"),
        ({"lora_controlnet": (0,), "input_blocks.1.0.in_layers.2.up": (8, 8)}, "a Control-LoRA"),
        ({"lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.conditioning1.0.weight": (8, 3)}, "LLLite"),
        ({"body.0.in_conv.weight": (8, 4), "conv_in.weight": (8, 192, 3, 3)}, "a T2I-Adapter"),
        ({"adapter.body.0.resnets.0.block1.weight": (8, 8, 3, 3)}, "a T2I-Adapter"),
        ({"control_model.enc_zero_convs_out.0.0.weight": (8, 8, 1, 1)}, "a ControlNet-XS"),
        ({"controlnet_blocks.0.weight": (8, 8), "transformer_blocks.0.norm1.linear.weight": (8, 8)}, "Flux or SD 3"),
        ({**TRUNK, "controlnet_cond_embedding.conv_in.weight": (8, 4, 3, 3)}, "conditions that are no RGB images"),
        (TRUNK, r"embeddings of width 768 \(SD 1.x\), those of this model have 2048 \(SDXL\)"),
    ],
)
def test_relatives_and_other_bases_are_named_by_their_header(shapes: dict, message: str, tmp_path: Path) -> None:
    write_hollow(tmp_path / "net.safetensors", shapes)
    with pytest.raises(UserError, match=message):
        check_controlnet(tmp_path / "net.safetensors", text_width=2048)
    write_hollow(tmp_path / WEIGHTS, shapes)  # a Union's weights in a folder that says it is a plain one
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    with pytest.raises(UserError, match=message):
        check_controlnet(tmp_path, text_width=2048)


def test_instantid_is_known_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "InstantID" / "ControlNetModel"
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="reads face embeddings"):
        check_controlnet(path)
