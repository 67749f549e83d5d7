"""Streams: clips of any length, also without end, frame by frame from a queue (`sampling.fifo`), in flat memory."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from animatediff.pipelines.extras import loras_times, prepare_for
from animatediff.pipelines.job import Job, schedule_of
from animatediff.pipelines.output import Callbacks, gathered
from animatediff.pipelines.precision import check_finite
from animatediff.pipelines.setting import networks_at_work, setting_of, step_arguments
from animatediff.pipelines.turns import turn
from animatediff.sampling import clip_noise, draw_noise
from animatediff.sampling.fifo import FrameQueue, FrameSteps, first_queue, numbered


def stream_latents(pipe: Any, job: Job, callbacks: Callbacks) -> Generator[Tensor]:
    """Latents of one frame of every clip after the other, (b, c, 1, h, w), each sampled when it is asked for.

    Between two frames the pipeline is free for other calls. Raises Cancelled, and UserError for latents that are not
    finite.
    """
    queue: FrameQueue | None = None
    num_frames, done = None if job.endless else job.clip.num_frames, 0
    while num_frames is None or done < num_frames:
        with _at_work(pipe, job, callbacks):
            queue = queue or _begun(pipe, job, callbacks)
            latents = queue.next()
        check_finite(latents, pipe.unet.dtype)
        done += 1
        callbacks.step("denoise", job.steps - 1 + done, _total(job), latents)
        yield latents


def stream_frames(pipe: Any, job: Job, callbacks: Callbacks) -> Generator[Tensor]:
    """Frames (n, 3, H, W) in 0..1 of the one clip of a job, `decode_chunk_size` at a time, else one by one."""
    quiet = replace(callbacks, on_progress=None)
    if not job.windows.streams:
        yield from pipe.decode(pipe.sample(job, callbacks), job, callbacks)
        return
    waiting: list[Tensor] = []
    for latents in stream_latents(pipe, job, callbacks):
        waiting.append(latents)
        if len(waiting) == (job.call.decode_chunk_size or 1):
            yield from pipe.decode(torch.cat(waiting, dim=2), job, quiet)
            waiting.clear()
    if waiting:
        yield from pipe.decode(torch.cat(waiting, dim=2), job, quiet)


def stream_output(pipe: Any, job: Job, callbacks: Callbacks, output_type: str) -> Generator[Any]:
    """Frames of the one clip of a job, each as `output_type` says."""
    try:
        if output_type == "latent":
            parts = stream_latents(pipe, job, callbacks) if job.windows.streams else [pipe.sample(job, callbacks)]
            for latents in parts:
                yield from latents[0].transpose(0, 1)
            return
        for images in stream_frames(pipe, job, callbacks):
            yield from gathered([images], 1, output_type)[0]
    finally:
        pipe.maybe_free_model_hooks()


@contextmanager
def _at_work(pipe: Any, job: Job, callbacks: Callbacks) -> Iterator[None]:
    """Set the pipeline for the work of one frame, and leave it as it was found."""
    device: Any = pipe.base._execution_device
    with ExitStack() as stack:
        stack.enter_context(turn(pipe, callbacks.cancel))
        stack.enter_context(torch.no_grad())
        stack.enter_context(loras_times(job.lora_factor, pipe._lora_models))
        stack.enter_context(networks_at_work(pipe, job, device))
        pipe._begin(job, _total(job))
        try:
            yield
        finally:
            if pipe.attachment is not None:
                pipe.attachment.frames.num_frames = 0


def _begun(pipe: Any, job: Job, callbacks: Callbacks) -> FrameQueue:
    """The queue of a job, filled with the beginning of its clips."""
    device: Any = pipe.base._execution_device
    scheduler = copy.deepcopy(pipe.base.scheduler)  # other calls between two frames lay out steps of their own
    schedule = schedule_of(job.call, scheduler, job.steps, job.strength, device)
    schedule.begin()
    shape = job.at_once
    noise = draw_noise(shape, job.generators, window=job.windows.length, overlap=job.windows.overlap)
    groups = pipe._conditionings(job, device)
    setting = setting_of(pipe, job, schedule, noise, device, callbacks)
    conditions = prepare_for(groups, job.conditions, setting, job.attention)
    steps = FrameSteps(scheduler=scheduler, arguments=step_arguments(pipe, job))
    in_windows, at_once = (
        numbered(pipe._predict(one, groups, conditions, None, None), job.clip.num_frames)
        for one in (job, replace(job, windows=replace(job.windows, windows=())))
    )
    latents = first_queue(
        noise.to(device, torch.float32),
        steps=steps,
        predict=in_windows,
        after_step=lambda made, estimate: callbacks.step("denoise", made, _total(job), estimate),
    )
    one_frame = (*shape[:2], 1, *shape[3:])
    return FrameQueue(
        steps=steps,
        predict=at_once,
        draw=lambda: clip_noise(one_frame, job.generators) * scheduler.init_noise_sigma,
        latents=latents,
        length=job.windows.length,
        overlap=job.windows.overlap,
    )


def _total(job: Job) -> int:
    """Steps of the beginning and of each frame; 0 without end."""
    return 0 if job.endless else job.steps - 1 + job.clip.num_frames
