"""The memory planner: its estimate against what torch allocates, its measures against frames made without them."""

from __future__ import annotations

import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support.close import relative
from support.paths import ROOT

from animatediff.errors import UserError
from animatediff.memory.measures import AWAY, DENOISING, DEVICE, GROUP, MODEL, Measures
from animatediff.pipelines import AnimateDiffPipeline, placement
from animatediff.pipelines.plan import levels_on_paper, plan_job
from animatediff.render import Renderer, build_request

sys.path.insert(0, str(ROOT / "benchmarks"))
import planner  # pyright: ignore[reportMissingImports]

sys.path.pop(0)

CALL: dict[str, Any] = {
    "prompt": "a fox moving right on a green background", "num_frames": 8, "num_inference_steps": 3, "output_type": "pt"
}  # fmt: skip
NO_MEMORY = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"


@cache
def pipeline() -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def rendered(measures: Measures = DENOISING[0], sampler: str = "ddim", **changes: Any) -> torch.Tensor:
    pipe = pipeline()
    pipe.set_scheduler(sampler)
    job = pipe.job(**{**CALL, **changes}, generator=torch.Generator().manual_seed(1))
    job.saving.measures = measures
    return torch.cat(list(pipe.decode(pipe.sample(job), job)))


def test_the_estimate_is_what_is_allocated() -> None:
    threads = torch.get_num_threads()
    try:
        found = planner.compared(planner.SETTINGS["within a bound"], quick=True)
    finally:
        torch.set_num_threads(threads)
    assert found["measured"] > 1.1 * found["weights"]
    assert 0.95 <= found["estimate"] / found["measured"] <= 1.15


@pytest.mark.parametrize("measures", [Measures(images=3), Measures(apart=True, sequences=100, decode=1)])
def test_measures_change_no_frame(measures: Measures) -> None:
    assert relative(rendered(measures, num_inference_steps=1), rendered(num_inference_steps=1)) < 1e-5


def test_measures_go_with_windows_in_the_motion_modules() -> None:
    changes = {"num_frames": 12, "window": 8, "long_mode": "motion", "num_inference_steps": 1}
    measures = Measures(apart=True, images=5, sequences=64)
    assert relative(rendered(measures, **changes), rendered(**changes)) < 1e-5


class Full:
    """A layer whose n-th call runs out of memory."""

    def __init__(self, layer: torch.nn.Module, *failing: int) -> None:
        self.failing, self.calls = failing, 0
        self.handle = layer.register_forward_pre_hook(self.hook)

    def hook(self, *_: Any) -> None:
        self.calls += 1
        if self.calls in self.failing:
            raise RuntimeError(NO_MEMORY)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("sampler", ["euler_a"])
def test_a_step_without_memory_is_made_again(sampler: str, caplog: pytest.LogCaptureFixture) -> None:
    wanted = rendered(sampler=sampler)
    with Full(pipeline().unet.mid_block, 2) as full, caplog.at_level(logging.WARNING, "animatediff"):
        found = rendered(sampler=sampler)
    assert full.calls == 1 + 1 + 2 + 2  # a step, one that fails, and two in halves
    assert relative(found, wanted) < 1e-5
    assert [line for line in caplog.messages if "out of memory" in line] == [
        "out of memory: a step is made again; prompt and negative prompt one after the other"
    ]


def test_fast_mode_forgets_nothing_where_a_step_is_made_again() -> None:
    changes = {"num_inference_steps": 12, "fast": "max", "num_frames": 2}
    wanted = rendered(**changes)
    with Full(pipeline().unet.up_blocks[-1].resnets[-1], 3, 5):  # a full step, and one that uses kept features
        found = rendered(**changes)
    assert relative(found, wanted) < 1e-4


def test_an_error_that_no_measure_helps_against_is_raised() -> None:
    with Full(pipeline().unet.mid_block, *range(100)), pytest.raises(RuntimeError, match="can't allocate"):
        rendered()
    with Full(pipeline().vae.decoder, *range(100)), pytest.raises(RuntimeError, match="can't allocate"):
        rendered()


def test_decoding_without_memory_goes_on_with_fewer_frames(caplog: pytest.LogCaptureFixture) -> None:
    wanted = rendered(num_inference_steps=1)
    with Full(pipeline().vae.decoder, 2) as full:
        found = rendered(num_inference_steps=1)
    assert full.calls == 1 + 1 + 8  # on a CPU one frame at a time: one, one that fails, and all from the first
    assert relative(found, wanted) < 1e-5
    assert "the VAE takes 2 frames" in caplog.text
    with Full(pipeline().vae.decoder, 2), pytest.raises(RuntimeError, match="can't allocate"):
        rendered(decode_chunk_size=4, num_inference_steps=1)  # as the user said


