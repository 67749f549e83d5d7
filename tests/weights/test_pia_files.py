"""PIA's files: recognised with and without the rest of a UNet, converted there and back, described, refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.golden import load_unet
from support.pia import FILE, MODEL
from support.training_clips import run as train
from support.weight_files import published, write_hollow

from animatediff.errors import UserError
from animatediff.motion import refuse_images
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.motion import empty_motion_module, load_motion_module
from animatediff.weights.recognise import recognise
from animatediff.weights.storage.files import load_tensors

FIRST = {"conv_in.weight": (320, 9, 3, 3), "conv_in.bias": (320,)}


@pytest.mark.parametrize("prefix", ["", "unet.", "module.", "model.diffusion_model."])
def test_the_published_layout_is_recognised(tmp_path: Path, prefix: str) -> None:
    shapes = {prefix + key: shape for key, shape in (published("v3_sd15_mm") | FIRST).items()}
    assert len(shapes) == 562
    found = recognise(write_hollow(tmp_path / "of_any_name.safetensors", shapes))
    assert (found.kind, found.base) == ("motion_module", "sd1")
    assert found.judgement is not None and found.judgement.confidence == "certain"
    assert found.family is not None and found.family.name == "pia"
    assert found.family.numerics.image_norm_over_frames and not found.family.numerics.motion_norm_over_frames
    adapter, *_ = empty_motion_module(found.header)
    assert adapter.conv_in is not None and adapter.conv_in.weight.shape == (320, 9, 3, 3)


def test_of_a_whole_unet_the_motion_is_taken_and_the_rest_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_tensors(FILE)
    unet = {k: v for k, v in load_unet("v3").state_dict().items() if not k.startswith("conv_in")}
    torch.save({**tensors, **unet}, path := tmp_path / "checkpoint.ckpt")
    with caplog.at_level(logging.WARNING):
        adapter, family = load_motion_module(path)
    assert family.name == "pia" and adapter.conv_in is not None
    assert torch.equal(adapter.conv_in.weight, tensors["conv_in.weight"])
    assert f"{len(unet)} tensors that no motion module has are left out: conv_norm_out.bias" in caplog.text
    caplog.clear()
    own = {**load_tensors(FILE), **load_unet("v3").state_dict()}  # with the four channels of an image model
    torch.save(own, tmp_path / "v3.ckpt")
    with caplog.at_level(logging.WARNING):
        adapter, family = load_motion_module(tmp_path / "v3.ckpt")
    assert family.name == "v3" and adapter.conv_in is None


def test_there_and_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(FILE, folder := tmp_path / "diffusers", to="diffusers")
    assert "this family was trained with image layers that normalize all frames" in caplog.text
    from diffusers import MotionAdapter

    theirs: Any = MotionAdapter.from_pretrained(folder)
    assert theirs.config["conv_in_channels"] == 9
    assert torch.equal(theirs.conv_in.weight, load_tensors(FILE)["conv_in.weight"])
    convert(folder, back := tmp_path / "back.ckpt", to="original")
    before, after = load_tensors(FILE), load_tensors(back)
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    convert(back, internal := tmp_path / "internal.safetensors", to="internal")
    _, family = load_motion_module(internal)
    assert family.name == "pia" and not family.numerics.conv_in_from_file


def test_inspect_says_what_to_do_with_it() -> None:
    facts = describe(FILE)
    assert facts["family"].startswith("pia: PIA") and facts["confidence"] == "certain"
    assert facts["give_it_to"].startswith("`motion_module`") and facts["made_for"] == "Stable Diffusion 1.x"
    assert facts["settings"]["group_norm_over_frames"] == "image layers"
    assert "`image`" in facts["notes"][0] and "`motion_amount`" in facts["notes"][0]


def test_what_does_not_fit_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a motion module for SD 1\.x base models, but the base model is SDXL"):
        load_motion_module(FILE, unet=load_unet("sdxl"))
    tensors = load_tensors(FILE)
    bias = tensors.pop("conv_in.bias")
    torch.save(tensors, tmp_path / "no_bias.ckpt")
    with pytest.raises(UserError, match=r"1 tensors missing, first conv_in\.bias"):
        load_motion_module(tmp_path / "no_bias.ckpt")
    torch.save({**tensors, "conv_in.bias": bias, "conv_in.weight": torch.zeros(8, 9, 3, 3)}, tmp_path / "narrow.ckpt")
    with pytest.raises(UserError, match=r"conv_in\.weight has shape \(8, 9, 3, 3\), expected \(32, 9, 3, 3\)"):
        load_motion_module(tmp_path / "narrow.ckpt")


def test_no_training_starts_from_what_no_stage_shows_an_image_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="its first layer sees an image beside the noise"):
        train("motion", tmp_path / "run", model=str(MODEL), start_from=str(FILE))


def test_programs_without_a_place_for_the_image_refuse_it() -> None:
    adapter, _ = load_motion_module(FILE)
    with pytest.raises(ValueError, match="animate an image"):
        refuse_images(adapter)
