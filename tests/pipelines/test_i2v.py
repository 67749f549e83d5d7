"""AnimateLCM-I2V in the pipeline: an image through windows, batches, LoRAs, ControlNets, files and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.controlnet_files import save_controlnet
from support.golden import load_pipeline, load_unet, motion_file
from support.paths import GOLDEN

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling.controlnet import ControlNetInput
from animatediff.sampling.image_features import ImageFeatures
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.motion import load_motion_module

FAMILY = "animatelcm_i2v"
SMALL: dict[str, Any] = {"num_inference_steps": 1, "height": 24, "width": 32, "output_type": "pt"}


def image() -> Image.Image:
    return Image.open(GOLDEN / FAMILY / "image.png").convert("RGB")


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe() -> AnimateDiffPipeline:
    return load_pipeline(FAMILY)


def render(pipe: AnimateDiffPipeline, prompt: Any = "a red fox", **settings: Any) -> torch.Tensor:
    """(b, f, c, h, w)."""
    given = {"num_frames": 3, "images": image(), "generator": seeded(), **SMALL, **settings}
    return pipe(prompt, **given).frames


def test_defaults_are_those_of_its_program(pipe: AnimateDiffPipeline) -> None:
    defaults = pipe.defaults
    assert (defaults.num_frames, defaults.num_inference_steps, defaults.guidance_scale) == (16, 4, 1.0)
    assert (defaults.height, defaults.width) == (512, 768)
    assert type(pipe.scheduler).__name__ == "LCMScheduler"
    assert (pipe.scheduler.config["beta_end"], pipe.scheduler.config["original_inference_steps"]) == (0.014, 200)
    job = pipe.job("a red fox", images=image(), num_frames=3)
    assert (job.clip.width, job.clip.height) == (816, 480), "the shape of the image, the area of the module's size"


def test_the_image_acts_and_its_scale_moves_the_clip(pipe: AnimateDiffPipeline) -> None:
    moving, without = render(pipe), render(pipe, images=None)
    assert (moving - without).abs().mean() > 0.01
    encoder = pipe.motion_image_encoder
    assert encoder is not None
    latents = torch.randn(1, 4, 12, 16, generator=seeded())
    (first, *_), (still, *_) = (
        ImageFeatures(encoder=encoder, latents=latents, motion_scale=scale).of(range(4)) for scale in (0.8, 0.0)
    )
    assert torch.equal(still[:, :, 0], still[:, :, 3]), "at 0 nothing tells frames apart"
    assert (first[:, :, 0] - first[:, :, 3]).abs().max() > 0.1 * first.abs().max()


@pytest.mark.parametrize(("size", "num_frames"), [((40, 24), 1), ((24, 56), 3)])
def test_any_size_and_length(pipe: AnimateDiffPipeline, size: tuple[int, int], num_frames: int) -> None:
    height, width = size
    frames = render(pipe, height=height, width=width, num_frames=num_frames)
    assert frames.shape == (1, num_frames, 3, height, width)
    assert frames.isfinite().all()


def test_windows_see_the_frames_that_are_theirs(pipe: AnimateDiffPipeline) -> None:
    """Features of a window are those of these frames in the whole clip."""
    encoder = pipe.motion_image_encoder
    assert encoder is not None
    latents = torch.randn(1, 4, 3, 5, generator=seeded())
    whole = ImageFeatures(encoder=encoder, latents=latents, motion_scale=0.8).of(range(8))
    part = ImageFeatures(encoder=encoder, latents=latents, motion_scale=0.8).of([4, 5, 7])
    for all_frames, some in zip(whole, part, strict=True):
        torch.testing.assert_close(some, all_frames[:, :, [4, 5, 7]], rtol=0, atol=1e-5 * float(all_frames.abs().max()))
    settings = {"num_frames": 5, "window": 3}
    frames, without = render(pipe, **settings), render(pipe, **settings, images=None)
    apart = (frames - without).abs().mean()
    assert apart > 0.01
    assert (render(pipe, **settings, long_mode="motion") - frames).abs().mean() < 0.5 * apart, "the image acts alike"


def test_clips_of_a_batch_are_those_that_they_are_alone(pipe: AnimateDiffPipeline) -> None:
    prompts, settings = ["a red fox", "a cat at sea"], {"guidance_scale": 1.5, "negative_prompt": "blurry"}
    both = render(pipe, prompts, generator=[seeded(1), seeded(2)], **settings)
    for clip, (prompt, seed) in enumerate(zip(prompts, (1, 2), strict=True)):
        alone = render(pipe, prompt, generator=seeded(seed), **settings)[0]
        assert (both[clip] - alone).abs().max() < 1e-4
    assert torch.equal(both, render(pipe, prompts, generator=[seeded(1), seeded(2)], **settings)), "seeds tell all"


def test_with_a_lora_and_a_controlnet(pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    plain = render(pipe)
    pipe.load_lora_weights(GOLDEN / "animatelcm" / "AnimateLCM_sd15_t2v_lora.safetensors", adapter_name="lcm")
    pipe.set_adapters(["lcm"], [0.8])
    assert (render(pipe) - plain).abs().mean() > 1e-3
    pipe.unload_lora_weights()
    assert torch.equal(render(pipe), plain)
    pipe.load_controlnet(save_controlnet(tmp_path / "net", load_unet(FAMILY), 3, (8, 8)))
    followed = render(pipe, controlnet_inputs=ControlNetInput(frames=torch.rand(3, 3, 24, 32, generator=seeded())))
    assert (followed - plain).abs().mean() > 1e-3
    assert torch.equal(render(pipe), plain), "without frames to follow it rests"
    pipe.unload_controlnets()


def test_taken_out_it_leaves_nothing() -> None:
    pipe = load_pipeline("animatelcm_i2v")
    pipe.unload_motion_module()
    keys, hooks = set(pipe.unet.state_dict()), [len(layer._forward_hooks) for layer in pipe.unet.modules()]
    pipe.load_motion_module(motion_file(FAMILY))
    render(pipe)
    pipe.unload_motion_module()
    assert pipe.motion_image_encoder is None
    assert set(pipe.unet.state_dict()) == keys
    assert [len(layer._forward_hooks) for layer in pipe.unet.modules()] == hooks


def test_saved_and_converted_it_comes_back_whole(pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    frames = render(pipe)
    pipe.save_pretrained(tmp_path / "pipe")
    again = AnimateDiffPipeline.from_pretrained(tmp_path / "pipe", torch_dtype=torch.float32)
    assert again.family is not None and again.family.name == FAMILY
    assert torch.equal(render(again), frames)
    assert torch.equal(render(AnimateDiffPipeline.from_pipe(pipe)), frames)
    convert(motion_file(FAMILY), tmp_path / "folder", to="diffusers")
    convert(tmp_path / "folder", tmp_path / "back.safetensors")
    before, found = load_motion_module(motion_file(FAMILY))
    after, back = load_motion_module(tmp_path / "back.safetensors")
    assert found.name == back.name == FAMILY and found.betas == back.betas
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items())
    facts = describe(tmp_path / "back.safetensors")
    assert facts["tensors"] == 584, "no position tables, as published"


def test_memory_is_planned_with_the_encoder(pipe: AnimateDiffPipeline) -> None:
    plan = pipe.plan("a red fox", images=image(), num_frames=3, **SMALL)
    assert plan.weights["motion_image_encoder"] == sum(
        value.numel() * value.element_size()
        for value in pipe.motion_image_encoder.parameters()  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"images": {1: image()}}, "at frame 0; got one for frame 1"),
        ({"images": {0: image(), 2: image()}, "image_mode": "i2v"}, "image_mode=i2v shows one image, got 2"),
        ({"images": torch.zeros(1, 4, 12, 12)}, r"latents must be \(1 or 1, 4, 12, 16\)"),
        ({"images": torch.zeros(1, 4, 12, 16), "color_match": True}, "`color_match` needs the image itself"),
        ({"images": torch.zeros(1, 4, 12, 16), "upscale": 2.0}, "give the image itself"),
        ({"images": torch.zeros(1, 4, 12, 16), "image_mode": "latents"}, "latents are for the route i2v"),
        ({"image_motion_scale": 1.6}, "image_motion_scale"),
    ],
)
def test_mistakes_are_said(pipe: AnimateDiffPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        render(pipe, **settings)


def test_it_wants_its_module() -> None:
    other = AnimateDiffPipeline.from_bundled()
    with pytest.raises(UserError, match="image_mode=i2v takes AnimateLCM-I2V"):
        other("a fox", images=image(), image_mode="i2v", num_frames=4)
    with pytest.raises(UserError, match="no image encoder"):
        load_motion_module(motion_file("animatelcm"), family=FAMILY)
