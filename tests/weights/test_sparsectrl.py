"""SparseCtrl encoders from files and into files: the published layouts exactly, and diffusers' folder both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SparseControlNetModel, UNet2DConditionModel
from support import ldm_files
from support.close import relative
from support.paths import GOLDEN
from support.unets import SD15, SDXL
from support.weight_files import published, write_hollow

from animatediff.bundled import bundled_path
from animatediff.errors import UserError
from animatediff.models.sparsectrl import SparseConfig, SparseCtrl
from animatediff.weights.convert import convert
from animatediff.weights.motion import load_motion_module
from animatediff.weights.recognise import recognise
from animatediff.weights.sparsectrl import internal_entries, load_sparsectrl, original_entries, save_sparsectrl
from animatediff.weights.storage.files import load_tensors, save_tensors

V3 = GOLDEN / "v3"
KINDS = ("rgb", "scribble")


def golden_file(kind: str) -> Path:
    return V3 / f"sparsectrl_{kind}.ckpt"


def golden_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(V3 / "sd" / "unet", torch_dtype=torch.float32)


def bundled_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)


def empty_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**config)


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@pytest.mark.parametrize("kind", KINDS)
def test_published_keys_and_shapes_at_full_size(tmp_path: Path, kind: Any) -> None:
    name = f"v3_sd15_sparsectrl_{kind}"
    with torch.device("meta"):
        config = SparseConfig(
            kind=kind, unet=empty_unet(SD15).config, condition_channels=4 if kind == "rgb" else 3, max_positions=32
        )
        encoder = SparseCtrl(config)
    state = encoder.state_dict()
    tensors = original_entries(state, 32)
    assert {key: tuple(value.shape) for key, value in tensors.items()} == published(name)
    assert internal_entries(published(name)).keys() == state.keys()
    assert config.factor == {"rgb": 1, "scribble": 8}[kind]
    found = recognise(write_hollow(tmp_path / "a.safetensors", published(name)))
    assert (found.kind, found.variant, found.base, found.dialect) == ("sparsectrl", kind, "sd1", "original")


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_returns_every_bit(tmp_path: Path, kind: str) -> None:
    encoder = load_sparsectrl(golden_file(kind), unet=golden_unet())
    assert encoder.kind == kind and encoder.dtype == torch.float16
    for name in ("a.safetensors", "a.ckpt"):
        save_sparsectrl(encoder, tmp_path / name, metadata={"steps": "100"})
        again = load_sparsectrl(tmp_path / name, unet=golden_unet())
        alone = load_sparsectrl(tmp_path / name)
        assert again.sparse_config == alone.sparse_config, "the file says what the base model says"
        assert_same(again.state_dict(), encoder.state_dict())
    found = load_tensors(tmp_path / "a.ckpt")
    assert found.keys() == load_tensors(golden_file(kind)).keys()
    # as the original reads it: the entry "controlnet", without code in the pickle
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["controlnet"].keys() == found.keys()


def test_files_as_they_are_in_the_wild(tmp_path: Path) -> None:
    """A wrapper in a wrapper, DDP's prefix, a configuration among the tensors, and no position tables."""
    tensors = load_tensors(golden_file("rgb"))
    bare = {f"module.{key}": value for key, value in tensors.items() if not key.endswith(".pe")}
    torch.save({"state_dict": {"controlnet": {**bare, "animatediff_config": {"a": 1}}}}, tmp_path / "a.ckpt")
    assert_same(load_sparsectrl(tmp_path / "a.ckpt").state_dict(), load_sparsectrl(golden_file("rgb")).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_the_folder_whole_and_back_without_loss(tmp_path: Path, kind: str) -> None:
    convert(golden_file(kind), tmp_path / "encoder", to="diffusers")
    model, info = SparseControlNetModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not any(info.values())
    assert model.config["use_simplified_condition_embedding"] == (kind == "rgb")
    assert recognise(tmp_path / "encoder" / "diffusion_pytorch_model.safetensors").dialect == "diffusers"
    encoder = load_sparsectrl(tmp_path / "encoder")
    assert_same(encoder.state_dict(), load_sparsectrl(golden_file(kind)).state_dict())
    assert encoder.sparse_config.max_positions == 32
    convert(tmp_path / "encoder", tmp_path / "back.ckpt")
    assert_same(load_tensors(tmp_path / "back.ckpt"), load_tensors(golden_file(kind)))
    convert(tmp_path / "encoder", tmp_path / "between.safetensors", to="internal")
    convert(tmp_path / "between.safetensors", tmp_path / "again", to="diffusers")
    assert_same(*(load_tensors(tmp_path / f / "diffusion_pytorch_model.safetensors") for f in ("again", "encoder")))


def test_diffusers_folder_without_position_tables(tmp_path: Path) -> None:
    convert(golden_file("rgb"), tmp_path / "encoder", to="diffusers")
    file = tmp_path / "encoder" / "diffusion_pytorch_model.safetensors"
    whole = load_tensors(file)
    save_tensors(file, {key: value for key, value in whole.items() if "pos_embed" not in key})
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    (tmp_path / "encoder" / "config.json").write_text(json.dumps({**config, "motion_max_seq_length": 24}))
    assert load_sparsectrl(tmp_path / "encoder").sparse_config.max_positions == 24
    convert(tmp_path / "encoder", tmp_path / "back.ckpt")
    tables = [value for key, value in load_tensors(tmp_path / "back.ckpt").items() if key.endswith(".pe")]
    assert len(tables) == 4 and all(table.shape == (1, 24, 32) for table in tables)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_encoders_of_the_bundled_models_layout(tmp_path: Path, kind: Any) -> None:
    encoder = SparseCtrl.from_unet(bundled_unet(), kind=kind, vae_scale_factor=4)
    save_sparsectrl(encoder, tmp_path / "a.safetensors")
    assert_same(load_sparsectrl(tmp_path / "a.safetensors", unet=bundled_unet()).state_dict(), encoder.state_dict())
    convert(tmp_path / "a.safetensors", tmp_path / "encoder", to="diffusers")
    model, info = SparseControlNetModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not any(info.values())
    assert tuple(model.config["block_out_channels"]) == (48, 96, 160)


def test_what_diffusers_cannot_express(tmp_path: Path) -> None:
    small = {**SDXL, "block_out_channels": (32, 64, 64), "transformer_layers_per_block": (1, 1, 2)}
    small |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "layers_per_block": 1}
    small |= {"projection_class_embeddings_input_dim": 16 + 48, "attention_head_dim": (2, 4, 4)}
    encoder = SparseCtrl.from_unet(UNet2DConditionModel(**small))
    save_sparsectrl(encoder, tmp_path / "xl.safetensors")
    assert recognise(tmp_path / "xl.safetensors").base == "sdxl"
    assert_same(load_sparsectrl(tmp_path / "xl.safetensors").state_dict(), encoder.state_dict())
    with pytest.raises(UserError, match="no place for text and size conditions of SDXL"):
        convert(tmp_path / "xl.safetensors", tmp_path / "folder", to="diffusers")
    assert not (tmp_path / "folder").exists()


