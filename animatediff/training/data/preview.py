"""A preview of training data as training sees it: clips side by side in one video."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from animatediff.media import make_grid, write_video
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import ClipDataset
from animatediff.training.data.loader import ClipLoader
from animatediff.training.data.open import open_dataset


class Preview(NamedTuple):
    """The first clips of a run, as training would see them."""

    frames: np.ndarray
    """uint8 (f, h, w, 3): all clips side by side."""
    texts: list[str]
    """The caption of each, row by row."""
    bad: dict[str, str]
    """Files that could not be used on the way."""


def preview(config: DataConfig, num_clips: int = 16) -> Preview:
    """Show the first `num_clips` clips in the order of training, none twice. Raises UserError as the check does."""
    dataset = open_dataset(config)
    if isinstance(dataset, ClipDataset):
        num_clips = min(num_clips, len(dataset))
    loader = ClipLoader(dataset, 1)
    clips, texts = [], []
    for batch in islice(iter(loader), num_clips):
        frames = batch.get("frames")
        assert frames is not None  # only a cache leaves them out
        clips.append(((frames[0].permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy())
        texts += batch["text"]
    return Preview(make_grid(clips), texts, loader.bad)


def write_preview(config: DataConfig, path: str | Path, num_clips: int = 16) -> Preview:
    """Write `preview` to a video, or to an image where the data is single frames. Raises UserError."""
    made = preview(config, num_clips)
    write_video(made.frames, path, fps=8)
    return made
