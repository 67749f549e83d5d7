"""What steers a step from outside the UNet: residuals for its skip connections, asked for at every call of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


class Residuals(NamedTuple):
    """What is added to what the UNet keeps on its way down, and to the output of its mid block."""

    down: tuple[Tensor, ...]
    """(b*f, c, h, w) each, in the order of the UNet."""
    mid: Tensor
    """(b*f, c, h, w)."""

    def scaled(self, by: float) -> Residuals:
        """All of them times `by`."""
        return Residuals(tuple(part * by for part in self.down), self.mid * by)

    def plus(self, other: Residuals) -> Residuals:
        """The sum of two controls."""
        return Residuals(tuple(a + b for a, b in zip(self.down, other.down, strict=True)), self.mid + other.mid)


@dataclass(frozen=True, kw_only=True)
class UNetInputs:
    """One call of the UNet: some clips, with guidance each of them twice, and some of their frames."""

    latents: Tensor
    """(b*f, c, h, w), as the UNet gets them."""
    timestep: Tensor
    embeddings: Tensor
    """(b*f, n, d) text states."""
    conditions: Mapping[str, Tensor] | None
    """SDXL's `text_embeds` and `time_ids`, (b*f, ...)."""
    frames: Sequence[int]
    """Which frames of the clip these are."""

    @property
    def num_clips(self) -> int:
        """b, where clips with guidance count twice."""
        return self.latents.shape[0] // len(self.frames)


class Control(Protocol):
    """Anything that has residuals to give: SparseCtrl, ControlNet."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for this call, or None where it has nothing to say: at this step, or for these frames."""
        ...


def total_residuals(controls: Iterable[Control], inputs: UNetInputs) -> Residuals | None:
    """The sum of what all controls give, None if none gives anything."""
    total: Residuals | None = None
    for control in controls:
        if (given := control.residuals(inputs)) is not None:
            total = given if total is None else total.plus(given)
    return total


def active_timesteps(timesteps: Tensor, start: float, end: float) -> frozenset[float]:
    """The timesteps of a share of the steps, `start` and `end` from 0 to 1; steps that lie inside it count.

    >>> import torch
    >>> sorted(active_timesteps(torch.tensor([900, 600, 300, 0]), 0.0, 0.5))
    [600.0, 900.0]
    """
    steps, total = timesteps.tolist(), len(timesteps)
    # a share is rarely a whole number of steps in floating point: 0.3 of 10 steps are 3
    near = 1e-6
    return frozenset(
        float(step)
        for index, step in enumerate(steps)
        if index / total >= start - near and (index + 1) / total <= end + near
    )
