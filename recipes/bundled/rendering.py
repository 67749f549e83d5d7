"""Rendered clips of the bundled model, sheets of their frames, and percentages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.pipelines.vae import to_bytes


def new_pipeline(
    model: Path | None = None, motion: Path | None = None, device: torch.device | str | None = None
) -> Any:
    """The image model and motion module of these files, the bundled ones by default; float32, silent.

    device: where to render; None: on the CPU.
    """
    from animatediff.pipelines import AnimateDiffPipeline

    pipe = AnimateDiffPipeline.from_pretrained(model or bundled_path(), torch_dtype="float32")
    pipe.load_motion_module(motion or motion_module_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe if device is None else pipe.to(device)


def clip_of(pipe: Any, text: str, seed: int, steps: int | None = None, **settings: Any) -> Tensor:
    """One clip (f, 3, 64, 64) in 0..1; `steps` None: as many as the model recommends."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(text, generator=generator, num_inference_steps=steps, output_type="pt", **settings).frames[0].cpu()


def write_sheet(clips: list[Tensor], path: Path) -> None:
    """Write every third frame of some clips, one clip a row."""
    if clips:
        write_rows([list(clip[::3]) for clip in clips], path)


def write_rows(rows: list[list[Tensor]], path: Path) -> None:
    """Write rows of images (3, h, w) in 0..1, twice as large."""
    from PIL import Image

    whole = torch.cat([torch.cat(row, dim=2) for row in rows], dim=1)
    pixels = to_bytes(whole[None])[0].numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.NEAREST).save(path)


def percent(right: list[bool]) -> str:
    """The percentage that is right, and of how many."""
    return f"{100 * sum(right) / max(1, len(right)):.1f} % of {len(right)}"
