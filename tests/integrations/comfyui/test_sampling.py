"""Whole samplings by the host against our own pipeline: same latents, prompt embeddings and sampler."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support import comfy_host, tiny_models
from support.close import relative
from support.golden import motion_file
from support.paths import GOLDEN
from support.pipelines import pipeline
from torch import Tensor

from animatediff.pipelines import AnimateDiffPipeline
from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.domain_adapter import with_adapter
from integrations.comfyui.motion import Motion, load_motion, with_lora
from integrations.comfyui.sampling_settings import with_family_sampling
from integrations.comfyui.windows import handler_of, with_windows

models = comfy_host.models()
TOLERANCE = 5e-5
"""Of what the host's and our own sums round differently; see `support.close`."""
STEPS = 2


def noise(num_frames: int = 4, seed: int = 3, size: int = 16) -> Tensor:
    """At sizes below 16 the norms of the lowest level see so few numbers that rounding grows."""
    return torch.randn(1, 4, num_frames, size, size, generator=torch.Generator().manual_seed(seed))


@cache
def loaded(family: str) -> Motion:
    return load_motion(motion_file(family), None)


def moved(family: str, *, plain: Any = None, loras: tuple[tuple[str, float], ...] = (), **run: Any) -> Any:
    """A MODEL of the golden models with a motion module and its noise schedule."""
    motion = loaded(family)
    for name, strength in loras:
        motion = with_lora(motion, GOLDEN / family / name, strength)
    model = models.golden_model(family) if plain is None else plain
    return with_family_sampling(apply_motion(model, MotionRun(motion=motion, **run)), motion.family)


def by_host(model: Any, latents: Tensor, timesteps: list[int], *, sampler: str = "euler", **settings: Any) -> Tensor:
    positive, negative = (models.conditioning(text) for text in models.texts())
    return models.sampled(model, latents, timesteps, positive, negative, sampler=sampler, **settings)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert relative(found, wanted) <= TOLERANCE


@pytest.mark.parametrize(("family", "sampler"), [("v1", "euler"), ("v2", "euler"), ("v3", "euler"), ("v3", "ddim")])
def test_frames_are_those_of_our_pipeline(family: str, sampler: str) -> None:
    latents = noise()
    wanted, timesteps = models.by_pipeline(pipeline(family), latents)
    assert_close(by_host(moved(family), latents, timesteps, sampler=sampler), wanted)


def test_frames_of_sdxl_are_those_of_our_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = tiny_models.save_base(tmp_path / "base.safetensors", "sdxl")
    tiny_models.save_motion(tmp_path / "motion.safetensors", unet, "sdxl")
    pipe = AnimateDiffPipeline.from_single_file(tmp_path / "base.safetensors", torch_dtype="float32")
    pipe.load_motion_module(tmp_path / "motion.safetensors")
    pipe.set_progress_bar_config(disable=True)
    latents, text, pooled = noise(), torch.randn(2, 9, 96), torch.randn(2, 32)
    wanted = pipe(
        prompt_embeds=text[:1],
        pooled_prompt_embeds=pooled[:1],
        negative_prompt_embeds=text[1:],
        negative_pooled_prompt_embeds=pooled[1:],
        num_frames=4,
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=latents,
        output_type="latent",
    ).frames
    motion = load_motion(tmp_path / "motion.safetensors", None)
    model = apply_motion(models.patcher_of(unet), MotionRun(motion=motion))
    model = with_family_sampling(model, motion.family)
    y = models.sizes_and_text(pooled, torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]).repeat(2, 1))
    positive, negative = (models.conditioning(text[i : i + 1], pooled_output=y[i : i + 1]) for i in (0, 1))
    found = models.sampled(model, latents, [int(step) for step in pipe.scheduler.timesteps], positive, negative)
    assert_close(found, wanted)


