"""Conversions: there and back without loss, and what comes out loads in diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from support.golden import motion_file
from support.paths import GOLDEN
from torch import Tensor
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.weights.convert import convert
from animatediff.weights.lora.key_formats import lora_to_internal
from animatediff.weights.lora.pairs import read_pairs
from animatediff.weights.motion import load_motion_module
from animatediff.weights.recognise import recognise
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors

FAMILIES = ("v1", "v2", "v3", "sdxl", "hotshot")


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_loads_the_folder_whole(tmp_path: Path, family: str) -> None:
    convert(motion_file(family), tmp_path / "adapter", to="diffusers")
    model, info = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter", output_loading_info=True)
    assert not any(info.values())
    ours, _ = load_motion_module(motion_file(family))
    state = model.state_dict()
    for key, value in ours.state_dict().items():
        assert torch.equal(state[key], value), key
    assert model.config["motion_max_seq_length"] == ours.numerics.max_positions
    assert model.config["use_motion_mid_block"] == (family == "v2")


@pytest.mark.parametrize("layout", ["diffusers", "internal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_without_loss(tmp_path: Path, family: str, layout: Any) -> None:
    """Position tables too: kept where the layout has them, and computed anew to the last bit where it has none."""
    original = tmp_path / "original.safetensors"
    convert(motion_file(family), original)
    between = tmp_path / ("between" if layout == "diffusers" else "between.safetensors")
    convert(original, between, to=layout)
    convert(between, tmp_path / "back.ckpt")
    assert_same(load_tensors(tmp_path / "back.ckpt"), load_tensors(original))
    if family != "hotshot":
        assert_same(load_tensors(original), load_tensors(motion_file(family)))
    assert load_motion_module(between)[1] == load_motion_module(motion_file(family))[1]
    assert load_motion_module(tmp_path / "back.ckpt")[1] == load_motion_module(motion_file(family))[1]


def test_hotshot_keeps_its_weights_under_original_names(tmp_path: Path) -> None:
    convert(motion_file("hotshot"), tmp_path / "a.ckpt")
    assert recognise(tmp_path / "a.ckpt").dialect == "original"
    found, wanted = (load_motion_module(path)[0].state_dict() for path in (tmp_path / "a.ckpt", motion_file("hotshot")))
    assert_same(found, wanted)


def test_tables_of_a_file_are_kept_even_if_they_are_no_sinusoid(tmp_path: Path) -> None:
    tensors = load_tensors(motion_file("v2"))
    tensors = {key: value + 1 if key.endswith(".pe") else value for key, value in tensors.items()}
    save_tensors(tmp_path / "odd.ckpt", tensors)
    convert(tmp_path / "odd.ckpt", tmp_path / "adapter", to="diffusers")
    convert(tmp_path / "adapter", tmp_path / "back.ckpt")
    assert_same(load_tensors(tmp_path / "back.ckpt"), tensors)


def test_animatelcm_has_no_tables_before_and_after(tmp_path: Path) -> None:
    bare = {key: value for key, value in load_tensors(motion_file("v2")).items() if not key.endswith(".pe")}
    save_tensors(tmp_path / "lcm.ckpt", bare)
    convert(tmp_path / "lcm.ckpt", tmp_path / "adapter", to="diffusers")
    model, info = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter", output_loading_info=True)
    assert not any(info.values())
    assert model.config["motion_max_seq_length"] == 64
    convert(tmp_path / "adapter", tmp_path / "back.ckpt")
    assert_same(load_tensors(tmp_path / "back.ckpt"), bare)


def test_family_can_be_said(tmp_path: Path) -> None:
    convert(motion_file("v2"), tmp_path / "a.safetensors", family="lightning")
    assert load_motion_module(tmp_path / "a.safetensors")[1].name == "lightning"


@pytest.mark.parametrize("target", ["a.safetensors", "a.ckpt", "adapter"])
def test_lightning_is_written_into_the_file_with_its_steps(tmp_path: Path, target: str) -> None:
    """Nothing in it differs from v2: its published name is the one hint, and under another the user says so once."""
    source = tmp_path / "animatediff_lightning_8step_comfyui.safetensors"
    convert(motion_file("v2"), source)
    save_tensors(source, load_tensors(source))  # as published, without our metadata
    said = CliRunner().invoke(app, ["inspect", str(source)])
    assert "family:     lightning" in said.stdout and "which no tensor tells from v2; --family v2" in said.stdout
    renamed = tmp_path / "my_lightning_8step.safetensors"
    renamed.symlink_to(source)
    said = CliRunner().invoke(app, ["inspect", str(renamed)])
    assert "family:     v2" in said.stdout, "another name decides nothing"
    assert "--family lightning" in said.stdout and "8 steps" in said.stdout
    assert load_motion_module(source, family="v2")[1].name == "v2"
    layout = ["--to", "diffusers"] if target == "adapter" else []
    done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / target), "--family", "lightning", *layout])
    assert done.exit_code == 0, done.stderr
    assert "AnimateDiff-Lightning" in done.stdout
    for path, family in ((tmp_path / target, None), (source, None), (source, "lightning"), (renamed, "lightning")):
        facts = load_motion_module(path, family=family)[1]
        assert (facts.name, facts.recommended.num_inference_steps) == ("lightning", 8)
    assert load_motion_module(motion_file("v2"), family="lightning")[1].recommended.num_inference_steps == 4


def test_what_has_no_family_or_an_unknown_one(tmp_path: Path) -> None:
    for source, family, message in (
        (motion_file("v2"), "lightening", "did you mean 'lightning'?"),
        (GOLDEN / "v2" / "motion_lora.ckpt", "v2", "only motion modules have a family"),
    ):
        done = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "a.ckpt"), "--family", family])
        assert (done.exit_code, done.stdout) == (2, "") and message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_one_file_in_diffusers_names(tmp_path: Path) -> None:
    """As AnimateDiff-Lightning is published."""
    convert(motion_file("v2"), tmp_path / "a.safetensors", to="diffusers")
    found = recognise(tmp_path / "a.safetensors")
    assert (found.kind, found.dialect) == ("motion_module", "diffusers")


def test_training_checkpoint_loses_its_image_layers_and_says_so(tmp_path: Path) -> None:
    image = load_tensors(GOLDEN / "v1" / "sd" / "unet" / "diffusion_pytorch_model.safetensors")
    save_tensors(tmp_path / "train.ckpt", image | load_tensors(motion_file("v1")))
    said = convert(tmp_path / "train.ckpt", tmp_path / "a.ckpt")
    assert f"{len(image)} tensors of other layers left out" in said
    assert_same(load_tensors(tmp_path / "a.ckpt"), load_tensors(motion_file("v1")))


def test_precision_changes_and_is_named(tmp_path: Path) -> None:
    said = convert(motion_file("v1"), tmp_path / "a.safetensors", dtype=torch.bfloat16)
    assert "bfloat16" in said
    assert {info.dtype for info in read_header(tmp_path / "a.safetensors").tensors.values()} == {"bfloat16"}


@pytest.mark.parametrize("kind", ["motion_lora", "domain_adapter"])
@pytest.mark.parametrize("layout", ["diffusers", "internal"])
def test_loras_there_and_back(tmp_path: Path, kind: str, layout: Any) -> None:
    source = GOLDEN / "v2" / f"{kind}.ckpt"
    convert(source, tmp_path / "between.safetensors", to=layout)
    convert(tmp_path / "between.safetensors", tmp_path / "back.ckpt")
    assert_same(load_tensors(tmp_path / "back.ckpt"), load_tensors(source))


@pytest.mark.parametrize("kind", ["motion_lora", "domain_adapter"])
def test_diffusers_loads_the_loras_and_reaches_every_layer(tmp_path: Path, kind: str) -> None:
    convert(GOLDEN / "v2" / f"{kind}.ckpt", tmp_path / "lora", to="diffusers")
    convert(motion_file("v2"), tmp_path / "adapter", to="diffusers")
    unet = diffusers.UNet2DConditionModel.from_pretrained(GOLDEN / "v2" / "sd" / "unet")
    adapter = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter")
    model = diffusers.UNetMotionModel.from_unet2d(unet, adapter)
    pipe = diffusers.AnimateDiffPipeline
    state, alphas = pipe.lora_state_dict(tmp_path / "lora")[:2]
    pipe.load_lora_into_unet(state, network_alphas=alphas, unet=model, adapter_name="x")
    loaded = {key.replace(".x.", "."): value for key, value in model.state_dict().items() if ".lora_" in key}
    wanted = {lora_to_internal(key): value for key, value in load_tensors(GOLDEN / "v2" / f"{kind}.ckpt").items()}
    assert loaded.keys() == wanted.keys()
    for key, value in loaded.items():
        assert torch.equal(value, wanted[key].to(value.dtype)), key


def test_alpha_becomes_part_of_the_weights(tmp_path: Path) -> None:
    """The original ignores alpha, so that a file with one would act rank / alpha times too strong there."""
    stem = "unet.down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q"
    state = {
        f"{stem}.lora_A.weight": torch.ones(4, 8),
        f"{stem}.lora_B.weight": torch.ones(8, 4),
        f"{stem}.alpha": torch.tensor(1.0),
    }
    save_tensors(tmp_path / "a.safetensors", state)
    assert "alpha of 1 layers" in convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    found = load_tensors(tmp_path / "b.ckpt")
    assert len(found) == 2
    assert next(value for key, value in found.items() if ".up." in key).eq(0.25).all()


def test_other_files_change_format_only(tmp_path: Path) -> None:
    source = GOLDEN / "v1" / "style_lora_kohya.safetensors"
    convert(source, tmp_path / "a.ckpt")
    assert_same(load_tensors(tmp_path / "a.ckpt"), load_tensors(source))
    unet = GOLDEN / "v1" / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(UserError, match="only motion modules, SparseCtrl encoders and LoRAs"):
        convert(unet, tmp_path / "b", to="diffusers")
    with pytest.raises(UserError, match="only LoRAs of an image model have a kohya layout"):
        convert(GOLDEN / "v2" / "motion_lora.ckpt", tmp_path / "b.safetensors", to="kohya")
    assert not (tmp_path / "b").exists()


def test_image_loras_go_from_kohya_to_diffusers_and_back(tmp_path: Path) -> None:
    """What the layers become is the same in each layout, alpha counted in, and diffusers reaches all of them."""
    source = GOLDEN / "v1" / "style_lora_kohya.safetensors"
    convert(source, tmp_path / "folder", to="diffusers")
    convert(tmp_path / "folder" / "pytorch_lora_weights.safetensors", tmp_path / "back.safetensors", to="kohya")
    first, second, third = (
        {(pair.place, pair.module): pair.alpha / pair.rank * pair.up.flatten(1) @ pair.down.flatten(1)
         for pair in read_pairs(load_tensors(path), name="LoRA")}
        for path in (source, tmp_path / "folder" / "pytorch_lora_weights.safetensors", tmp_path / "back.safetensors")
    )  # fmt: skip
    assert first.keys() == second.keys() == third.keys()
    for key, change in first.items():
        torch.testing.assert_close(second[key], change)
        torch.testing.assert_close(third[key], change)
    assert set(load_tensors(tmp_path / "back.safetensors")) >= {k for k in load_tensors(source) if "alpha" not in k}
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(GOLDEN / "v1" / "sd", safety_checker=None)
    pipe.load_lora_weights(tmp_path / "folder", adapter_name="style")
    reached = [name for name, layer in pipe.unet.named_modules() if hasattr(layer, "lora_A")]
    assert {name.replace(".", "_") for name in reached} == {name for place, name in first if place == "unet"}


def test_bad_targets_leave_everything_as_it_was(tmp_path: Path) -> None:
    source = tmp_path / "mm.ckpt"
    source.write_bytes(motion_file("v1").read_bytes())
    with pytest.raises(UserError, match="is the source itself"):
        convert(source, source)
    with pytest.raises(UserError, match="must end in"):
        convert(source, tmp_path / "a.txt")
    with pytest.raises(UserError, match="not an empty folder"):
        convert(source, tmp_path, to="diffusers")
    with pytest.raises(UserError, match="no folder"):
        convert(source, tmp_path / "x" / "y", to="diffusers")
    assert [path.name for path in tmp_path.iterdir()] == ["mm.ckpt"]


def test_failed_write_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        convert(motion_file("v1"), tmp_path / "adapter", to="diffusers")
    assert list(tmp_path.iterdir()) == []


def test_layout_that_diffusers_cannot_express(tmp_path: Path) -> None:
    tensors = load_tensors(motion_file("v1"))
    tensors = {key: value for key, value in tensors.items() if not key.startswith("up_blocks.3.motion_modules.1")}
    save_tensors(tmp_path / "a.ckpt", tensors)
    with pytest.raises(UserError, match="has no place for modules of this layout"):
        convert(tmp_path / "a.ckpt", tmp_path / "b", to="diffusers")


def test_configuration_is_plain(tmp_path: Path) -> None:
    convert(motion_file("v1"), tmp_path / "adapter", to="diffusers")
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    assert config["_class_name"] == "MotionAdapter"
    assert config["motion_max_seq_length"] == 24
