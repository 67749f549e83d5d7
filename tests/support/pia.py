"""The golden case of PIA: the image model with its motion module, and what the original computed."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from animatediff.pipelines import AnimateDiffPipeline
from support import golden
from support.golden import case, expected
from support.paths import GOLDEN

FILE = GOLDEN / "pia" / "pia.ckpt"
MODEL = GOLDEN / "pia" / "sd"
SHORT: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"
}  # fmt: skip
BY_INDEX = {
    0: "small", 1: "moderate", 2: "large", 3: "loop-small", 4: "loop-moderate", 5: "loop-large", 6: "style-large",
    7: "style-moderate", 8: "style-small", -1: "style-small", -2: "style-moderate", -3: "style-large",
}  # fmt: skip
"""Number of a preset in the original -> its name here."""


def new_pipeline(**settings: Any) -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipe.load_motion_module(FILE, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def pipeline() -> AnimateDiffPipeline:
    return new_pipeline()


def image() -> Any:
    """uint8 (32, 32, 3)."""
    return expected("pia")["pipeline.image"].numpy()


def render(pipe: AnimateDiffPipeline, preset: int, **settings: Any) -> Tensor:
    """The clip of the case by one of the original's presets: (b, f, c, h, w)."""
    facts = case("pia")
    of_case: dict[str, Any] = {
        "images": {facts["cond_frame"]: image()},
        "motion_amount": BY_INDEX[preset],
        "generator": torch.Generator().manual_seed(facts["posterior_generator_seed"]),
    }
    return golden.render(pipe, "pia", **(of_case | settings)).transpose(1, 2)