def test_frames_differ_from_those_without_the_motion_module() -> None:
    latents, timesteps = noise(size=8), [900, 500]
    plain = models.golden_model("v3")
    without = by_host(plain, latents, timesteps)
    model = moved("v3", plain=plain)
    found = by_host(model, latents, timesteps)
    assert (found - without).abs().max() > 0.05
    assert torch.equal(by_host(plain, latents, timesteps), without)
    assert torch.equal(by_host(model, latents, timesteps), found)


def test_motion_loras() -> None:
    family, latents = "v2", noise()
    pipe = pipeline(family)
    name = pipe.load_lora_weights(GOLDEN / family / "motion_lora.ckpt", scale=0.7)
    try:
        wanted, timesteps = models.by_pipeline(pipe, latents)
    finally:
        pipe.unload_lora_weights(name)
    assert_close(by_host(moved(family, loras=(("motion_lora.ckpt", 0.7),)), latents, timesteps), wanted)


def test_domain_adapter() -> None:
    latents = noise()
    pipe = pipeline("v3")
    name = pipe.load_lora_weights(GOLDEN / "v3" / "domain_adapter.ckpt", scale=0.6)
    try:
        wanted, timesteps = models.by_pipeline(pipe, latents)
    finally:
        pipe.unload_lora_weights(name)
    plain = with_adapter(models.golden_model("v3"), GOLDEN / "v3" / "domain_adapter.ckpt", 0.6)
    assert_close(by_host(moved("v3", plain=plain), latents, timesteps), wanted)


@pytest.mark.parametrize("scale", [1.4, {0: 1.5, -1: 0.2}], ids=str)
def test_motion_scale(scale: Any) -> None:
    latents = noise()
    wanted, timesteps = models.by_pipeline(pipeline("v3"), latents, motion_scale=scale)
    run = {"scale": scale} if isinstance(scale, float) else {"curve": scale}
    assert_close(by_host(moved("v3", **run), latents, timesteps), wanted)


def test_windows_over_more_frames_than_the_module_knows() -> None:
    latents, scale = noise(33), {0: 1.2, 20: 0.4, -1: 1.0}
    wanted, timesteps = models.by_pipeline(
        pipeline("v1"), latents, window=15, overlap=6, blend="flat", motion_scale=scale
    )
    handler = handler_of(length=15, overlap=6, fuse_method="flat")
    assert_close(by_host(with_windows(moved("v1", curve=scale), handler), latents, timesteps), wanted)


def test_uniform_windows_with_a_stride_stay_in_the_clip_and_cover_it() -> None:
    handler = handler_of(length=16, overlap=4, schedule="standard_uniform", stride=2)
    for step in range(8):
        handler._step = step
        for num_frames in (17, 24, 40):
            windows = handler.context_schedule.func(num_frames, handler, {})
            assert set().union(*windows) == set(range(num_frames))
            assert {len(window) for window in windows} == {16}


def test_a_long_clip_gets_windows_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    latents = noise(33)
    wanted, timesteps = models.by_pipeline(pipeline("v3"), latents, window=16, overlap=4)
    with caplog.at_level("WARNING"):
        assert_close(by_host(moved("v3"), latents, timesteps), wanted)
    assert "33 frames are more than the 32 that motion_module.ckpt knows: windows of 16 frames" in caplog.text


def test_cond_and_uncond_apart_and_in_one_batch_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.model_patcher

    latents, timesteps = noise(), [900, 500]
    together = by_host(moved("v1"), latents, timesteps)
    # no memory for both in one batch
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "get_free_memory", lambda *_: 0)
    sizes: list[int] = []
    model = moved("v1")
    model.model.diffusion_model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert_close(by_host(model, latents, timesteps), together)
    assert set(sizes) == {4}


