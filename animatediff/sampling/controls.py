"""What steers a step from outside the UNet: residuals for its skip connections, asked for at every call of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from animatediff.models.residuals import Residuals
from animatediff.motion import Window


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

    def of(self, places: Sequence[int]) -> UNetInputs:
        """The inputs of some frames alone, given by their places among `frames`."""
        rows = self.rows(places)
        given = self.conditions
        return UNetInputs(
            latents=self.latents[rows],
            timestep=self.timestep,
            embeddings=self.embeddings[rows],
            conditions=None if given is None else {name: value[rows] for name, value in given.items()},
            frames=[self.frames[place] for place in places],
        )

    def rows(self, places: Sequence[int]) -> Tensor:
        """Where the frames at these places stand in a batch of (b f), for every clip."""
        of_clip = torch.arange(self.num_clips, device=self.latents.device)[:, None] * len(self.frames)
        return (of_clip + torch.tensor(places, device=self.latents.device)).flatten()


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


def blended_residuals(controls: Sequence[Control], inputs: UNetInputs, windows: Sequence[Window]) -> Residuals | None:
    """What all controls give to each window of the frames, blended by their shares; None if none gives anything.

    A control sees no more frames at once than the motion modules do, and steers the windows it would steer if each was
    predicted by itself.
    """
    if not controls:
        return None
    total: Residuals | None = None
    for window in windows:
        given = total_residuals(controls, inputs.of(window.frames))
        if given is not None:
            total = added(total, given, inputs, window.frames, window.share)
    return total


def added(
    total: Residuals | None, given: Residuals, inputs: UNetInputs, places: Sequence[int], share: Tensor
) -> Residuals:
    """`total`, None for nothing yet, with what is given to the frames at `places` of `inputs` times their `share`."""
    if total is None:
        num_pictures = len(inputs.latents)
        empty = [part.new_zeros(num_pictures, *part.shape[1:]) for part in (*given.down, given.mid)]
        total = Residuals(tuple(empty[:-1]), empty[-1])
    rows = inputs.rows(places)
    strength = share.repeat(inputs.num_clips)[:, None, None, None]
    for whole, part in zip((*total.down, total.mid), (*given.down, given.mid), strict=True):
        whole.index_add_(0, rows, part * strength.to(part))
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
