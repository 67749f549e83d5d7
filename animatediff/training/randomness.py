"""Timesteps, noise and all else that is random about a sample, as functions of the seed and of its place in the run.

A sample's place is its number in the endless sequence of samples that all processes read together. So its random
numbers are the same however an update is divided among processes and accumulated batches, and a resumed run repeats
none of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def generator_for(*words: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on all `words` and are unrelated for different ones."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@dataclass(frozen=True)
class NoiseSamples:
    """Random values of the samples of one batch."""

    noise: Tensor
    """(b, f, c, h, w), float32, on the CPU."""
    timesteps: Tensor
    """(b,)"""
    dropped: list[bool]
    """Whether a sample's caption is left out."""
    first_frame: Tensor
    """(b,) first of the frames that are kept where only every `frame_stride`-th is."""


@dataclass(frozen=True, kw_only=True)
class NoiseSampler:
    """Samples timesteps, noise, dropped captions and first frames, by the settings of a run."""

    seed: int
    update_size: int
    """Samples in one update of the weights."""
    num_timesteps: int
    timestep_power: float = 1.0
    stratified: bool = False
    caption_dropout: float = 0.0
    noise_offset: float = 0.0

    def sample(self, places: Sequence[int], shape: tuple[int, ...], frame_stride: int = 1) -> NoiseSamples:
        """Random values of the samples at `places`; `shape` (f, c, h, w) of what is left of each by `frame_stride`."""
        noises, timesteps, dropped, first = [], [], [], []
        for place in places:
            generator = generator_for(self.seed, "sample", place)
            u, drop, start = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
            noise = torch.randn(shape, generator=generator)
            if self.noise_offset:
                noise += self.noise_offset * torch.randn((1, shape[1], 1, 1), generator=generator)
            noises.append(noise)
            timesteps.append(self._timestep(place, u))
            dropped.append(drop < self.caption_dropout)
            first.append(int(start * frame_stride))
        return NoiseSamples(torch.stack(noises), torch.tensor(timesteps), dropped, torch.tensor(first))

    def _timestep(self, place: int, u: float) -> int:
        if self.stratified:
            update, index = divmod(place, self.update_size)
            order = torch.randperm(self.update_size, generator=generator_for(self.seed, "strata", update))
            u = (float(order[index]) + u) / self.update_size
        return min(int(self.num_timesteps * u**self.timestep_power), self.num_timesteps - 1)