def test_a_bound_is_kept_by_the_cheapest_measures() -> None:
    pipe = pipeline()
    free = pipe.plan(**CALL)
    assert free.fits and free.measures.told() == []
    less = pipe.plan(**CALL, vram=free.needed - 1)
    assert less.measures == Measures(apart=True) and less.fits and less.peak < free.peak
    with pytest.raises(
        UserError, match=r"vram=10 MB, and 8 frames of 64x64 take \d+ MB at least, .*`width` and `height`"
    ):
        pipe(**CALL, vram="10MB")
    with pytest.raises(UserError, match="`vram`: '6 apples' is no amount of memory"):
        pipe(**CALL, vram="6 apples")


def test_weights_of_8_bits_are_the_last_measure() -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    few = {**CALL, "num_frames": 4, "num_inference_steps": 2}
    frames = []
    for bound in (None, "30MB"):
        job = pipe.job(**few, generator=torch.Generator().manual_seed(1), vram=bound)
        frames.append(torch.cat(list(pipe.decode(pipe.sample(job), job))))
    assert job.saving.measures.fp8 and pipe.unet.conv_in.weight.element_size() == 1
    assert 10 * torch.log10(1 / (frames[1] - frames[0]).square().mean()) > 20  # decibels


def test_offload_keeps_less_on_a_gpu() -> None:
    """On paper: a device that is not here."""
    pipe = pipeline()
    nothing, device, model, group = levels_on_paper(pipe, pipe.dry_job(**CALL, vram="1GB"))
    assert nothing.peak > device.peak > model.peak > group.peak
    assert model.phases[1].weights == model.weights["unet"] + model.weights["motion"]
    assert [plan.measures.weights for plan in (model, group)] == [MODEL, GROUP]
    assert model.machine is not None and nothing.machine is not None and model.machine > nothing.machine


def test_weights_go_where_a_plan_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for a device with memory of its own."""
    pipe = AnimateDiffPipeline.from_bundled()
    few: dict[str, Any] = {**CALL, "num_frames": 2, "num_inference_steps": 1}

    def frames() -> torch.Tensor:
        job = pipe.dry_job(**few, generator=torch.Generator().manual_seed(1))
        return torch.cat(list(pipe.decode(pipe.sample(job), job)))

    wanted = frames()
    monkeypatch.setattr(placement, "can_move", lambda pipe: True)
    for level, offloaded in ((AWAY, [True, False, True]), (MODEL, [True] * 3), (DEVICE, [False] * 3), (GROUP, None)):
        placement.place(pipe, Measures(weights=level))
        models = [pipe.text_encoder, pipe.unet, pipe.vae]
        if offloaded is not None:
            assert [hasattr(model, "_hf_hook") for model in models] == offloaded
        assert any(hasattr(layer, "_diffusers_hook") for layer in pipe.unet.modules()) == (offloaded is None)
        assert torch.equal(frames(), wanted)


def test_the_second_pass_is_in_the_plan() -> None:
    pipe = pipeline()
    once, twice = (pipe.plan(**CALL, upscale=upscale) for upscale in (None, 2.0))
    assert twice.phases[1].tensors > 3 * once.phases[1].tensors
    assert "128x128" in twice.clip


def test_a_plan_leaves_models_and_random_numbers_alone() -> None:
    pipe = pipeline()
    torch.manual_seed(5)
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    hooks = [len(layer._forward_hooks) for layer in pipe.unet.modules()]
    plan_job(pipe, pipe.dry_job(**CALL, generator=torch.Generator()))
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())
    assert hooks == [len(layer._forward_hooks) for layer in pipe.unet.modules()]


def test_a_request_is_planned_without_weights(tmp_path: Path) -> None:
    request = build_request({"prompt": "a fox", "num_frames": 8, "vram": "1GB"})
    plan = Renderer().plan(request)
    loaded = pipeline().plan(**{**CALL, "prompt": "a fox", "output_type": "pil"})
    assert [p.total for p in plan.phases] == pytest.approx([p.total for p in loaded.phases], rel=1e-3)
    assert plan.limit == 10**9 and plan.as_dict()["fits"] is True
