"""Controls of the denoising loop: residuals for the skip connections of the UNet, asked for at every call of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """One for all, or (b*f,)."""
    embeddings: Tensor
    """(b*f, n, d) prompt embeddings."""
    conditions: Mapping[str, Tensor] | None
    """SDXL's `text_embeds` and `time_ids`, (b*f, ...)."""
    frames: Sequence[int]
    """Frames of the clip that the latents belong to."""
    clips: Sequence[int] | None = None
    """Which clip of the call each of the b is, from 0; None is all in order, with guidance twice."""
    num_negative: int | None = None
    """How many of the b, the first ones, have negative prompts; None is half with guidance."""

    @property
    def num_clips(self) -> int:
        """b, where clips with guidance count twice."""
        return self.latents.shape[0] // len(self.frames)

    def of(self, places: Sequence[int]) -> UNetInputs:
        """Return the inputs of some frames alone, given by their places among `frames`."""
        rows = self.rows(places)
        given = self.conditions
        return UNetInputs(
            latents=self.latents[rows],
            timestep=self.timestep,
            embeddings=self.embeddings[rows],
            conditions=None if given is None else {name: value[rows] for name, value in given.items()},
            frames=[self.frames[place] for place in places],
            clips=self.clips,
            num_negative=self.num_negative,
        )

    def positive(self) -> UNetInputs | None:
        """Return the inputs of the clips that have no negative prompts; None without guidance, where all are such."""
        negative = self.num_clips // 2 if self.num_negative is None else self.num_negative
        if not negative:
            return None
        rows, given = slice(negative * len(self.frames), None), self.conditions
        return replace(
            self,
            latents=self.latents[rows],
            embeddings=self.embeddings[rows],
            conditions=None if given is None else {name: value[rows] for name, value in given.items()},
            clips=None if self.clips is None else self.clips[negative:],
            num_negative=0,
        )

    def images(self, given: Tensor) -> Tensor:
        """Return what is given for 1 or each clip of the call, (1 or n, ...), for each of the b."""
        if len(given) == 1 or self.clips is None:
            return given.repeat(self.num_clips // len(given), *[1] * (given.ndim - 1))
        return given[list(self.clips)]

    def rows(self, places: Sequence[int]) -> Tensor:
        """Return the rows of the frames at these places in a batch of (b f), for every clip."""
        of_clip = torch.arange(self.num_clips, device=self.latents.device)[:, None] * len(self.frames)
        return (of_clip + torch.tensor(places, device=self.latents.device)).flatten()


class Control(Protocol):
    """A network beside the UNet that computes residuals for it: SparseCtrl, ControlNet."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Return residuals for this call, or None where it has none: at this step, or for these frames."""
        ...


def total_residuals(controls: Iterable[Control], inputs: UNetInputs) -> Residuals | None:
    """Sum the residuals of all controls; None if none has any."""
    total: Residuals | None = None
    for control in controls:
        if (residuals := control.residuals(inputs)) is not None:
            total = residuals if total is None else total.plus(residuals)
    return total


def blended_residuals(controls: Sequence[Control], inputs: UNetInputs, windows: Sequence[Window]) -> Residuals | None:
    """Blend the residuals of all controls for each window of the frames by their weights; None if none has any.

    A control sees no more frames at once than the motion modules do, and acts on the windows it would act on if
    each was predicted by itself.
    """
    if not controls:
        return None
    total: Residuals | None = None
    for window in windows:
        residuals = total_residuals(controls, inputs.of(window.frames))
        if residuals is not None:
            total = added(total, residuals, inputs, window.frames, window.share)
    return total


def for_positive(inputs: UNetInputs, ask: Callable[[UNetInputs], Residuals]) -> Residuals:
    """Ask for residuals of the clips that have no negative prompts; zeros for those that have."""
    positive = inputs.positive()
    if positive is None:
        return ask(inputs)
    found, num_images = ask(positive), len(inputs.latents)
    whole = [
        torch.cat([part.new_zeros(num_images - len(part), *part.shape[1:]), part]) for part in (*found.down, found.mid)
    ]
    return Residuals(tuple(whole[:-1]), whole[-1])


def added(
    total: Residuals | None, residuals: Residuals, inputs: UNetInputs, places: Sequence[int], weight: Tensor
) -> Residuals:
    """Add `residuals` of the frames at `places` of `inputs`, times their `weight`, to `total` (None: none yet)."""
    if total is None:
        num_images = len(inputs.latents)
        empty = [part.new_zeros(num_images, *part.shape[1:]) for part in (*residuals.down, residuals.mid)]
        total = Residuals(tuple(empty[:-1]), empty[-1])
    rows = inputs.rows(places)
    strength = weight.repeat(inputs.num_clips)[:, None, None, None]
    for whole, part in zip((*total.down, total.mid), (*residuals.down, residuals.mid), strict=True):
        whole.index_add_(0, rows, part * strength.to(part))
    return total


def active_timesteps(timesteps: Tensor, start: float, end: float) -> frozenset[float]:
    """Return the timesteps between two fractions of the steps, `start` and `end` from 0 to 1; whole steps count.

    >>> import torch
    >>> sorted(active_timesteps(torch.tensor([900, 600, 300, 0]), 0.0, 0.5))
    [600.0, 900.0]
    """
    steps, total = timesteps.tolist(), len(timesteps)
    # a fraction is rarely a whole number of steps in floating point: 0.3 of 10 steps are 3
    near = 1e-6
    return frozenset(
        float(step)
        for index, step in enumerate(steps)
        if index / total >= start - near and (index + 1) / total <= end + near
    )