def test_several_conditionings_of_a_clip() -> None:
    """Two prompts on one clip, both halves: three clips in one batch."""
    latents, timesteps = noise(), [900, 500]
    (positive, negative), model = models.texts(), moved("v1")
    once = models.sampled(model, latents, timesteps, models.conditioning(positive), models.conditioning(negative))
    twice = models.conditioning(positive) + models.conditioning(positive)
    assert_close(models.sampled(model, latents, timesteps, twice, models.conditioning(negative)), once)


def test_two_models_with_different_motion_modules_side_by_side() -> None:
    latents, timesteps = noise(size=8), [900, 500]
    plain = models.golden_model("v3")
    first, second = moved("v3", plain=plain), moved("v3", plain=plain, loras=(("motion_lora.ckpt", 1.0),))
    alone = [by_host(model, latents, timesteps) for model in (first, second)]
    assert not torch.allclose(*alone)
    for _ in range(2):
        for model, wanted in zip((second, first), alone[::-1], strict=True):
            assert torch.equal(by_host(model, latents, timesteps), wanted)


def test_clones_of_a_loaded_model_may_go_without_taking_the_motion_modules_with_them() -> None:
    import gc

    latents, timesteps = noise(size=8), [900, 500]
    model = moved("v3")
    wanted = by_host(model, latents, timesteps)

    def drop_a_clone(_step: int, *_: Any) -> None:
        model.clone()
        gc.collect()

    assert torch.equal(by_host(model, latents, timesteps, callback=drop_a_clone), wanted)


def test_an_error_in_the_middle_leaves_the_host_clean() -> None:
    latents, timesteps = noise(size=8), [900, 500]
    plain = models.golden_model("v1")
    without = by_host(plain, latents, timesteps)
    model = moved("v1", plain=plain)
    wanted = by_host(model, latents, timesteps)

    def fail(step: int, *_: Any) -> None:
        if step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        by_host(model, latents, timesteps, callback=fail)
    assert torch.equal(by_host(plain, latents, timesteps), without)
    assert models.hooked(plain) == 0
    assert torch.equal(by_host(model, latents, timesteps), wanted)


def test_motion_acts_in_a_part_of_the_sampling() -> None:
    latents, timesteps = noise(size=8), [900, 500]
    plain = models.golden_model("v3")
    whole = by_host(moved("v3", plain=plain), latents, timesteps)
    never = by_host(moved("v3", plain=plain, start_percent=0.95), latents, timesteps)
    still = by_host(moved("v3", plain=plain, scale=0.0), latents, timesteps)
    early = by_host(moved("v3", plain=plain, end_percent=0.3), latents, timesteps)
    assert_close(never, still)
    assert min((early - other).abs().max() for other in (whole, never)) > 0.01


def test_a_batch_of_one_is_an_image() -> None:
    latents, timesteps = noise(1, size=8), [900, 500]
    plain = models.golden_model("v1")
    model = with_family_sampling(plain, loaded("v1").family)
    wanted = by_host(model, latents, timesteps)
    assert torch.equal(by_host(moved("v1", plain=plain), latents, timesteps), wanted)


@pytest.mark.parametrize(
    ("dtype", "compute"),
    [(torch.bfloat16, None), (torch.float8_e4m3fn, torch.bfloat16), (torch.float16, torch.float32)],
    ids=["bf16", "fp8 computed in bf16", "fp16 computed in fp32"],
)
def test_other_types_of_the_host(dtype: torch.dtype, compute: torch.dtype | None) -> None:
    latents, timesteps = noise(), [900, 500]
    wanted = by_host(moved("v3"), latents, timesteps)
    plain = models.golden_model("v3", dtype=dtype, compute=compute)
    found = by_host(moved("v3", plain=plain), latents, timesteps)
    without = by_host(plain, latents, timesteps)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    # what rounding changes in the host's own model on this machine; with motion modules there are twice the layers
    rounding = (without - by_host(models.golden_model("v3"), latents, timesteps)).norm()
    assert (found - wanted).norm() <= 4 * rounding
    assert (found - without).norm() > 0.1 * without.norm()
