"""What the training steps share: resumable checkpoints, a JSON-lines curve, an average of weights, a schedule."""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Run:
    """One training run in a folder: `<name>.pt` is its newest checkpoint, `<name>.jsonl` its curve."""

    def __init__(self, folder: Path, name: str, parts: dict[str, Any]) -> None:
        self.folder, self.name, self.parts = folder, name, parts
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.pt"
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            for key, part in parts.items():
                part.load_state_dict(state["parts"][key])
            self.step, self.seconds = state["step"], state["seconds"]
        self._started = time.perf_counter() - self.seconds

    def elapsed(self) -> float:
        """Seconds trained so far, earlier sessions included."""
        return time.perf_counter() - self._started

    def save(self) -> None:
        """Write the checkpoint beside the old one, then swap, so that an interruption leaves a whole file."""
        state = {
            "step": self.step,
            "seconds": self.elapsed(),
            "parts": {k: p.state_dict() for k, p in self.parts.items()},
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def log(self, **figures: float | torch.Tensor) -> None:
        """Append one line to the curve and print it."""
        row = {"step": self.step, "minutes": round(self.elapsed() / 60, 2)}
        row |= {k: round(float(v.detach() if isinstance(v, torch.Tensor) else v), 5) for k, v in figures.items()}
        with (self.folder / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


class Average:
    """Exponential moving average of a module's weights; young averages follow faster."""

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay, self.updates = decay, 0
        self.module: Any = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 10))
        for mean, now in zip(self.module.parameters(), module.parameters(), strict=True):
            mean.lerp_(now.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "module": self.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.module.load_state_dict(state["module"])


def cosine(step: int, steps: int, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up, then a cosine down to `floor` of the peak at the last step."""
    if step < warmup:
        return peak * (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * share)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def arguments(description: str, steps: int, batch: int) -> argparse.ArgumentParser:
    """The options that every training step takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", type=Path, default=Path("outputs/bundled"), help="folder of checkpoints and curves")
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps in all")
    parser.add_argument("--batch", type=int, default=batch, help="pictures (or clips) a step")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    return parser
