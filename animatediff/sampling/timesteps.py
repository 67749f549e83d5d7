"""First timestep of denoising: from pure noise, or from init latents part of the way (SDEdit, 2108.01073)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError

NEAR = 1e-6
"""A fraction is rarely a whole number of steps in floating point: 0.29 of 100 steps are 29."""


def check_strength(strength: float, name: str = "strength") -> None:
    """Raise UserError unless 0 < strength <= 1."""
    if not 0 < strength <= 1:
        raise UserError(
            f"{name}={strength:g}: expected more than 0 (hardly changed) and at most 1 (nothing of it is left)"
        )


def begin_at(scheduler: Any, steps: int, strength: float, name: str = "strength") -> Tensor:
    """The timesteps of the last `strength` of the steps, and the scheduler set to begin there; `set_steps` came before.

    Counted as diffusers does for images. Raises UserError for a strength that is no whole step.
    """
    check_strength(strength, name)
    skipped = steps - int(steps * strength + NEAR)
    if skipped == steps:
        raise UserError(f"{name}={strength:g} of {steps} steps is not one whole step; take more of either")
    return begin_behind(scheduler, skipped)


def begin_behind(scheduler: Any, skipped: int) -> Tensor:
    """The timesteps behind the first `skipped` steps, and the scheduler set to begin there."""
    if skipped == 0:
        return scheduler.timesteps
    timesteps = scheduler.timesteps
    if type(scheduler).__name__ == "PNDMScheduler":
        return _of_pndm(scheduler, skipped)
    skipped *= scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    return timesteps[skipped:]


def check_beginning(scheduler: Any, steps: int, strength: float, name: str = "strength") -> None:
    """Raise UserError as `begin_at`, for a scheduler that stays as it is."""
    if strength < 1:
        trial = copy.deepcopy(scheduler)
        trial.set_timesteps(steps)
        begin_at(trial, steps, strength, name)


def _of_pndm(scheduler: Any, skipped: int) -> Tensor:
    """PNDM makes its first step twice, wherever it begins: a plain end of its list would be one step off all along."""
    if not scheduler.config.skip_prk_steps:
        raise UserError(
            "this PNDM sampler warms up with Runge-Kutta steps and can begin nowhere else; choose another `scheduler`, "
            "or `pndm`"
        )
    times = scheduler.timesteps
    single = torch.cat([times[:1], times[2:]])[skipped:]
    return torch.cat([single[:1], single[1:2], single[1:2], single[2:]])


def noised(scheduler: Any, known: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """`known` latents (b, c, f, h, w) with as much noise as the first of the timesteps has."""
    first = timesteps[:1].repeat(len(known))
    return scheduler.add_noise(known, noise, first)
