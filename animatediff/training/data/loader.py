"""Batches for the training loop, endless and resumable, from clips by number or from shards."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from animatediff.errors import UserError
from animatediff.training.data.dataset import ClipDataset, ClipItem, DrawnClips, Undrawn
from animatediff.training.data.sampler import ClipSampler
from animatediff.training.data.shards import ShardClips

logger = logging.getLogger(__name__)


class _Texts(TypedDict):
    text: list[str]
    key: list[str]
    bad: list[tuple[str, str]]


class Batch(_Texts, total=False):
    """Items side by side."""

    frames: Tensor
    """float32 (n, f, 3, h, w) in -1..1, of the items at `missing`; absent if there are none."""
    drawings: list[Any]
    """In place of frames: what `ClipDataset.draw` makes them of."""
    latents: Tensor
    """Entries of the cache, of all other items; absent if there are none."""
    poses: Tensor
    """float64 (n, f, 4, 4), camera to world; absent where the path is not known."""
    missing: list[int]
    """Positions of the items that came as frames: all of them without a cache."""
    position: list[tuple[int, ...]]
    place: list[int]
    """Each item's number in the sequence of clips that all processes read together (set by ClipLoader)."""


def collate(items: list[ClipItem]) -> Batch:
    """Put items side by side."""
    batch: Batch = {
        "text": [item["text"] for item in items],
        "key": [item["key"] for item in items],
        "bad": [pair for item in items for pair in item["bad"]],
        "missing": [i for i, item in enumerate(items) if "latents" not in item],
    }
    if frames := [item["frames"] for item in items if "frames" in item]:
        batch["frames"] = torch.stack(frames)
    if drawings := [item["drawing"] for item in items if "drawing" in item]:
        batch["drawings"] = drawings
    if latents := [item["latents"] for item in items if "latents" in item]:
        batch["latents"] = torch.stack(latents)
    if poses := [item["poses"] for item in items if "poses" in item]:
        batch["poses"] = torch.stack(poses)
    if positions := [item["position"] for item in items if "position" in item]:
        batch["position"] = positions
    return batch


class ClipLoader:
    """Endless batches of a dataset. A batch counts as used once it was given out; `state_dict` says where to go on.

    The order of clips, and the cut of each, depend on the data's seed alone; for a dataset by number also the
    number of processes and workers makes no difference. Items that could not be used are logged, once each, and kept
    in `bad`.
    """

    def __init__(
        self,
        dataset: ClipDataset | ShardClips,
        batch_size: int,
        *,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
        draw_on: torch.device | None = None,
    ) -> None:
        """draw_on: the device on which clips that are drawn, not read, are drawn a batch at a time; None: one by one,
        on the CPU, by the worker that reads the item.
        """
        self.dataset, self.batch_size = dataset, batch_size
        self.rank, self.world_size = rank, world_size
        self.place = 0
        """Clips given out since the very first, by all processes together."""
        self.bad: dict[str, str] = {}
        self._options: dict[str, Any] = {
            "batch_size": batch_size, "num_workers": num_workers, "pin_memory": pin_memory, "collate_fn": collate
        }  # fmt: skip
        self._draw_on = draw_on
        self.sampler: ClipSampler | None = None
        if isinstance(dataset, ClipDataset):
            self.sampler = ClipSampler(len(dataset), dataset.config.seed, rank=rank, world_size=world_size)
        elif (dataset.rank, dataset.world_size) != (rank, world_size):
            raise ValueError(f"the dataset is for process {dataset.rank} of {dataset.world_size}")

    def __iter__(self) -> Iterator[Batch]:
        given, device = self.dataset, self._draw_on
        later = given if isinstance(given, DrawnClips) and device is not None else None
        source: Any = given if later is None else Undrawn(later)
        loader: DataLoader[Any] = DataLoader(source, sampler=self.sampler, **self._options)
        batches = iter(loader)
        while True:
            try:
                batch: Batch = next(batches)
            except UserError as error:
                # From a worker it comes with that process's traceback in its message.
                raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from None
            self._count(batch)
            if later is not None and device is not None and "drawings" in batch:
                batch["frames"] = later.draw(batch.pop("drawings"), device)
            yield batch

    def _count(self, batch: Batch) -> None:
        batch["place"] = [self.place + i * self.world_size + self.rank for i in range(self.batch_size)]
        self.place += self.batch_size * self.world_size
        if self.sampler is not None:
            self.sampler.advance(self.batch_size)
        else:
            assert isinstance(self.dataset, ShardClips)
            self.dataset.advance(batch.get("position", []))
        for name, why in batch["bad"]:
            if name not in self.bad:
                self.bad[name] = why
                logger.warning("%s: %s; another clip is taken instead (%d such so far)", name, why, len(self.bad))

    def state_dict(self) -> dict[str, Any]:
        """The place where this process goes on after the batches given out so far: plain numbers, lists and strings."""
        source = self.sampler if self.sampler is not None else self.dataset
        assert isinstance(source, ClipSampler | ShardClips)
        return {"place": self.place, "source": source.state_dict(), "bad": dict(self.bad)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; iterate anew afterwards. Raises UserError if the data is not that of the state."""
        source = self.sampler if self.sampler is not None else self.dataset
        assert isinstance(source, ClipSampler | ShardClips)
        if isinstance(source, ClipSampler) == ("positions" in state["source"]):
            raise UserError("the checkpoint was made with data of another kind (shards or not); restore the data")
        source.load_state_dict(state["source"])
        self.place, self.bad = state["place"], dict(state["bad"])
