"""The exponential moving average of the weights of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class EMA:
    """Exponential moving average of some parameters, in float32; while it is young it follows faster."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._live = dict(parameters)
        self.mean: dict[str, Tensor] = {name: p.detach().float().clone() for name, p in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self._live.values()], 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model its averaged weights inside the context, and exactly its own after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self._live.items():
            own = live.detach().clone()
            live.copy_(self.mean[name])
            self.mean[name].copy_(own)

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs in order to go on."""
        return {"updates": self.updates, "mean": dict(self.mean)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint."""
        self.updates = state["updates"]
        mean: Mapping[str, Tensor] = state["mean"]
        for name, tensor in self.mean.items():
            tensor.copy_(mean[name])
