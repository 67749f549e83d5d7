"""The optimizer and the learning rate of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from animatediff.errors import UserError

if TYPE_CHECKING:
    from animatediff.training.config import TrainConfig


def check_optimizer(config: TrainConfig) -> None:
    """Raise UserError for an optimizer that is not installed."""
    if config.optimizer != "adamw":
        try:
            import bitsandbytes.optim  # noqa: F401 # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                "`optimizer`=adamw8bit needs bitsandbytes: pip install bitsandbytes, or take adamw"
            ) from error


def make_optimizer(config: TrainConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make AdamW (arXiv 1711.05101), with states of 32 or 8 bits. Raises UserError where those are not installed."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.beta1, config.beta2),
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    check_optimizer(config)
    from bitsandbytes.optim import AdamW8bit  # pyright: ignore[reportMissingImports]

    return AdamW8bit(parameters, **settings)


def learning_rate(config: TrainConfig) -> Callable[[int], float]:
    """The learning rate as a function of the step, from 0: diffusers' schedules, with a floor under them."""
    from diffusers.optimization import get_scheduler

    name = config.lr_schedule
    if name == "constant" and config.warmup_steps:
        name = "constant_with_warmup"
    probe = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule: Any = get_scheduler(name, probe, num_warmup_steps=config.warmup_steps, num_training_steps=config.steps)
    factor: Callable[[int], float] = schedule.lr_lambdas[0]

    def rate(step: int) -> float:
        fraction = factor(step)
        if step >= config.warmup_steps:
            fraction = config.lr_floor + (1 - config.lr_floor) * fraction
        return config.learning_rate * fraction

    return rate
