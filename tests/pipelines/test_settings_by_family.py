"""FreeInit, FreeNoise, FreeU, perturbed attention and guidance rescale act on every family, with its own conditions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from PIL import Image
from support import golden, pia, tiny_models
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import pipeline, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline

SMALL: dict[str, Any] = {
    "num_frames": 3, "height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 30.0,
    "output_type": "latent",
}  # fmt: skip
WINDOWS = {"window": 2, "overlap": 1, "long_mode": "motion"}


def picture() -> Image.Image:
    return Image.linear_gradient("L").convert("RGB").resize((16, 16))


def of_sdxl(family: str) -> AnimateDiffPipeline:
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        base, motion = Path(folder) / "sdxl.safetensors", Path(folder) / "motion.safetensors"
        tiny_models.save_motion(motion, tiny_models.save_base(base, "sdxl"), family)
        pipe = AnimateDiffPipeline.from_pretrained(base, torch_dtype=torch.float32)
        pipe.load_motion_module(motion)
    assert pipe.family is not None and pipe.family.name == family
    return pipe


def with_sparsectrl() -> AnimateDiffPipeline:
    pipe = golden.load_pipeline("v3")
    pipe.load_sparsectrl(GOLDEN / "v3" / "sparsectrl_rgb.ckpt")
    return pipe


def with_camera() -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "cameractrl" / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / "cameractrl" / "v3_sd15_mm.ckpt")
    pipe.load_camera_control(GOLDEN / "cameractrl" / "CameraCtrl.ckpt")
    return pipe


FAMILIES: dict[str, tuple[Callable[[], AnimateDiffPipeline], dict[str, Any]]] = {
    "v1": (lambda: pipeline("v1"), {}),
    "v2": (lambda: pipeline("v2"), {}),
    "v3": (lambda: pipeline("v3"), {}),
    "sdxl": (lambda: of_sdxl("sdxl"), {}),
    "hotshot": (lambda: of_sdxl("hotshot"), {}),
    "pia": (pia.pipeline, {"images": picture()}),
    "animatelcm": (lambda: golden.load_pipeline("animatelcm"), {}),
    "animatelcm_i2v": (lambda: golden.load_pipeline("animatelcm_i2v"), {"images": picture()}),
    "cameractrl": (with_camera, {"camera": "zoom-in:0.5", "height": 32, "width": 32}),
    "sparsectrl": (with_sparsectrl, {"images": picture(), "image_mode": "sparsectrl"}),
}
"""Family -> its pipeline, and what a clip of it takes."""
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "freeinit": ({"freeinit": 2}, {}),
    "freenoise": ({"noise": "freenoise", **WINDOWS}, WINDOWS),
    "freeu": ({}, {}),
    "pag": ({"pag_scale": 3.0}, {}),
    "rescale": ({"guidance_rescale": 1.0}, {}),
}
"""Setting -> arguments with it, and of the clip that it is compared with."""


@cache
def made(family: str) -> AnimateDiffPipeline:
    pipe = FAMILIES[family][0]()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def clip(family: str, given: frozenset[tuple[str, Any]], freeu: bool = False) -> torch.Tensor:
    pipe = made(family)
    if "pag_scale" in dict(given):  # the mid block, its usual place, has a single pixel here
        pipe.set_pag_applied_layers("down_blocks.0")
    if freeu:
        pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    try:
        settings = {**SMALL, **FAMILIES[family][1], **dict(given)}
        return pipe("a fox", generator=seeded(1)[0], **settings).frames
    finally:
        pipe.set_pag_applied_layers(None)
        if freeu:
            pipe.disable_freeu()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_setting_acts_on_each_family(family: str, setting: str, caplog: pytest.LogCaptureFixture) -> None:
    given, without = (frozenset(arguments.items()) for arguments in SETTINGS[setting])
    plain, changed = clip(family, without), clip(family, given, freeu=setting == "freeu")
    assert changed.isfinite().all()
    assert relative(changed, plain) > 5e-4
    assert "no effect" not in caplog.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_queue_of_frames_of_each_family(family: str) -> None:
    """With its conditions, or without those that are refused."""
    given, pipe = {**SMALL, **FAMILIES[family][1], "window": 2, "long_mode": "fifo"}, made(family)
    if "images" in given:
        with pytest.raises(UserError, match="`images`: not with `long_mode` fifo"):
            pipe("a fox", **given)
        given = {name: value for name, value in given.items() if name not in ("images", "image_mode")}
    clips = [pipe(prompt, generator=seeded(1)[0], **given).frames for prompt in ("a fox", "a red car in the snow")]
    assert clips[0].isfinite().all()
    assert relative(*clips) > 1e-3, "of its prompt"
