"""One generation: settings resolved, motion modules loaded, windows and prompt travel planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from animatediff.motion import MotionAdapter, Window
from animatediff.prompts import PromptTravel
from animatediff.weights.families import Family
from torch import Tensor

from animatediff_webui.settings import Settings

NUM_TIMESTEPS = 1000
"""Noise levels of training, of every Stable Diffusion."""


@dataclass(kw_only=True)
class Job:
    """What a backend needs of one generation."""

    settings: Settings
    base: str
    """Kind of the base model: "sd1", "sd2" or "sdxl"."""
    num_frames: int
    windows: Sequence[Window] = ()
    """Windows of the clip, each a call of the UNet; empty where all frames go at once."""
    model_path: Path
    adapter: MotionAdapter
    """With MotionLoRAs in it, on the CPU, in float32 or the file's type: a backend moves it to the UNet's."""
    family: Family
    travel: PromptTravel | None = None
    negative_travel: PromptTravel | None = None
    loras: dict[Path, float] = field(default_factory=dict)
    """MotionLoRAs that are in `adapter`, and their strengths."""

    @property
    def alphas_cumprod(self) -> Tensor | None:
        """(1000,) float32 noise schedule of the family; None keeps the base model's."""
        return noise_schedule(self.family)

    def num_clips(self, num_rows: int) -> int:
        """Clips in a batch of the UNet: 1, or 2 with cond and uncond in one. ValueError for a batch that is no clip."""
        if num_rows % self.num_frames:
            raise ValueError(f"a batch of {num_rows} images is no clip of {self.num_frames} frames")
        return num_rows // self.num_frames


def noise_schedule(family: Family) -> Tensor | None:
    """Shares of signal (1000,) of the noise schedule that a family was trained with, float32; None: the base model's."""
    if family.betas is None:
        return None
    start, end = float(family.betas["beta_start"]), float(family.betas["beta_end"])
    if family.betas["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float32) ** 2
    else:
        betas = torch.linspace(start, end, NUM_TIMESTEPS, dtype=torch.float32)
    return torch.cumprod(1 - betas, dim=0)
