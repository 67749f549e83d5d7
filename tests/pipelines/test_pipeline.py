"""The pipeline on the golden models: batches, windows, samplers, precision, progress, and what it refuses."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_models
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import PUBLISHED, SMALL, pipeline, seeded
from support.unets import one_level_unet

from animatediff.errors import UserError
from animatediff.motion import uniform_windows
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling import SCHEDULERS, Cancelled, make_scheduler, scheduler_name, set_steps
from animatediff.weights.families import FAMILIES


@pytest.mark.parametrize(("family", "scheduler"), [("v1", "euler_a"), ("v2", "ddim"), ("v3", "euler_a")])
def test_a_clip_of_a_batch_is_the_clip_alone(family: str, scheduler: str) -> None:
    """Frames depend on prompt and seed, also where the sampler draws noise and where norms see many frames."""
    pipe = pipeline(family)
    texts, negatives, seeds = ["a cat runs", "a dog, at night", "rain"], ["blurry", "dark", ""], (3, 2**64 - 1, 5)
    pipe.set_scheduler(scheduler)
    try:
        together = pipe(texts, negative_prompt=negatives, generator=seeded(*seeds), **SMALL).frames
        assert together.shape == (3, 4, 3, 24, 24)
        for index in (1, 2):
            alone = pipe(texts[index], negative_prompt=negatives[index], generator=seeded(seeds[index]), **SMALL)
            assert relative(together[index], alone.frames[0]) < 5e-5
        assert relative(together[0], together[1]) > 0.1
    finally:
        pipe.set_scheduler("ddim")


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
def test_windows_without_overlap_are_clips_of_their_own(family: str) -> None:
    pipe = pipeline(family)
    latents = torch.randn(1, 4, 8, 12, 12, generator=torch.Generator().manual_seed(1))
    clip = SMALL | {"num_inference_steps": 2, "guidance_scale": 1.0}
    settings = clip | {"num_frames": 8}
    windows = pipe("a cat", latents=latents, window=4, overlap=0, **settings).frames
    for part in (slice(0, 4), slice(4, 8)):
        single = pipe("a cat", latents=latents[:, :, part], **clip).frames
        assert relative(windows[:, part], single) < 1e-5
    whole = pipe("a cat", latents=latents, **settings).frames
    assert torch.equal(pipe("a cat", latents=latents, window=8, **settings).frames, whole)
    assert relative(whole, windows) > 5e-3


def test_windows_switch_on_above_the_trained_length_and_cover_every_frame(pipe: AnimateDiffPipeline) -> None:
    seen: list[int] = []
    frames = pipe.attachment.frames

    def watch(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        seen.append(frames.num_frames)

    handle = pipe.unet.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        for num_frames in (1, 32, 33, 70):
            seen.clear()
            least = {"num_frames": num_frames, "num_inference_steps": 1, "height": 8, "width": 8}
            assert pipe("a cat", **SMALL | least).frames.shape[1] == num_frames
            assert set(seen) == {num_frames if num_frames <= 32 else 16}
            assert len(seen) == len(uniform_windows(num_frames, 16, 4)) or num_frames <= 32
    finally:
        handle.remove()


def test_sizes_are_any_multiples_of_8(pipe: AnimateDiffPipeline) -> None:
    for height, width in ((8, 8), (24, 40)):
        out = pipe("a cat", **SMALL | {"height": height, "width": width, "num_frames": 1, "num_inference_steps": 1})
        assert out.frames.shape == (1, 1, 3, height, width)


def test_output_types_and_chunks_agree(pipe: AnimateDiffPipeline) -> None:
    def render(kind: str, chunk: int) -> Any:
        settings = SMALL | {"output_type": kind}
        return pipe(["a", "b"], generator=seeded(1, 2), decode_chunk_size=chunk, **settings).frames

    tensor = render("pt", 1)
    assert tensor.shape == (2, 4, 3, 24, 24)
    assert relative(render("pt", 3), tensor) < 1e-5
    assert relative(render("np", 8), tensor.permute(0, 1, 3, 4, 2).numpy()) < 1e-5
    pictures = render("pil", 3)
    assert [len(clip) for clip in pictures] == [4, 4] and pictures[1][3].size == (24, 24)
    wanted = (tensor[1, 3].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(np.asarray(pictures[1][3], np.float32) - wanted).max() <= 1
    assert render("latent", 1).shape == (2, 4, 4, 12, 12)


def test_guidance_of_at_most_one_asks_the_unet_for_half(pipe: AnimateDiffPipeline) -> None:
    sizes: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        plain = pipe("a cat", guidance_scale=1.0, generator=seeded(1), **SMALL).frames
        also = pipe("a cat", guidance_scale=0.5, negative_prompt="x", generator=seeded(1), **SMALL).frames
        assert set(sizes) == {4}
        pipe("a cat", guidance_scale=2.0, generator=seeded(1), **SMALL)
        assert set(sizes) == {4, 8}
    finally:
        handle.remove()
    assert torch.equal(plain, also)


def test_clip_skip_passes_over_layers(pipe: AnimateDiffPipeline) -> None:
    base = pipe("a cat", generator=seeded(1), **SMALL).frames
    assert torch.equal(pipe("a cat", generator=seeded(1), clip_skip=0, **SMALL).frames, base)
    skipped = pipe("a cat", generator=seeded(1), clip_skip=1, **SMALL).frames
    assert relative(skipped, base) > 5e-3
    # the same as with a text encoder that ends one layer earlier, for the empty negative prompt as well
    encoder = pipe.text_encoder
    shorter = copy.deepcopy(encoder)
    layers = next(module for module in shorter.modules() if hasattr(module, "layers"))
    layers.layers = layers.layers[:-1]
    try:
        pipe.text_encoder = shorter
        assert relative(pipe("a cat", generator=seeded(1), **SMALL).frames, skipped) < 1e-5
    finally:
        pipe.text_encoder = encoder
    with pytest.raises(UserError, match=r"clip_skip must be 0 to 1 .* got 12"):
        pipe("a cat", clip_skip=12, **SMALL)


def test_progress_callback_and_cancel(pipe: AnimateDiffPipeline) -> None:
    said, called = [], []

    def halve(given: Any, step: int, timestep: torch.Tensor, values: dict[str, torch.Tensor]) -> Any:
        assert given is pipe
        called.append((step, int(timestep)))
        return {"latents": values["latents"] / 2} if step == 2 else {}

    settings = SMALL | {"decode_chunk_size": 3, "num_inference_steps": 3}
    plain = pipe("a cat", generator=seeded(1), **settings).frames
    changed = pipe("a cat", generator=seeded(1), callback_on_step_end=halve, on_progress=said.append, **settings).frames
    assert [step for step, _ in called] == [0, 1, 2]
    assert relative(plain, changed) > 1e-2
    assert [(p.phase, p.step, p.total) for p in said] == [
        ("denoise", 1, 3), ("denoise", 2, 3), ("denoise", 3, 3), ("decode", 3, 4), ("decode", 4, 4)
    ]  # fmt: skip
    answers = iter([False, True])
    with pytest.raises(Cancelled, match="denoise 2 of 3"):
        pipe("a cat", cancel=lambda: next(answers), **settings)


def test_without_a_generator_the_seed_of_the_program_holds(pipe: AnimateDiffPipeline) -> None:
    """As in diffusers: `torch.manual_seed` decides the clip, and random numbers drawn after it."""
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append((pipe("a cat", **SMALL).frames, torch.rand(1)))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert relative(drawn[2][0], drawn[0][0]) > 1e-2 and drawn[2][1] != drawn[0][1]


def test_half_precision(pipe: AnimateDiffPipeline) -> None:
    half = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype="bfloat16")
    half.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    assert {parameter.dtype for parameter in half.unet.parameters()} == {torch.bfloat16}
    close = half("a cat", generator=seeded(1), **SMALL).frames
    assert (close - pipe("a cat", generator=seeded(1), **SMALL).frames).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": []}, "no prompt"),
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"num_frames": -3}, "got -3"),
        ({"width": 100}, "width must be a positive multiple of 8 pixels, got 100; 96 is near"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"num_inference_steps": 5000}, "num_inference_steps=5000: expected 1 to 1000"),
        ({"output_type": "gif"}, "unknown output_type"),
        ({"negative_prompt": ["a", "b"]}, "1 prompts want 1 or 1 negative prompts, got 2"),
        ({"window": 33}, "window must be 1 to 32"),
        ({"window": 4, "overlap": 4}, "overlap"),
        ({"latents": torch.zeros(1, 4, 3, 12, 12)}, r"latents must be \(b, c, f, h, w\) = \(1, 4, 4, 12, 12\)"),
        ({"generator": seeded(1, 2)}, "1 clips want one generator or 1, got 2"),
        ({"clip_skip": -1}, "clip_skip"),
    ],
)
def test_what_is_refused(pipe: AnimateDiffPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe(**{"prompt": "a cat", **SMALL, **settings})


def test_without_motion_module_it_says_so() -> None:
    still = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    with pytest.raises(UserError, match="no motion module is loaded"):
        still("a cat", **SMALL)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_runs_on_the_familys_schedule(name: str) -> None:
    """On the betas the motion was trained with, from one step up."""
    if name.startswith("lms") and find_spec("scipy") is None:
        with pytest.raises(UserError, match="needs the package scipy: pip install scipy"):
            make_scheduler(name, PUBLISHED)
        return
    for family in ("v3", "animatelcm", "sdxl"):
        betas = FAMILIES[family].betas or {}
        for steps in (1, 2, 7) if family != "v3" else (25,):
            scheduler: Any = make_scheduler(name, PUBLISHED, betas)
            assert scheduler.config.beta_end == betas["beta_end"]
            assert scheduler.config.beta_schedule == betas["beta_schedule"]
            set_steps(scheduler, steps, "cpu")
            latents = torch.randn(2, 4, 3, 4, 4) * scheduler.init_noise_sigma
            draws = {"generator": seeded(0, 1)} if "generator" in scheduler.step.__code__.co_varnames else {}
            for timestep in scheduler.timesteps:
                scaled = scheduler.scale_model_input(latents, timestep)
                latents = scheduler.step(0.1 * scaled, timestep, latents, **draws, return_dict=False)[0]
            assert latents.isfinite().all(), (family, steps)


@pytest.mark.parametrize(("name", "steps"), [("ddim", 1000), ("pndm", 1000), ("ddim", 1001), ("lcm", 51)])
def test_more_steps_than_a_scheduler_can_make(name: str, steps: int) -> None:
    with pytest.raises(UserError, match=rf"num_inference_steps={steps}: not with \w+Scheduler \(.*\)"):
        set_steps(make_scheduler(name, PUBLISHED), steps, "cpu")


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("Euler A", "euler_a"),
        ("k_dpmpp_2m", "dpmpp_2m_karras"),
        ("DPM++ 2M Karras", "dpmpp_2m_karras"),
        ("EulerDiscreteScheduler", "euler"),
        ("pndmscheduler", "pndm"),
        ("SASolverScheduler", "SASolverScheduler"),
    ],
)
def test_names_of_schedulers(given: str, known: str) -> None:
    assert scheduler_name(given) == known
    assert make_scheduler(given, PUBLISHED).config.num_train_timesteps == 1000


@pytest.mark.parametrize(
    "name", ["eulr", "FlowMatchEulerDiscreteScheduler", "DPMSolverSDEScheduler", "UNet2DModel", ""]
)
def test_what_is_no_scheduler(name: str) -> None:
    with pytest.raises(UserError, match="unknown scheduler"):
        scheduler_name(name)


def test_offloading(pipe: AnimateDiffPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """`enable_model_cpu_offload` as on a GPU, with the CPU in its place: the same frames, and the hooks come back."""
    from accelerate import cpu_offload_with_hook

    offloaded = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    offloaded.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    freed: list[bool] = []
    hooks = []
    for name in offloaded.base.model_cpu_offload_seq.split("->"):
        if isinstance(part := getattr(offloaded.base, name, None), torch.nn.Module):
            _, hook = cpu_offload_with_hook(part, torch.device("cpu"), prev_module_hook=hooks[-1] if hooks else None)
            hooks.append(hook)
    assert len(hooks) == 3
    monkeypatch.setattr(offloaded.base, "maybe_free_model_hooks", lambda: freed.append(True))
    expected = pipe("a cat", generator=seeded(1), **SMALL).frames
    assert torch.equal(offloaded("a cat", generator=seeded(1), **SMALL).frames, expected)
    assert freed == [True]
    offloaded.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")  # while offloaded
    assert torch.equal(offloaded("a cat", generator=seeded(1), **SMALL).frames, expected)


def test_loading_behind_the_back_of_sequential_offload_is_refused() -> None:
    from accelerate import cpu_offload

    hidden = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    cpu_offload(hidden.unet, torch.device("cpu"))
    for load in (hidden.load_motion_module, hidden.load_lora_weights):
        with pytest.raises(UserError, match="before enable_sequential_cpu_offload"):
            load(GOLDEN / "v3" / ("motion_module.ckpt" if load == hidden.load_motion_module else "motion_lora.ckpt"))


@pytest.mark.exact  # the disturbance is not to be traced
@pytest.mark.slow
@pytest.mark.timeout(1800)  # tracing waits for a busy machine
def test_loras_on_a_compiled_unet(tmp_path: Path) -> None:
    """`pipe.unet = torch.compile(pipe.unet)` puts a name before every layer's; motion and LoRAs find them all the same.

    On a UNet of one level: every state of it is traced anew, which takes seconds for each of its blocks.
    """
    own = AnimateDiffPipeline.from_pretrained(GOLDEN / "v2" / "sd", torch_dtype=torch.float32)
    own.unet = one_level_unet(cross_attention_dim=32).requires_grad_(False)
    motion, lora = tmp_path / "motion_module.safetensors", tmp_path / "motion_lora.safetensors"
    tiny_models.save_motion_lora(lora, tiny_models.save_motion(motion, own.unet, "v2"))
    own.load_motion_module(motion)
    settings = SMALL | {"num_frames": 2, "num_inference_steps": 1}
    plain = own("a cat", generator=seeded(1), **settings).frames
    own.load_lora_weights(lora)
    own.set_adapters("motion_lora", 0.5)
    wanted = own("a cat", generator=seeded(1), **settings).frames
    assert relative(wanted, plain) > 1e-3
    own.unload_lora_weights()
    own.unet = torch.compile(own.unet, backend="eager")
    assert relative(own("a cat", generator=seeded(1), **settings).frames, plain) < 1e-5
    own.load_lora_weights(lora)
    own.set_adapters("motion_lora", 0.5)
    assert relative(own("a cat", generator=seeded(1), **settings).frames, wanted) < 1e-5
    own.unload_lora_weights()
    with torch.compiler.set_stance("force_eager"):
        assert relative(own("a cat", generator=seeded(1), **settings).frames, plain) < 1e-5
    own.load_motion_module(motion)
    with torch.compiler.set_stance("force_eager"):  # the same layers as before: for the numbers no new trace is needed
        assert relative(own("a cat", generator=seeded(1), **settings).frames, plain) < 1e-5
