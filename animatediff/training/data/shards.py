"""Clips out of WebDataset shards: endless, divided among processes and their loader workers, exactly resumable.

The shards of an epoch are shuffled and dealt to all readers (processes times workers); a reader goes through a shard
from front to back, in blocks of neighbouring samples that are shuffled in memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, is_litter
from animatediff.training.data.cache import LatentCache
from animatediff.training.data.clip import clip_key, draw, to_clip
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import MAX_TRIES, ClipItem, read_frames
from animatediff.training.data.frames import walk
from animatediff.training.data.samples import Sample, parts_of
from animatediff.training.data.tar import SHARD_SUFFIXES, expand, is_remote, read_samples

logger = logging.getLogger(__name__)


class Position(NamedTuple):
    """The place that a reader has come to."""

    epoch: int = 0
    shard: int = 0
    """Number of the shard among the reader's of this epoch."""
    begin: int = 0
    """Beginning of the block in the shard, in bytes of the tar file."""
    used: int = 0
    """Samples of the block that were used."""


class Share(NamedTuple):
    """A shard, or every `parts`-th sample of it where there are fewer shards than readers."""

    shard: str
    part: int = 0
    parts: int = 1


def list_shards(config: DataConfig) -> list[str]:
    """List the shards that `config.path` names by braces, "*", a folder of .tar files, or a file. Raises UserError."""
    names = expand(config.path)
    if not config.is_remote():
        names = [match for name in names for match in _local(name)]
    if missing := [name for name in names if not is_remote(name) and not os.path.isfile(name)]:
        raise UserError(f"{config.path}: {len(missing)} of {len(names)} shards are missing, the first is {missing[0]}")
    return names


