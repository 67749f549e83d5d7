"""The golden cases: models of each family, what the original implementations computed, and how close is equal."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from animatediff.motion import Attachment, attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.motion import load_motion_module
from support.paths import GOLDEN

TOLERANCE = 1e-5
SD15_FAMILIES = ("v1", "v2", "v3")
FAMILIES = (*SD15_FAMILIES, "sdxl", "hotshot")


@cache
def expected(family: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / family / "expected.safetensors")


@cache
def case(family: str) -> dict[str, Any]:
    return json.loads((GOLDEN / family / "case.json").read_text())


def motion_file(family: str) -> Path:
    return GOLDEN / family / ("motion_module.safetensors" if family == "hotshot" else "motion_module.ckpt")


def load_unet(family: str) -> UNet2DConditionModel:
    folder = GOLDEN / family / ("sd/unet" if family in SD15_FAMILIES else "unet")
    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).eval()


def load_attached(family: str) -> Attachment:
    unet = load_unet(family)
    adapter, found = load_motion_module(motion_file(family), unet=unet, dtype=torch.float32)
    assert found.name == family, "recognised from its tensors alone"
    return attach(unet, adapter)


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.shape == wanted.shape
    difference = (found - wanted).abs().max().item()
    assert difference <= TOLERANCE, f"differs by {difference:.2e}"


def load_pipeline(family: str) -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / family / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(motion_file(family))
    return pipe
