"""Tiny videos whose frames say their own number, and what else tests of training data need."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from animatediff.media import write_video

HEIGHT, WIDTH = 48, 96
BITS = 8


def numbered_frame(number: int) -> np.ndarray:
    """A grey picture with eight bars, light for the ones of the binary number: uint8 (48, 96, 3)."""
    frame = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            frame[8:40, 4 + 11 * bit : 14 + 11 * bit] = 200
    return frame


def number_of(frame: np.ndarray | torch.Tensor) -> int:
    """The number that a frame shows: uint8 (48, 96, 3), or a clip's frame (3, h, w) in -1..1 of any size."""
    if isinstance(frame, torch.Tensor):
        frame = ((frame.permute(1, 2, 0).numpy() + 1) * 127.5).round().clip(0, 255)
    h, w = frame.shape[:2]
    bars = [
        frame[h // 3 : 2 * h // 3, round(w * (6 + 11 * b) / WIDTH) : round(w * (12 + 11 * b) / WIDTH)]
        for b in range(BITS)
    ]
    return sum(1 << bit for bit, bar in enumerate(bars) if bar.mean() > 130)


def numbered_video(path: Path, num_frames: int = 24, caption: str | None = None, first: int = 0) -> Path:
    """Write a video whose frame i shows `first + i`, and its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(np.stack([numbered_frame(first + i) for i in range(num_frames)]), path, fps=24)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def numbers(clip: torch.Tensor) -> list[int]:
    """The numbers on a clip's frames."""
    return [number_of(frame) for frame in clip]


def write_shard(path: Path, samples: Iterable[tuple[str, Mapping[str, bytes]]], mode: Any = "w") -> Path:
    """Write a WebDataset shard of (name, files by suffix)."""
    with tarfile.open(path, mode) as tar:
        for name, files in samples:
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
