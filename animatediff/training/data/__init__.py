"""Training data: clips and captions from files, folders, shards or the sprite world; checked, cached, resumable."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.training.data.cache import LatentCache, fingerprint
    from animatediff.training.data.camera import camera_clip
    from animatediff.training.data.check import DataReport, check_data
    from animatediff.training.data.config import DataConfig
    from animatediff.training.data.dataset import ClipDataset, ClipIndex, ClipItem
    from animatediff.training.data.loader import Batch, ClipLoader, collate
    from animatediff.training.data.open import open_dataset
    from animatediff.training.data.sampler import ClipSampler
    from animatediff.training.data.shards import ShardClips

PLACES = {
    "LatentCache": "cache", "fingerprint": "cache", "camera_clip": "camera", "DataReport": "check",
    "check_data": "check", "DataConfig": "config", "ClipDataset": "dataset", "ClipIndex": "dataset",
    "ClipItem": "dataset", "Batch": "loader", "ClipLoader": "loader", "collate": "loader", "open_dataset": "open",
    "ClipSampler": "sampler", "ShardClips": "shards",
}  # fmt: skip
"""Module of each name; looked up when it is asked for, since a configuration is read without torch."""

__all__ = [
    "Batch", "ClipDataset", "ClipIndex", "ClipItem", "ClipLoader", "ClipSampler", "DataConfig", "DataReport",
    "LatentCache", "ShardClips", "camera_clip", "check_data", "collate", "fingerprint", "open_dataset",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{PLACES[name]}"), name)