def _local(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        files = (os.path.join(root, name) for root, _, names in walk(path) for name in names if not is_litter(name))
        names = sorted(file for file in files if file.lower().endswith(SHARD_SUFFIXES))
        if not names:
            raise UserError(f"{path}: holds no .tar shards")
        return names
    if "*" in path.name:
        if not (names := sorted(map(str, path.parent.glob(path.name)))):
            raise UserError(f"{path}: no file matches")
        return names
    return [name]


class ShardClips(IterableDataset[ClipItem]):
    """An endless stream of clips, which goes on from its `state_dict`.

    The state is that of one process, so each must save its own. It is exact for the same number of processes and
    workers; with another, reading starts again at the beginning of the epoch, and a warning says so.
    """

    def __init__(self, config: DataConfig, shards: list[str], *, rank: int = 0, world_size: int = 1) -> None:
        self.config, self.shards = config, shards
        self.rank, self.world_size = rank, world_size
        self.cache: LatentCache | None = None
        self.first_epoch = 0
        self.epoch = 0
        """The epoch that the slowest worker was in when the state was made that this goes on from."""
        self.turn = 0
        """The worker whose batch is next."""
        self.num_workers: int | None = None
        self.positions: dict[int, Position] = {}

    def use_cache(self, cache: LatentCache | None) -> None:
        """Give latents for frames wherever `cache` has an entry, as ClipDataset."""
        self.cache = cache

    def shares(self, epoch: int, reader: int, num_readers: int) -> list[Share]:
        """The shards of one reader in an epoch; all readers together read every sample once."""
        order = list(self.shards)
        random.Random(f"{self.config.seed}/{epoch}/shards").shuffle(order)
        if len(order) >= num_readers:
            return [Share(shard) for shard in order[reader::num_readers]]
        number = reader % len(order)
        return [Share(order[number], reader // len(order), len(range(number, num_readers, len(order))))]

    def __iter__(self) -> Iterator[ClipItem]:
        info = get_worker_info()
        num_workers = info.num_workers if info else 1
        worker = ((info.id if info else 0) + self.turn) % num_workers
        start = Position(epoch=self.first_epoch)
        if self.num_workers in (None, num_workers):
            start = self.positions.get(worker, start)
        else:
            worker, start = info.id if info else 0, Position(epoch=self.epoch)
            if worker == 0:
                logger.warning(
                    "%s: the checkpoint was made with %s loader workers, now there are %d: reading starts again at the "
                    "beginning of epoch %d", self.config.path, self.num_workers, num_workers, self.epoch,
                )  # fmt: skip
        return self._clips(worker, num_workers, start)

    def _clips(self, worker: int, num_workers: int, position: Position) -> Iterator[ClipItem]:
        reader, num_readers = self.rank * num_workers + worker, self.world_size * num_workers
        barren, bad = 0, list[tuple[str, str]]()
        while True:
            shares = self.shares(position.epoch, reader, num_readers)
            while position.shard < len(shares):
                share = shares[position.shard]
                barren += 1
                try:
                    for sample, after in self._samples(share, position):
                        try:
                            item = self._item(share.shard, sample, position.epoch)
                        except BadMedia as error:
                            bad.append((f"{share.shard}: {sample.name}", str(error)))
                            continue
                        yield {**item, "bad": bad, "position": (num_workers, worker, *after)}
                        barren, bad = 0, []
                except BadMedia as error:
                    bad.append((share.shard, str(error)))
                position = position._replace(shard=position.shard + 1, begin=0, used=0)
                if barren >= MAX_TRIES:
                    raise UserError(self._barren(bad, share))
            position = Position(epoch=position.epoch + 1)

    def _barren(self, bad: list[tuple[str, str]], share: Share) -> str:
        listed = "; ".join(f"{name}: {why}" for name, why in bad[-3:])
        message = f"{self.config.path}: {MAX_TRIES} shards read one after the other gave no clip"
        if not listed:
            return f"{message}: there are fewer clips than processes and loader workers; lower the number of workers"
        return f"{message}, the last of them {listed}"

    def _samples(self, share: Share, position: Position) -> Iterator[tuple[Sample, Position]]:
        """Read samples of a shard from `position` on, in their order of use, with the position after each."""
        size = max(self.config.shuffle_block, share.parts)
        stream = self._blocks(share.shard, position.begin, size)
        for block, end, failure in stream:
            order = list(range(len(block)))
            begin = block[0].begin if block else position.begin
            random.Random(f"{self.config.seed}/{position.epoch}/{os.path.basename(share.shard)}/{begin}").shuffle(order)
            position = position._replace(begin=begin)
            for place in range(position.used, len(order)):
                if place % share.parts == share.part:
                    yield block[order[place]], position._replace(used=place + 1)
            position = position._replace(begin=end, used=0)
            if failure is not None:
                raise failure

    @staticmethod
    def _blocks(shard: str, begin: int, size: int) -> Iterator[tuple[list[Sample], int, BadMedia | None]]:
        """Read samples in groups of `size`, with the end of each group, and the fault after the last one, if any."""
        samples = read_samples(shard, begin)
        while True:
            block: list[Sample] = []
            failure = None
            try:
                for sample in islice(samples, size):
                    block.append(sample)
            except BadMedia as error:
                failure = error
            if block or failure:
                yield block, block[-1].end if block else begin, failure
            if failure or len(block) < size:
                return

    def _item(self, shard: str, sample: Sample, epoch: int) -> ClipItem:
        name, content, text, *_ = parts_of(sample)
        name = f"{os.path.basename(shard.split('?')[0])}/{name}"
        drawn = draw(self.config, epoch, f"{name}/{sample.begin}", name)
        key = clip_key(self.config, drawn, name, hashlib.sha256(content).hexdigest())
        latents = self.cache.get(key) if self.cache is not None else None
        if latents is not None:
            return {"latents": latents, "text": text, "key": key, "bad": []}
        clip = to_clip(read_frames(content, name, self.config, drawn), self.config, drawn)
        return {"frames": clip, "text": text, "key": key, "bad": []}

    def advance(self, positions: list[tuple[int, ...]]) -> None:
        """Count a batch as used whose items carried these `position`s."""
        num_workers, worker, *position = positions[-1]
        if num_workers != self.num_workers:
            if self.num_workers is not None:
                self.first_epoch = self.epoch
            self.positions, self.num_workers = {}, num_workers
        self.positions[worker] = Position(*position)
        self.turn = (worker + 1) % num_workers

    def _identity(self) -> dict[str, Any]:
        names = [os.path.basename(shard) for shard in self.shards]
        return {
            "shards": hashlib.sha256("\n".join(names).encode()).hexdigest()[:16],
            "seed": self.config.seed,
            "shuffle_block": self.config.shuffle_block,
        }

    def state_dict(self) -> dict[str, Any]:
        """The place where this process goes on."""
        epochs = [self.positions.get(w, Position(self.first_epoch)).epoch for w in range(self.num_workers or 1)]
        return {
            **self._identity(),
            "epoch": min(epochs),
            "first_epoch": self.first_epoch,
            "rank": self.rank,
            "world_size": self.world_size,
            "num_workers": self.num_workers,
            "turn": self.turn,
            "positions": {str(worker): list(position) for worker, position in self.positions.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises UserError if it belongs to other shards or another seed."""
        for name, value in self._identity().items():
            if state[name] != value:
                what = "other shards" if name == "shards" else f"data.{name}={state[name]}"
                raise UserError(
                    f"{self.config.path}: the checkpoint was made with {what}: resuming would not go on in the same "
                    "order. Restore the data, or start a new run from its weights"
                )
        if (state["rank"], state["world_size"]) != (self.rank, self.world_size):
            logger.warning(
                "%s: the checkpoint was made by process %d of %d, this is %d of %d: reading starts again at the "
                "beginning of epoch %d", self.config.path, state["rank"], state["world_size"], self.rank,
                self.world_size, state["epoch"],
            )  # fmt: skip
            self.first_epoch = self.epoch = state["epoch"]
            self.turn, self.num_workers, self.positions = 0, None, {}
            return
        self.epoch = state["epoch"]
        self.first_epoch, self.turn, self.num_workers = state["first_epoch"], state["turn"], state["num_workers"]
        self.positions = {int(worker): Position(*position) for worker, position in state["positions"].items()}
