"""Clips that are drawn, not read: batches of them are drawn at once, on the device of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from animatediff.training.data import ClipLoader, DataConfig, LatentCache, open_dataset

CPU = torch.device("cpu")
LOOKS: list[dict[str, Any]] = [
    {"num_frames": 1},
    {"look": "neon", "height": 32, "width": 32},
    {"look": "paper", "watermark": True},
    {"camera": "ZoomIn", "motions": ["still"]},
    {"camera_paths": True, "motions": ["still"]},
]


def sprites(**settings: Any) -> Any:
    sizes: dict[str, Any] = {"num_frames": 3, "height": 64, "width": 64, "num_items": 5}
    return open_dataset(DataConfig(kind="sprites", **(sizes | settings)))


def batch_of(dataset: Any, draw_on: torch.device | None) -> Any:
    return next(iter(ClipLoader(dataset, 4, draw_on=draw_on)))


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_clips_of_a_batch_are_what_each_is_alone(look: dict[str, Any]) -> None:
    alone, together = (batch_of(sprites(**look), on) for on in (None, CPU))
    assert alone["key"] == together["key"] and alone["missing"] == together["missing"] == [0, 1, 2, 3]
    assert alone["frames"].shape == together["frames"].shape
    # Some kernels sum in another order for a larger batch.
    assert (alone["frames"] - together["frames"]).abs().max() < 1e-5
    assert "drawings" not in together


def test_what_is_cached_is_not_drawn(tmp_path: Path) -> None:
    dataset = sprites()
    cache = LatentCache(tmp_path, "vae")
    dataset.use_cache(cache)
    first = batch_of(dataset, CPU)
    cache.put(first["key"][1], torch.ones(3, 4, 16, 16))
    again = batch_of(dataset, CPU)
    assert again["missing"] == [0, 2, 3] and len(again["latents"]) == 1
    assert torch.equal(again["frames"], first["frames"][[0, 2, 3]])


@pytest.mark.parametrize("look", LOOKS, ids=str)
def test_they_are_drawn_on_the_device(look: dict[str, Any]) -> None:
    """On `meta` nothing is computed, and whatever is made on another device does not mix with it."""
    dataset = sprites(**look)
    assert dataset.draw([dataset.clip(i, 0)[2] for i in range(2)], torch.device("meta")).device.type == "meta"
