"""The samples of a run, batch after batch, each with its place in the run."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from animatediff.training.data.dataset import ClipItem
    from animatediff.training.data.sampler import ClipSampler

MAX_WORKERS = 8


@dataclass(frozen=True)
class Batch:
    """Some samples, and their numbers in the endless sequence that all processes read together."""

    items: list[ClipItem]
    places: list[int]


def default_workers(device: torch.device) -> int:
    """Processes that read data: none where the model needs the same processor itself."""
    return 0 if device.type == "cpu" else max(1, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))


class Batches(Iterator[Batch]):
    """Endless batches from where the sampler stands; `bad` counts what could not be used, by reason."""

    def __init__(
        self, dataset: Any, sampler: ClipSampler, *, batch: int, workers: int = 0, pin_memory: bool = False
    ) -> None:
        from torch.utils.data import DataLoader

        self.bad: Counter[str] = Counter()
        self._world_size = sampler.world_size
        self._place = sampler.place + sampler.rank
        self._loader = iter(
            DataLoader(
                dataset,
                batch_size=batch,
                sampler=sampler,
                num_workers=workers,
                collate_fn=as_list,
                pin_memory=pin_memory,
                worker_init_fn=leave_signals_to_the_run,
                drop_last=True,
            )
        )

    def __next__(self) -> Batch:
        items: list[ClipItem] = next(self._loader)
        places = [self._place + i * self._world_size for i in range(len(items))]
        self._place += len(items) * self._world_size
        for item in items:
            self.bad.update(f"{name}: {reason}" for name, reason in item["bad"])
        return Batch(items, places)


def leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; readers go on until the run has made its step and ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def as_list(items: Sequence[ClipItem]) -> list[ClipItem]:
    """Samples side by side: some have frames, others latents that were made before."""
    return list(items)