def test_half_of_a_file_is_never_loaded(tmp_path: Path) -> None:
    tensors = load_tensors(golden_file("rgb"))
    gate = "controlnet_down_blocks.3.bias"
    changes = {
        "missing, first controlnet_down_blocks.3.bias": {k: v for k, v in tensors.items() if k != gate},
        "has shape": tensors | {gate: torch.ones(3)},
    }
    for message, state in changes.items():
        save_tensors(tmp_path / "a.safetensors", state)
        with pytest.raises(UserError, match=message):
            load_sparsectrl(tmp_path / "a.safetensors")


def test_other_files_are_called_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"motion module, not a SparseCtrl encoder.*`motion_module`"):
        load_sparsectrl(V3 / "motion_module.ckpt")
    with pytest.raises(UserError, match=r"domain adapter.*not a SparseCtrl encoder.*`domain_adapter`"):
        load_sparsectrl(V3 / "domain_adapter.ckpt")
    with pytest.raises(UserError, match=r"SparseCtrl encoder, not a motion module.*`sparsectrl`"):
        load_motion_module(golden_file("rgb"))
    ladder = {f"controlnet_cond_embedding.conv_in.{n}": s for n, s in (("weight", (16, 3, 3, 3)), ("bias", (16,)))}
    path = write_hollow(tmp_path / "net.safetensors", ladder | {"controlnet_down_blocks.0.weight": (320, 320, 1, 1)})
    with pytest.raises(UserError, match=r"ControlNet, not a SparseCtrl encoder.*give it to `controlnet`"):
        load_sparsectrl(path)


