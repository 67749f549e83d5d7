"""Fast mode: what a step leaves out is what was kept, the UNet stays as it was, and plans keep their proportions."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from support.close import relative
from support.golden import load_attached
from support.pipelines import SMALL, pipeline, seeded

from animatediff.errors import UserError
from animatediff.models.residuals import Residuals
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling.fast import FEWEST_STEPS, LEVELS, full_steps
from animatediff.sampling.features import DeepFeatures

FAST = LEVELS[1:]


def unet_inputs(unet: Any, num_frames: int, rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    batch = rows * num_frames
    given: dict[str, Any] = {
        "sample": torch.randn(batch, 4, 24, 16, generator=generator),
        "timestep": torch.tensor(501),
        "encoder_hidden_states": torch.randn(batch, 7, unet.config["cross_attention_dim"], generator=generator),
    }
    if unet.config["addition_embed_type"] == "text_time":
        width = unet.config["projection_class_embeddings_input_dim"] - 6 * unet.config["addition_time_embed_dim"]
        given["added_cond_kwargs"] = {
            "text_embeds": torch.randn(batch, width, generator=generator),
            "time_ids": torch.full((batch, 6), 64.0),
        }
    return given


def residuals_for(unet: Any, inputs: dict[str, Any]) -> Residuals:
    """Random residuals of the shapes of the skip connections."""
    shapes: list[torch.Size] = []
    batch = inputs["sample"]
    handles = [
        block.register_forward_hook(lambda block, args, out: shapes.extend(skip.shape for skip in out[1]))
        for block in unet.down_blocks
    ]
    first = unet.conv_in.register_forward_hook(lambda layer, args, out: shapes.append(out.shape))
    mid: list[torch.Size] = []
    handles += [first, unet.mid_block.register_forward_hook(lambda block, args, out: mid.append(out.shape))]
    unet(**inputs)
    for handle in handles:
        handle.remove()
    generator = torch.Generator().manual_seed(len(batch))
    down = tuple(0.3 * torch.randn(shape, generator=generator) for shape in shapes)
    return Residuals(down, 0.3 * torch.randn(mid[0], generator=generator))


attached_of = cache(load_attached)
"""UNets that are as they were after each test, which is what is asserted."""


@pytest.mark.parametrize("shell", [1, 2, 3])
@pytest.mark.parametrize("family", ["v1", "v3", "sdxl"])
@pytest.mark.parametrize("with_residuals", [False, True])
@torch.no_grad()
def test_a_shallow_call_of_the_same_inputs_is_the_full_one(family: str, shell: int, with_residuals: bool) -> None:
    attached = attached_of(family)
    unet: Any = attached.unet
    inputs = unet_inputs(unet, 4)
    features = DeepFeatures(unet, shell)
    rows = ["without", "with"]
    with attached.frames.during(4):
        given = residuals_for(unet, inputs) if with_residuals else None

        def call(residuals: Residuals | None) -> torch.Tensor:
            if residuals is None:
                return unet(**inputs, return_dict=False)[0]
            added = {"down_block_additional_residuals": residuals.down, "mid_block_additional_residual": residuals.mid}
            return unet(**inputs, **added, return_dict=False)[0]

        alone = call(given)
        features.keep_residuals(rows, given)
        with features.call(rows, 0, full=True):
            full = call(given)
        assert torch.equal(full, alone), "keeping changes nothing"
        deep_calls: list[int] = []
        handle = unet.mid_block.resnets[0].register_forward_hook(lambda *_: deep_calls.append(1))
        with features.call(rows, 0, full=False):
            shallow = call(features.residuals(rows))
        handle.remove()
        assert not deep_calls, "the deep layers rest"
        assert relative(shallow, full) < 1e-6
        if with_residuals:
            assert not torch.allclose(alone, call(None), atol=1e-3), "the residuals act"
        assert torch.equal(call(given), alone), "and are all there again"


@torch.no_grad()
def test_rows_are_kept_by_name() -> None:
    attached = attached_of("v3")
    unet: Any = attached.unet
    inputs = unet_inputs(unet, 4)
    features = DeepFeatures(unet)
    with attached.frames.during(4):
        with features.call(["without", "with"], 0, full=True):
            full = unet(**inputs, return_dict=False)[0]
        half = {name: value[4:] if value.ndim else value for name, value in inputs.items()}
        assert features.has(["with"]) and not features.has(["with", "other"])
        with features.call(["with"], 1, full=False):
            assert relative(unet(**half, return_dict=False)[0], full[4:]) < 1e-6


@torch.no_grad()
def test_an_error_leaves_the_unet_as_it_was() -> None:
    attached = attached_of("v3")
    unet: Any = attached.unet
    features = DeepFeatures(unet)
    inputs = unet_inputs(unet, 4)
    hooks = sum(len(layer._forward_pre_hooks) for layer in unet.modules())
    with attached.frames.during(4):
        with features.call(["a", "b"], 0, full=True):
            unet(**inputs)
        for full in (True, False):
            with pytest.raises(KeyboardInterrupt), features.call(["a", "b"], 0, full=full):
                raise KeyboardInterrupt
    assert not [name for name, layer in unet.named_modules() if "forward" in layer.__dict__]
    assert sum(len(layer._forward_pre_hooks) for layer in unet.modules()) == hooks


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", FAST)
@pytest.mark.parametrize("num_steps", [FEWEST_STEPS, 16, 25, 50, 1000])
def test_plans(level: str, num_steps: int) -> None:
    full = full_steps(level, num_steps)
    assert full is not None
    assert 0 in full and full <= set(range(num_steps))
    share = {"balanced": 0.45, "max": 0.33}[level]
    # a shallow step of SD 1.5 is 0.074 of a full one, and half of that without negative prompts
    cost = len(full) + 0.5 * 0.074 * (num_steps - len(full))
    assert cost / num_steps <= share * (1.0 if num_steps >= 25 else 1.2)


def test_few_steps_are_made_whole() -> None:
    assert all(full_steps(level, FEWEST_STEPS - 1) is None for level in LEVELS)
    assert full_steps("off", 25) is None


# -- in the pipeline ---------------------------------------------------------------------------------------------------

CALL = {**SMALL, "num_inference_steps": FEWEST_STEPS, "output_type": "latent", "guidance_scale": 4.0}


def unet_rows(pipe: AnimateDiffPipeline, **call: Any) -> tuple[torch.Tensor, int, int]:
    """The latents of a clip, and how many images went through the middle of the UNet and through its end."""
    seen = {"deep": 0, "all": 0}

    def count(name: str) -> Any:
        def hook(layer: Any, args: Any, output: torch.Tensor) -> None:
            seen[name] += len(output)

        return hook

    unet: Any = pipe.unet
    handles = [
        unet.mid_block.resnets[0].register_forward_hook(count("deep")),
        unet.conv_out.register_forward_hook(count("all")),
    ]
    try:
        frames = pipe("a cat", generator=seeded(1), **{**CALL, **call}).frames
    finally:
        for handle in handles:
            handle.remove()
    return frames, seen["deep"], seen["all"]


WINDOWS = {"num_frames": 8, "window": 4, "overlap": 2}


@pytest.mark.parametrize(
    ("level", "windows", "scheduler"),
    [
        ("balanced", {}, "ddim"),
        ("max", {}, "dpm++_2m_karras"),
        ("balanced", WINDOWS, "dpm++_2m_karras"),
        ("max", WINDOWS, "ddim"),
    ],
)
def test_steps_leave_out_what_the_plan_says(level: str, windows: dict[str, Any], scheduler: str) -> None:
    pipe = pipeline()
    pipe.set_scheduler(scheduler)
    try:
        exact, deep, all_rows = unet_rows(pipe, **windows)
        fast, fast_deep, fast_rows = unet_rows(pipe, fast=level, **windows)
    finally:
        pipe.set_scheduler("ddim")
    full = full_steps(level, FEWEST_STEPS)
    assert full is not None
    assert deep == all_rows
    # with guidance a step has two rows a frame, without one
    assert fast_deep * FEWEST_STEPS == deep * len(full)
    assert fast_rows * 2 * FEWEST_STEPS == all_rows * (FEWEST_STEPS + len(full))
    assert not torch.equal(fast, exact)
    assert (fast - exact).pow(2).mean() < 0.1 * exact.pow(2).mean(), "near the exact clip"


def test_it_is_reproducible_and_leaves_nothing_behind() -> None:
    pipe = pipeline()
    two = {"num_frames": 2}
    before, *_ = unet_rows(pipe, **two)
    first, *_ = unet_rows(pipe, fast="balanced", **two)
    second, *_ = unet_rows(pipe, fast="balanced", **two)
    assert torch.equal(first, second)
    assert torch.equal(unet_rows(pipe, **two)[0], before)


def test_few_steps_say_that_it_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline()
    few = {"num_inference_steps": FEWEST_STEPS - 1, "num_frames": 2, "guidance_scale": 1.0}
    exact, *_ = unet_rows(pipe, **few)
    with caplog.at_level("WARNING"):
        fast, *_ = unet_rows(pipe, fast="max", **few)
    assert torch.equal(fast, exact)
    assert "`fast` has no effect" in caplog.text


def test_a_unet_compiled_whole_is_refused() -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.unet = torch.compile(pipe.unet)
    with pytest.raises(UserError, match="`fast` leaves layers of the UNet out, and one that is compiled whole"):
        pipe.job("a fox", fast="max")
    with pytest.raises(UserError, match="unknown fast 'fastest'; known are off, balanced, max"):
        pipe.job("a fox", fast="fastest")
