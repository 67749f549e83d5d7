"""FIFO-Diffusion (arXiv 2405.11473): clips without end, from a queue of frames that are each at another noise level.

Frame i of the queue has i + 1 steps before it. One iteration makes one step of every frame: the first is finished and
leaves, pure noise comes in behind (diagonal denoising, section 4.1). The queue is as long as the schedule and is
predicted in windows of the frames that the motion module knows (latent partitioning, section 4.2). A window keeps the
steps of its last frames alone, behind others that are cleaner (lookahead denoising, section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from animatediff.sampling.loop import denoise
from animatediff.sampling.predict import Predict

ONE_STEP = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "EulerDiscreteScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler_a",
    "LCMScheduler": "lcm",
    "TCDScheduler": "tcd",
}
"""Classes of diffusers whose step depends on nothing but its own prediction, and our names of them."""


@dataclass(frozen=True)
class QueueWindow:
    """Frames that are predicted at once, by their places in the finished frames and the queue behind them."""

    seen: range
    stepped: range
    """Those of them that make their step by this prediction."""


def queue_windows(num_finished: int, num_queued: int, length: int, overlap: int) -> list[QueueWindow]:
    """Lay windows over finished frames and a queue, so that each frame of the queue makes one step.

    A window sees `overlap` cleaner frames before those that it steps, or fewer where there are none, and then noisier
    ones behind them; half of `length` is the lookahead of the paper, 0 is without.

    >>> [(list(w.seen), list(w.stepped)) for w in queue_windows(2, 4, 4, 2)]
    [([0, 1, 2, 3], [2, 3]), ([2, 3, 4, 5], [4, 5])]
    >>> [(list(w.seen), list(w.stepped)) for w in queue_windows(0, 4, 4, 2)]
    [([0, 1, 2, 3], [0, 1]), ([0, 1, 2, 3], [2, 3])]
    """
    found, total = list[QueueWindow](), num_finished + num_queued
    for first in range(num_finished, total, length - overlap):
        last = min(first + length - overlap, total)
        begin = max(0, last - length)
        found.append(QueueWindow(range(begin, min(begin + length, total)), range(first, last)))
    return found


@dataclass(frozen=True, kw_only=True)
class FrameSteps:
    """Steps of frames that are at different places of one schedule, by a scheduler of `ONE_STEP`."""

    scheduler: Any
    """Of the queue alone, its timesteps laid out."""
    arguments: Mapping[str, Any]
    """Further arguments of its `step`."""

    @property
    def timesteps(self) -> Tensor:
        """(n,), falling."""
        return self.scheduler.timesteps

    def timestep(self, before: int) -> Tensor:
        """Timestep of a frame with so many steps before it; of a finished one, which has none, 0."""
        return self.timesteps[len(self.timesteps) - before] if before else torch.zeros_like(self.timesteps[0])

    def scaled(self, latents: Tensor, before: int) -> Tensor:
        """Latents (b, c, h, w) of a frame as the UNet takes them."""
        return self.scheduler.scale_model_input(latents, self._at(before)) if before else latents

    def step(self, prediction: Tensor, latents: Tensor, before: int) -> Tensor:
        """Make the step of a frame (b, c, h, w) that has so many before it, at least 1."""
        return self.scheduler.step(prediction, self._at(before), latents, **self.arguments).prev_sample

    def _at(self, before: int) -> Tensor:
        if hasattr(self.scheduler, "_step_index"):  # else it goes by the timestep
            self.scheduler._step_index = len(self.timesteps) - before
        return self.timestep(before)


@dataclass(kw_only=True)
class FrameQueue:
    """The queue, with the finished frames that its first window still sees; as large after any number of frames."""

    steps: FrameSteps
    predict: Predict
    """Takes a timestep for each of its frames."""
    draw: Callable[[], Tensor]
    """Pure noise (b, c, 1, h, w) of the next frame to come in, as the first step takes it."""
    latents: Tensor
    """(b, c, n, h, w) of the n steps: frame i has i + 1 steps before it."""
    length: int
    """Frames of a window."""
    overlap: int
    first: int = 0
    """Number of the first frame of the queue in the clip."""
    _finished: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._finished = self.latents[:, :, :0]

    def next(self) -> Tensor:
        """Make one step of every frame, and take out the first, finished: (b, c, 1, h, w)."""
        frames = torch.cat([self._finished, self.latents], dim=2)
        num_finished = self._finished.shape[2]
        before = [0] * num_finished + list(range(1, self.latents.shape[2] + 1))
        stepped = frames.clone()
        for window in queue_windows(num_finished, self.latents.shape[2], self.length, self.overlap):
            given = torch.stack([self.steps.scaled(frames[:, :, place], before[place]) for place in window.seen], dim=2)
            timesteps = torch.stack([self.steps.timestep(before[place]) for place in window.seen])
            numbers = [self.first - num_finished + place for place in window.seen]
            prediction = self.predict(given, timesteps.to(given.device), numbers)
            for place in window.stepped:
                own = prediction[:, :, place - window.seen.start]
                stepped[:, :, place] = self.steps.step(own, frames[:, :, place], before[place])
        done = num_finished + 1
        self._finished = stepped[:, :, max(0, done - self.overlap) : done].clone()
        self.latents = torch.cat([stepped[:, :, done:], self.draw().to(stepped)], dim=2)
        self.first += 1
        return stepped[:, :, done - 1 : done].clone()


def first_queue(
    noise: Tensor,
    *,
    steps: FrameSteps,
    predict: Predict,
    after_step: Callable[[int, Tensor], None],
) -> Tensor:
    """The queue to begin with, (b, c, n, h, w), from noise of that shape, one frame for each of the n steps.

    A clip of n frames is sampled as usual, and each frame is taken where it has the noise of its place in the queue. So
    the first frames that leave are those of that clip. (The paper adds noise to a finished clip instead.)
    after_step: (steps made, the sampler's estimate of the clean latents), may raise to end.
    """
    latents = noise * steps.scheduler.init_noise_sigma
    num_steps = latents.shape[2]
    queue = latents.clone()

    def keep(index: int, timestep: Tensor, latents: Tensor, estimate: Tensor) -> Tensor:
        place = num_steps - 2 - index
        queue[:, :, place] = latents[:, :, place]
        after_step(index + 1, estimate)
        return latents

    if hasattr(steps.scheduler, "_step_index"):
        steps.scheduler._step_index = None
    denoise(
        latents,
        predict=predict,
        scheduler=steps.scheduler,
        timesteps=steps.timesteps[:-1],
        step_arguments=dict(steps.arguments),
        after_step=keep,
    )
    return queue


def numbered(predict: Predict, num_frames: int) -> Predict:
    """A prediction for which all frames from the last of so many on are that one: prompts hold, curves stay level."""

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        return predict(latents, timestep, [min(frame, num_frames - 1) for frame in frames])

    return call
