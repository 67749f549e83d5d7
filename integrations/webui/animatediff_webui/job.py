"""One generation: settings resolved, motion modules loaded, windows planned."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, Window, plan_windows
from animatediff.weights.families import Family
from animatediff.weights.motion import load_motion_module
from animatediff_webui.motion_lora import add_motion_loras
from animatediff_webui.settings import Settings, said

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
    """With MotionLoRAs in it, on the CPU, in the type of its file: a backend moves it to the UNet's."""
    family: Family
    loras: dict[Path, float] = field(default_factory=dict)
    """MotionLoRAs that are in `adapter`, and their strengths."""

    @property
    def alphas_cumprod(self) -> Tensor | None:
        """(1000,) float32 noise schedule of the family; None keeps the base model's."""
        return noise_schedule(self.family)

    def num_clips(self, num_rows: int) -> int:
        """Clips in a batch of the UNet: 1, or 2 with cond and uncond in one. ValueError for a batch that is no clip."""
        if not num_rows or num_rows % self.num_frames:
            raise ValueError(f"a batch of {num_rows} images is no clip of {self.num_frames} frames")
        return num_rows // self.num_frames


class Loaded:
    """The motion modules of the generation before, kept for the next; with MotionLoRAs in a copy."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._plain: tuple[MotionAdapter, Family] | None = None
        self._with: tuple[object, MotionAdapter] | None = None

    def load(self, path: Path, loras: Mapping[Path, float]) -> tuple[MotionAdapter, Family]:
        """Motion modules of a file, with these MotionLoRAs in them. Raises UserError as `load_motion_module`."""
        key = (path, path.stat().st_mtime_ns)
        if self._plain is None or self._key != key:
            self._plain = self._with = None  # two in memory are one too many
            self._plain, self._key = load_motion_module(path), key
        adapter, family = self._plain
        if not loras:
            self._with = None
            return adapter, family
        wanted = {lora: (strength, lora.stat().st_mtime_ns) for lora, strength in loras.items()}
        if self._with is None or self._with[0] != wanted:
            self._with = None
            changed = copy.deepcopy(adapter)
            add_motion_loras(changed, loras)
            self._with = wanted, changed
        return self._with[1], family


def clip_length(settings: Settings, num_source: int | None) -> int:
    """Frames of a clip. Raises UserError for one that is too short, and for more frames than the source has.

    num_source: frames of the video that it starts from, if there is one.
    """
    num_frames = settings.video_length or num_source or settings.batch_size
    if num_frames < 2:
        which = "batch_size" if num_source is None and not settings.video_length else "video_length"
        raise UserError(f"{said(which)}: a clip has at least 2 frames; for an image, switch AnimateDiff off")
    if num_source is not None and num_frames > num_source:
        raise UserError(
            f"{said('video_length')}: {num_frames} frames, but the video source has {num_source}; 0 takes them all"
        )
    return num_frames


def windows_of(settings: Settings, num_frames: int, max_positions: int) -> list[Window]:
    """Windows of a clip; none where it fits into one.

    Raises UserError for windows beyond the positions that the motion modules were trained on, and for an overlap
    that is as long as they are.
    """
    length = min(settings.batch_size, num_frames)
    if length > max_positions:
        raise UserError(
            f"{said('batch_size')}: {length} frames at once, but this motion module knows {max_positions}; longer "
            "clips run in windows"
        )
    if num_frames <= length:
        return []
    overlap = length // 4 if settings.overlap < 0 else settings.overlap
    if overlap >= length:
        raise UserError(f"{said('overlap')}: {overlap} frames, but windows have {length}; give less, or -1")
    closed = settings.closed_loop != "N"
    return plan_windows(num_frames, length, overlap, stride=settings.stride, closed_loop=closed)


def noise_schedule(family: Family) -> Tensor | None:
    """Shares of signal (1000,) of the noise schedule a family was trained with, float32; None: the base model's."""
    if family.betas is None:
        return None
    start, end = float(family.betas["beta_start"]), float(family.betas["beta_end"])
    if family.betas["beta_schedule"] == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, NUM_TIMESTEPS, dtype=torch.float32) ** 2
    else:
        betas = torch.linspace(start, end, NUM_TIMESTEPS, dtype=torch.float32)
    return torch.cumprod(1 - betas, dim=0)
