"""Pipelines on the golden models, loaded once in a process, and settings of clips that are quick to make."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from animatediff.pipelines import AnimateDiffPipeline
from support.paths import GOLDEN

SMALL: dict[str, Any] = {"num_frames": 4, "height": 24, "width": 24, "num_inference_steps": 2, "output_type": "pt"}
TINY: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"
}  # fmt: skip
PUBLISHED = {
    "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
    "skip_prk_steps": True,
}  # fmt: skip
"""The configuration of the scheduler that is published with Stable Diffusion 1.5."""


@cache
def pipeline(family: str = "v3") -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / family / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / family / "motion_module.ckpt")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]
