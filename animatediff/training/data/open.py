"""From a configuration to a dataset."""

from __future__ import annotations

from animatediff.errors import UserError
from animatediff.training.data.check import check_fits
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import ClipDataset, FileClips
from animatediff.training.data.shards import ShardClips, list_shards
from animatediff.training.data.sources import kind_of, list_items
from animatediff.training.data.sprites import SpriteClips


def open_dataset(config: DataConfig, *, rank: int = 0, world_size: int = 1) -> ClipDataset | ShardClips:
    """Open the clips that `config` names, without items that are missing; `check_data` names those.

    rank, world_size: number of this process, and of all; only shards are divided here, otherwise the sampler does it.
    Raises UserError if there is nothing to read.
    """
    kind = kind_of(config)
    check_fits(config, kind)
    if kind == "sprites":
        return SpriteClips(config)
    if kind == "webdataset":
        return ShardClips(config, list_shards(config), rank=rank, world_size=world_size)
    listing = list_items(config, kind)
    if not len(listing.items):
        raise UserError(f"{config.path}: no usable clips; bad: {'; '.join(listing.bad.lines())}")
    return FileClips(config, listing)
