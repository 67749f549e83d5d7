"""The queue of frames at different steps: its windows, its steps, and that it does not grow."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.close import relative

from animatediff.sampling import denoise, make_scheduler, set_steps
from animatediff.sampling.fifo import ONE_STEP, FrameQueue, FrameSteps, first_queue, queue_windows
from animatediff.sampling.schedulers import STABLE_DIFFUSION

STEPS, LENGTH = 6, 4


@pytest.mark.parametrize(("num_queued", "length", "overlap"), [(6, 4, 2), (7, 4, 2), (3, 8, 4), (6, 4, 0), (1, 4, 3)])
def test_each_frame_is_stepped_once_and_looks_ahead(num_queued: int, length: int, overlap: int) -> None:
    for num_finished in range(overlap + 1):
        windows = queue_windows(num_finished, num_queued, length, overlap)
        stepped = [place for window in windows for place in window.stepped]
        assert stepped == list(range(num_finished, num_finished + num_queued))
        for window in windows:
            assert set(window.stepped) <= set(window.seen) and len(window.seen) <= length
            assert window.stepped[0] - window.seen[0] >= min(overlap, window.stepped[0])
            assert num_finished + num_queued < length or len(window.seen) == length, "as many as the module knows"


def sampler(name: str) -> Any:
    scheduler = make_scheduler(name, {"_class_name": "DDIMScheduler", **STABLE_DIFFUSION})
    set_steps(scheduler, STEPS, "cpu")
    return scheduler


def alone(latents: torch.Tensor, timestep: torch.Tensor, frames: Any) -> torch.Tensor:
    """A prediction in which no frame sees another, of its own timestep and number."""
    own = timestep.float().expand(latents.shape[2])[:, None, None]
    number = torch.tensor(list(frames)).float()[:, None, None]
    return torch.sin(latents) + own / 1000 + 0.1 * number


def noise(num_frames: int) -> torch.Tensor:
    return torch.randn(2, 4, num_frames, 2, 2, generator=torch.Generator().manual_seed(0))


def queue_of(name: str, given: torch.Tensor, overlap: int = 2) -> FrameQueue:
    """A queue of the frames of noise `given`."""
    scheduler = sampler(name)
    arguments = {} if name in ("ddim", "ddim_trailing") else {"generator": torch.Generator().manual_seed(0)}
    steps = FrameSteps(scheduler=scheduler, arguments=arguments)
    coming = iter(given[:, :, STEPS:].split(1, dim=2))
    latents = first_queue(given[:, :, :STEPS], steps=steps, predict=alone, after_step=lambda made, estimate: None)
    return FrameQueue(
        steps=steps, predict=alone, draw=lambda: next(coming) * scheduler.init_noise_sigma, latents=latents,
        length=LENGTH, overlap=overlap,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["ddim", "ddim_trailing", "euler", "euler_karras"])
def test_frames_take_all_steps_of_the_schedule(name: str) -> None:
    """Where frames do not see each other, each comes out as if all had been sampled at once."""
    given, scheduler = noise(2 * STEPS + 5), sampler(name)
    wanted = denoise(
        given * scheduler.init_noise_sigma, predict=alone, scheduler=scheduler, timesteps=scheduler.timesteps,
        step_arguments={}, after_step=lambda index, timestep, latents, estimate: latents,
    )  # fmt: skip
    for overlap in (0, 2):
        queue = queue_of(name, given, overlap)
        found = torch.cat([queue.next() for _ in range(STEPS + 5)], dim=2)
        assert relative(found, wanted[:, :, : STEPS + 5]) < 1e-5


@pytest.mark.parametrize("name", ["ddpm", "euler_a", "lcm", "tcd"])
def test_samplers_that_draw_noise(name: str) -> None:
    queue = queue_of(name, noise(2 * STEPS + 5))
    found = torch.cat([queue.next() for _ in range(STEPS + 5)], dim=2)
    assert found.isfinite().all() and found.std() > 0.1


def test_all_of_them_are_known_here() -> None:
    import diffusers

    for class_name, name in ONE_STEP.items():
        assert type(sampler(name)) is getattr(diffusers, class_name)


def test_the_queue_does_not_grow() -> None:
    queue = queue_of("ddim", noise(40))

    def kept() -> int:
        tensors = [value for value in vars(queue).values() if isinstance(value, torch.Tensor)]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    for _ in range(2):
        queue.next()
    before, first = kept(), queue.next()
    later = [queue.next() for _ in range(20)][-1]
    assert kept() == before
    assert later.untyped_storage().nbytes() == first.untyped_storage().nbytes() == first.numel() * 4