def test_encoder_of_another_base_is_one_sentence(tmp_path: Path) -> None:
    file = write_hollow(tmp_path / "a.safetensors", published("v3_sd15_sparsectrl_rgb"))
    with pytest.raises(UserError, match=r"for SD 1\.x base models, but the base model is SDXL"):
        load_sparsectrl(file, unet=empty_unet(SDXL))
    with pytest.raises(UserError, match=r"for SD 1\.x base models, but the base model is another kind of"):
        load_sparsectrl(file, unet=golden_unet())
    with pytest.raises(UserError, match="does not fit the base model: it acts on 32-32"):
        load_sparsectrl(golden_file("rgb"), unet=bundled_unet())


@pytest.mark.parametrize("kind", KINDS)
def test_ldm_names_of_copies_for_the_webui(kind: str, tmp_path: Path) -> None:
    """The same encoder, as conrevo's mm_sd15_v3_sparsectrl files name its image layers."""
    state = load_tensors(golden_file(kind))
    trunk = {key: value for key, value in state.items() if "motion_modules" not in key}
    rename = {"controlnet_mid_block": "middle_block_out.0"}
    found = {key: value for key, value in state.items() if key not in trunk}
    hint = [key for key in trunk if key.startswith("controlnet_cond_embedding.") and key.endswith(".weight")]
    for number, key in enumerate(hint):
        rename[key.removesuffix(".weight")] = f"input_hint_block.{2 * number}"
    own = {key: value for key, value in trunk.items() if key.startswith("controlnet_")}
    for key, value in own.items():
        stem, _, tail = key.rpartition(".")
        zero = f"zero_convs.{stem.removeprefix('controlnet_down_blocks.')}.0"
        found[f"{rename.get(stem, zero)}.{tail}"] = value
    for key, value in ldm_files.unet_keys({k: v for k, v in trunk.items() if k not in own}).items():
        found[key.removeprefix("model.diffusion_model.")] = value
    save_tensors(tmp_path / "mm_sd15_v3_sparsectrl.safetensors", found)
    seen = recognise(tmp_path / "mm_sd15_v3_sparsectrl.safetensors")
    assert (seen.kind, seen.variant, seen.dialect) == ("sparsectrl", kind, "ldm")
    expected = load_sparsectrl(golden_file(kind), unet=golden_unet()).state_dict()
    for key, value in load_sparsectrl(seen.header.path, unet=golden_unet()).state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_heads_and_norm_groups_of_config_json(tmp_path: Path) -> None:
    """No tensor tells them. Of one frame diffusers computes the same: its norms over frames are of that frame then."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32}
    theirs: Any = SparseControlNetModel(
        **sizes,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        norm_num_groups=8,
        norm_eps=1e-3,
        num_attention_heads=4,
        motion_num_attention_heads=2,
    )
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.2)
    theirs.save_pretrained(tmp_path)
    unet = UNet2DConditionModel(
        **sizes,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    noise, text, images = torch.randn(2, 4, 1, 8, 8), torch.randn(2, 5, 32), torch.randn(2, 4, 1, 8, 8)
    mask = torch.ones(2, 1, 1, 8, 8)
    with torch.no_grad():
        down, mid = theirs(noise, 7, text, images, conditioning_mask=mask, return_dict=False)
        for encoder in (load_sparsectrl(tmp_path, unet=unet), load_sparsectrl(tmp_path)):
            found = encoder(images[:, :, 0], mask[:, :, 0], torch.tensor(7), text, 1)
            for one, other in zip([*found.down, found.mid], [*down, mid], strict=True):
                assert relative(one, other) < 1e-5
