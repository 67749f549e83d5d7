"""The order of clips: endless, shuffled in each epoch, the same for any number of processes, resumable."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from animatediff.errors import UserError
from animatediff.training.data.dataset import ClipIndex


class ClipSampler(Sampler[ClipIndex]):
    """One endless sequence of clips, epoch after epoch without a gap, that all processes take turns in.

    Process `rank` of `world_size` gets every `world_size`-th clip of it, so a step sees the same clips whether they go
    to one process or to many. Iteration does not count as use, since loader processes run ahead: the training loop
    calls `advance` for used clips, and `state_dict` is of those.
    """

    def __init__(
        self, num_items: int, seed: int = 0, *, rank: int = 0, world_size: int = 1, shuffle: bool = True
    ) -> None:
        if num_items < 1:
            raise ValueError("there are no items to draw from")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} of world_size={world_size}")
        self.num_items, self.seed, self.shuffle = num_items, seed, shuffle
        self.rank, self.world_size = rank, world_size
        self.place = 0
        """Clips of the sequence that all processes together have used."""

    @property
    def epoch(self) -> int:
        """Number of times that every clip was used."""
        return self.place // self.num_items

    @property
    def index(self) -> int:
        """Number of clips of this epoch that were used."""
        return self.place % self.num_items

    def order(self, epoch: int) -> Tensor:
        """The items in the order of an epoch: (num_items,)."""
        if not self.shuffle:
            return torch.arange(self.num_items)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.num_items, generator=generator)

    def __iter__(self) -> Iterator[ClipIndex]:
        place, known, order = self.place + self.rank, -1, torch.empty(0)
        while True:
            epoch, index = divmod(place, self.num_items)
            if epoch != known:
                known, order = epoch, self.order(epoch)
            yield ClipIndex(epoch, int(order[index]))
            place += self.world_size

    def advance(self, num: int) -> None:
        """Count `num` clips more as used, by this process and by every other one."""
        self.place += num * self.world_size

    def state_dict(self) -> dict[str, Any]:
        """The place where the sequence goes on; the same on all processes, and for any number of them."""
        return {"epoch": self.epoch, "index": self.index, "num_items": self.num_items, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises UserError if the data has another number of items, or the seed is another."""
        for name, what in (("num_items", "usable clips in the data"), ("seed", "data.seed")):
            if state[name] != getattr(self, name):
                raise UserError(
                    f"the checkpoint was made with {state[name]} as the {what}, now it is {getattr(self, name)}: "
                    "resuming would not go on in the same order. Restore the data, or start a new run from its weights"
                )
        self.place = state["epoch"] * self.num_items + state["index"]
