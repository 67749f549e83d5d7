"""The training loop of networks that no stage of `animatediff train` makes: autoencoder, text encoder, classifiers.

Checkpoints, averaged weights and the metrics log are those of `animatediff.training`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.training.checkpoint import newest_checkpoint, write_checkpoint
from animatediff.training.ema import EMA
from animatediff.training.report import MetricsLog

Loss = Callable[[int], tuple[Tensor, Mapping[str, Tensor]]]
"""Step -> the loss, and other metrics for the log."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Length and learning rate of a run: linear warm-up, then a cosine down to `floor` of the peak at the end."""

    peak: float
    steps: int | None = None
    """Steps in all; None: as many as `minutes` allow."""
    minutes: float | None = None
    """The run ends after this time if that comes before the last step, and the cosine with it."""
    warmup_steps: int = 100
    floor: float = 0.02

    def is_over(self, step: int, seconds: float) -> bool:
        """Whether `step` steps and the time of all sessions are enough."""
        return (self.steps is not None and step >= self.steps) or self._elapsed(seconds) >= 1

    def learning_rate(self, step: int, seconds: float) -> float:
        """The rate of a step, from 0, that begins after this time."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        steps = 0.0 if self.steps is None else (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        fraction = min(1.0, max(steps, self._elapsed(seconds)))
        return self.peak * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fraction)))

    def _elapsed(self, seconds: float) -> float:
        return 0.0 if self.minutes is None else seconds / (60 * self.minutes)


def fit(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    schedule: Schedule,
    *,
    max_grad_norm: float | None = None,
    log_every: int = 100,
) -> None:
    """Train all parameters of `module`; nothing is kept but the weights in it."""
    _loop(module, optimizer, loss, schedule, _Progress(), max_grad_norm, log_every)


def fit_resumable(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    schedule: Schedule,
    *,
    ema: float,
    max_grad_norm: float | None = None,
    log_every: int = 100,
    save_every: int = 200,
) -> EMA:
    """Train as `fit`, with checkpoints and the metrics log in `folder`; goes on from the newest checkpoint there.

    Returns the averaged weights: `with average.applied(): ...`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    average, progress = EMA(dict(module.named_parameters()), ema), _Progress()
    parts: dict[str, Any] = {"module": module, "optimizer": optimizer, "ema": average}
    if state := newest_checkpoint(folder):
        for name, part in parts.items():
            part.load_state_dict(state[name])
        progress = _Progress(state["step"], state["seconds"])
    log = MetricsLog(folder, progress.step)

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        write_checkpoint(folder, {"step": progress.step, "seconds": progress.seconds, **states}, keep=1)

    def after_step(metrics: Mapping[str, float]) -> None:
        average.update()
        if progress.step % log_every == 0:
            log.add({"step": progress.step, "minutes": progress.seconds / 60, **metrics})
        if progress.step % save_every == 0:
            save()

    _loop(module, optimizer, loss, schedule, progress, max_grad_norm, log_every, after_step)
    save()
    return average


class _Progress:
    """Steps and seconds of a run, those of earlier sessions included."""

    def __init__(self, step: int = 0, seconds: float = 0.0) -> None:
        self.step = step
        self._began = time.perf_counter() - seconds

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


def _loop(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    schedule: Schedule,
    progress: _Progress,
    max_grad_norm: float | None,
    log_every: int,
    after_step: Callable[[Mapping[str, float]], None] = lambda metrics: None,
) -> None:
    while not schedule.is_over(progress.step, progress.seconds):
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(progress.step, progress.seconds)
        value, others = loss(progress.step)
        optimizer.zero_grad()
        value.backward()
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
        optimizer.step()
        progress.step += 1
        metrics = {name: float(metric.detach()) for name, metric in {"loss": value, **others}.items()}
        if progress.step % log_every == 0:
            text = ", ".join(f"{name} {metric:.4f}" for name, metric in metrics.items())
            print(f"step {progress.step}: {text}", flush=True)
        after_step(metrics)


def arguments(
    description: str | None, *, steps: int | None = None, batch: int | None = None
) -> argparse.ArgumentParser:
    """The options that the recipes share; those about training only with defaults for them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--run", type=Path, default=Path("outputs/bundled"), help="folder of checkpoints and weights")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=default, help="where to compute, such as cuda")
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps, help="optimizer steps in all")
    if batch is not None:
        parser.add_argument("--batch", type=int, default=batch, help="images or captions a step")
    return parser
