"""Numbers in diffusers: what differs, what the code in the docs makes of it, and modules that are trained for it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
from einops import rearrange
from support.close import relative
from support.golden import expected, load_unet, motion_file
from support.paths import ROOT
from support.training_clips import MOTION as MODULE
from support.training_clips import run

from animatediff.errors import UserError
from animatediff.motion import attach
from animatediff.weights.convert import convert
from animatediff.weights.diffusers_norm import PER_FRAME
from animatediff.weights.motion import load_motion_module, save_motion_module

MOTION, IMAGE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/models.md").read_text("utf-8"), re.DOTALL)


def ours(path: Path, family: str) -> torch.Tensor:
    unet, tensors = load_unet(family), expected(family)
    adapter, _ = load_motion_module(path, unet=unet, dtype=torch.float32)
    motion, sample = attach(unet, adapter), tensors["unet.sample"]
    frames = motion.frames.num_frames = sample.shape[2]
    flat, text = rearrange(sample, "b c f h w -> (b f) c h w"), tensors["unet.encoder_hidden_states"]
    out = unet(flat, tensors["unet.timestep"], text.repeat_interleave(frames, 0)).sample
    return rearrange(out, "(b f) c h w -> b c f h w", f=frames)


def whole(path: Path, family: str) -> Path:
    """A golden module in float32; its own position tables are rounded to 16 bits, which are 2e-5 of the output."""
    adapter, facts = load_motion_module(motion_file(family), dtype=torch.float32)
    save_motion_module(adapter, path, family=facts)
    return path


def theirs(folder: Path, family: str, *codes: str) -> torch.Tensor:
    """diffusers' own UNet with the modules of a folder, after some code was run on it."""
    tensors, adapter = expected(family), diffusers.MotionAdapter.from_pretrained(folder)
    unet = diffusers.UNetMotionModel.from_unet2d(load_unet(family), adapter).eval()
    for code in codes:
        names: dict[str, Any] = {"pipe": SimpleNamespace(unet=unet)}
        exec(code.replace("num_frames = 16", f"num_frames = {tensors['unet.sample'].shape[2]}"), names)
    text = tensors["unet.encoder_hidden_states"].repeat_interleave(tensors["unet.sample"].shape[2], 0)
    return unet(tensors["unet.sample"], tensors["unet.timestep"], text).sample


def test_convert_prints_the_code_of_the_docs() -> None:
    assert PER_FRAME.format(model="pipe.unet") == MOTION
    assert len([line for line in MOTION.splitlines() if line]) == 4


@torch.no_grad()
@pytest.mark.parametrize(("family", "codes"), [("v1", (MOTION, IMAGE)), ("v2", (MOTION,)), ("v3", (MOTION,))])
def test_diffusers_computes_the_same_after_the_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str, codes: tuple[str, ...]
) -> None:
    module = whole(tmp_path / "module.safetensors", family)
    convert(module, tmp_path / "adapter", to="diffusers")
    assert PER_FRAME.format(model="pipe.unet") in caplog.text
    assert ("image layers" in caplog.text) == (family == "v1")
    wanted = ours(module, family)
    assert relative(theirs(tmp_path / "adapter", family, *codes), wanted) < 1e-5  # float32
    assert relative(theirs(tmp_path / "adapter", family), wanted) > 1e-3
    assert relative(ours(tmp_path / "adapter", family), wanted) < 1e-6, "here it runs as it was trained"


@torch.no_grad()
def test_over_frames_is_stated_and_runs_alike_in_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stated = tmp_path / "over.safetensors"
    convert(whole(tmp_path / "module.safetensors", "v3"), stated, norm="over-frames")
    _, facts = load_motion_module(stated)
    assert facts.name == "v3" and facts.numerics.motion_norm_over_frames
    with caplog.at_level(logging.WARNING):
        convert(stated, tmp_path / "adapter", to="diffusers")
    assert "diffusers" not in caplog.text
    wanted = theirs(tmp_path / "adapter", "v3")
    assert relative(ours(stated, "v3"), wanted) < 1e-5  # float32
    assert relative(ours(tmp_path / "adapter", "v3"), wanted) < 1e-5
    assert relative(ours(motion_file("v3"), "v3"), wanted) > 1e-3
    convert(tmp_path / "adapter", tmp_path / "back.ckpt")
    assert load_motion_module(tmp_path / "back.ckpt")[1].name == "v3"


def test_sdxl_needs_nothing_and_loras_have_no_norm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    convert(motion_file("sdxl"), tmp_path / "adapter", to="diffusers")
    assert "diffusers" not in caplog.text
    with pytest.raises(UserError, match="`norm` is of motion modules"):
        convert(motion_file("v3").with_name("motion_lora.ckpt"), tmp_path / "a.safetensors", norm="over-frames")


@pytest.mark.parametrize("start", [True, False])
def test_training_for_diffusers(tmp_path: Path, caplog: pytest.LogCaptureFixture, start: bool) -> None:
    """`norm` is stored with the weights; here and in diffusers they run by it."""
    more = {"start_from": str(MODULE)} if start else {"mid_block": True}
    done = run("motion", tmp_path / "run", steps=2, norm="over_frames", **more)
    _, facts = load_motion_module(done.weights)
    assert facts.numerics.motion_norm_over_frames and facts.name == ("v2" if start else "custom")
    convert(done.weights, tmp_path / "adapter", to="diffusers")
    assert "diffusers normalizes" not in caplog.text
    with torch.no_grad():
        assert relative(ours(done.weights, "v2"), theirs(tmp_path / "adapter", "v2")) < 1e-5  # float32
    again = run("motion_lora", tmp_path / "lora", steps=1, motion_module=str(done.weights))
    assert again.weights.is_file()


def test_norm_is_of_the_stage_motion(tmp_path: Path) -> None:
    plain = run("motion", tmp_path / "run", steps=1, start_from=str(MODULE))
    assert not load_motion_module(plain.weights)[1].numerics.motion_norm_over_frames
    with pytest.raises(ValueError, match="norm"):
        run("motion", tmp_path / "other", norm="sideways")
