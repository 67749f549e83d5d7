"""What the training steps of the bundled model share: checkpoints that survive, curves, learning rates."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Run:
    """A folder with one training step's checkpoint and its curve (`curve.jsonl`)."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.time()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None."""
        if not self.checkpoint.exists():
            return None
        return torch.load(self.checkpoint, weights_only=True)

    def save(self, state: dict[str, Any]) -> None:
        """Replace the checkpoint; the old one stays until the new one is whole."""
        part = self.checkpoint.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def log(self, **values: Any) -> None:
        """Add a line to the curve and show it."""
        line = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        line["minutes"] = round((time.time() - self.started) / 60, 2)
        with (self.folder / "curve.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


class Average:
    """Exponential moving average of a module's trainable parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(module.named_parameters())
        self.values = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the current parameters; early steps count more, since there is little to average."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [p.detach() for p in self.parameters.values()], 1 - decay)


def cosine(share: float, warm_up: float = 0.01) -> float:
    """Factor of the learning rate at a share (0..1) of a run: a short linear rise, then half a cosine down to 1 %."""
    if share < warm_up:
        return share / warm_up
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, (share - warm_up) / (1 - warm_up))))


def seconds_left(run_seconds: float) -> Iterator[float]:
    """Yield the share of `run_seconds` that has passed, until it is over."""
    start = time.time()
    while (share := (time.time() - start) / run_seconds) < 1:
        yield share
