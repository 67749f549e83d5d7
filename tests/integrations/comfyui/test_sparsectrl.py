"""SparseCtrl in the conditioning of the host against our own pipeline, for images and sketches."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from support import comfy_host
from support.close import relative
from support.golden import expected, load_pipeline, load_unet, motion_file
from support.paths import GOLDEN
from torch import Tensor

from animatediff.pipelines import AnimateDiffPipeline
from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.motion import load_motion
from integrations.comfyui.nodes.sparsectrl import AnimateDiffSparseCtrlApply
from integrations.comfyui.sampling_settings import with_family_sampling
from integrations.comfyui.sparsectrl import load_encoder
from integrations.comfyui.windows import handler_of, with_windows

models = comfy_host.models()
TOLERANCE = 5e-5
STEPS = 2


def file(kind: str) -> Path:
    return GOLDEN / "v3" / f"sparsectrl_{kind}.ckpt"


def given(kind: str) -> Tensor:
    """Images of the golden case, (n, c, h, w); of rgb they are latents."""
    return rearrange(expected("v3")[f"sparsectrl_{kind}.images"], "1 c n h w -> n c h w")


@cache
def pipeline(kind: str) -> AnimateDiffPipeline:
    pipe = load_pipeline("v3")
    pipe.load_sparsectrl(file(kind))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(num_frames: int) -> Tensor:
    return torch.randn(1, 4, num_frames, 16, 16, generator=torch.Generator().manual_seed(3))


def by_us(kind: str, latents: Tensor, frames: list[int], **settings: Any) -> tuple[Tensor, list[int]]:
    positive, negative = models.texts()
    pipe = pipeline(kind)
    out = pipe(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        num_frames=latents.shape[2],
        height=32,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        latents=latents,
        output_type="latent",
        conditioning_frames=rearrange(given(kind)[: len(frames)], "n c h w -> 1 c n h w"),
        controlnet_frame_indices=frames,
        **settings,
    )
    return out.frames, [int(step) for step in pipe.scheduler.timesteps]


@cache
def model() -> Any:
    motion = load_motion(motion_file("v3"), None)
    return with_family_sampling(apply_motion(models.golden_model("v3"), MotionRun(motion=motion)), motion.family)


def shown(kind: str, frames: list[int], conds: tuple[Any, Any] | None = None, **settings: Any) -> tuple[Any, Any]:
    """Positive and negative conditioning with the images in them."""
    positive, negative = conds or tuple(models.conditioning(text) for text in models.texts())
    images = given(kind)[: len(frames)]
    vae = models.StoredLatents(images) if kind == "rgb" else None
    size = 32 if kind == "rgb" else images.shape[-1]
    seen = torch.zeros(len(frames), size, size, 3) if kind == "rgb" else rearrange(images, "n c h w -> n h w c")
    out = AnimateDiffSparseCtrlApply.execute(
        positive, negative, load_encoder(file(kind)), seen, ",".join(map(str, frames)), vae=vae, **settings
    )
    return out.result


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_frames_are_those_of_our_pipeline(kind: str) -> None:
    latents = noise(4)
    wanted, timesteps = by_us(kind, latents, [0, 2, -1], controlnet_conditioning_scale=0.8)
    found = models.sampled(model(), latents, timesteps, *shown(kind, [0, 2, -1], strength=0.8))
    assert relative(found, wanted) <= TOLERANCE
    without = models.sampled(model(), latents, timesteps, *map(models.conditioning, models.texts()))
    assert relative(without, wanted) > 0.01


def test_images_are_seen_by_the_windows_that_have_their_frames() -> None:
    latents = noise(10)
    wanted, timesteps = by_us("scribble", latents, [0, -2], window=4, overlap=1)
    found = models.sampled(
        with_windows(model(), handler_of(length=4, overlap=1)), latents, timesteps, *shown("scribble", [0, -2])
    )
    assert relative(found, wanted) <= TOLERANCE


def test_it_acts_in_a_part_of_the_sampling() -> None:
    latents = noise(4)
    wanted, timesteps = by_us("scribble", latents, [0], control_end=0.5)
    found = models.sampled(model(), latents, timesteps, *shown("scribble", [0], end_percent=0.7))
    assert relative(found, wanted) <= TOLERANCE


def test_two_of_them_add_up() -> None:
    latents, timesteps = noise(4), [501, 1]
    once = models.sampled(model(), latents, timesteps, *shown("scribble", [1], strength=0.9))
    half = shown("scribble", [1], strength=0.4)
    twice = models.sampled(model(), latents, timesteps, *shown("scribble", [1], half, strength=0.5))
    assert relative(twice, once) <= TOLERANCE


def test_strength_zero_is_no_control() -> None:
    positive, negative = shown("scribble", [0], strength=0.0)
    assert "control" not in positive[0][1]
    assert "control" not in negative[0][1]


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="reads images: connect the VAE"):
        AnimateDiffSparseCtrlApply.execute([], [], load_encoder(file("rgb")), torch.zeros(1, 32, 32, 3), "0")
    with pytest.raises(ValueError, match="1 image and 2 frame indices"):
        AnimateDiffSparseCtrlApply.execute([], [], load_encoder(file("scribble")), torch.zeros(1, 32, 32, 3), "0,4")
    assert "'x' is no frame" in str(AnimateDiffSparseCtrlApply.validate_inputs("0,x"))
    with pytest.raises(ValueError, match=r"there is no frame 9 in a clip of 4"):
        models.sampled(model(), noise(4), [501, 1], *shown("scribble", [9]))
    sdxl = models.patcher_of(load_unet("sdxl"))
    with pytest.raises(ValueError, match=r"does not fit this MODEL: it acts on .* channels"):
        models.sampled(sdxl, noise(4), [501, 1], *shown("scribble", [0]))
