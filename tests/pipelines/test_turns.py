"""Threads that share a pipeline, or models of one: each call waits for its turn and has the frames of a call alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import SMALL, seeded

from animatediff.errors import Cancelled
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.turns import turn


@pytest.fixture(scope="module")
def pipe() -> AnimateDiffPipeline:
    made = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    made.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    made.set_progress_bar_config(disable=True)
    return made


def test_calls_in_threads_are_calls_alone(pipe: AnimateDiffPipeline) -> None:
    other = AnimateDiffPipeline.from_pipe(pipe)
    calls: list[Callable[[], Any]] = [
        lambda: pipe("a fox", generator=seeded(1), **SMALL).frames,
        lambda: pipe("a boat", generator=seeded(2), **SMALL | {"num_frames": 6, "num_inference_steps": 4}).frames,
        lambda: other("a car", generator=seeded(3), **SMALL | {"num_frames": 5}).frames,
        lambda: pipe("a duck", generator=seeded(4), upscale=2.0, **SMALL | {"num_frames": 3}).frames,
    ]
    alone = [call() for call in calls]
    start = threading.Barrier(len(calls))

    def at_once(call: Callable[[], Any]) -> Any:
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        for frames, expected in zip(threads.map(at_once, calls), alone, strict=True):
            assert frames.shape == expected.shape
            assert relative(frames, expected) < 1e-6  # float32


def test_a_call_that_waits_can_be_cancelled_and_one_that_fails_lets_go(pipe: AnimateDiffPipeline) -> None:
    settings = SMALL | {"num_inference_steps": 1}
    with ThreadPoolExecutor(1) as threads:
        with turn(pipe):
            waiting = threads.submit(lambda: pipe("a fox", cancel=lambda: True, **settings))
            with pytest.raises(Cancelled, match="another thread"):
                waiting.result(timeout=120)
        failing = threads.submit(lambda: pipe("a fox", cancel=lambda: True, **settings))
        with pytest.raises(Cancelled, match="denoise"):
            failing.result(timeout=120)
    assert pipe("a fox", **settings).frames.shape[1] == 4


def test_a_callback_may_use_the_pipeline_of_its_call(pipe: AnimateDiffPipeline) -> None:
    seen = []

    def on_step(own: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        with turn(own):
            seen.append(step)
        return {}

    pipe("a fox", callback_on_step_end=on_step, **SMALL)
    assert seen == [0, 1]
