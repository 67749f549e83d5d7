"""Parity with AnimateLCM's own program, text and image to video: each golden tensor within 1e-5 in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from einops import rearrange
from PIL import Image
from support import golden
from support.golden import assert_close, case, expected, load_attached, load_pipeline, motion_file, run_unet
from support.paths import GOLDEN

from animatediff.media.color_match import matched, mean_hsv
from animatediff.media.images import covered
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import drawn_latents
from animatediff.sampling import make_scheduler
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.load import load_lora, set_lora_scales
from animatediff.weights.motion import load_motion_module

pytestmark = pytest.mark.exact  # the disturbance is larger than the tolerance

T2V, I2V = "animatelcm", "animatelcm_i2v"
LORA = GOLDEN / T2V / "AnimateLCM_sd15_t2v_lora.safetensors"


def image() -> Image.Image:
    return Image.open(GOLDEN / I2V / "image.png")


def render(pipe: AnimateDiffPipeline, family: str, guidance_scale: float, **settings: Any) -> torch.Tensor:
    """The clip of a case, (b, c, f, h, w), with the noise that the original drew between its steps."""
    generator = torch.Generator().manual_seed(case(family)["noise_generator_seed"])
    return golden.render(pipe, family, guidance_scale=guidance_scale, generator=generator, **settings)


@pytest.mark.parametrize("family", [T2V, I2V])
def test_motion_module_alone(family: str) -> None:
    tensors = expected(family)
    adapter, found = load_motion_module(motion_file(family), dtype=torch.float32)
    assert found.name == family, "recognised from its tensors alone"
    x = tensors["motion_module.in"]
    with torch.no_grad():
        y = adapter.get_submodule("down_blocks.1.motion_modules.0")(
            rearrange(x, "b c f h w -> (b f) c h w"), x.shape[2]
        )
    assert_close(rearrange(y, "(b f) c h w -> b c f h w", f=x.shape[2]), tensors["motion_module.out"])


@pytest.mark.parametrize("family", [T2V, I2V])
def test_scheduler(family: str) -> None:
    """Timesteps of any number of steps, and each step with the noise of the case."""
    tensors, facts = expected(family), case(family)
    scheduler: Any = make_scheduler("lcm", {"num_train_timesteps": 1000, "steps_offset": 1}, FAMILIES[family].betas)
    assert_close(scheduler.alphas_cumprod, tensors["scheduler.alphas_cumprod"])
    for steps, timesteps in facts["timesteps_by_steps"].items():
        scheduler.set_timesteps(int(steps))
        assert scheduler.timesteps.tolist() == timesteps
    scheduler.set_timesteps(facts["steps"])
    sample, noise = tensors["scheduler.sample"], iter(tensors["scheduler.noise"])
    for step, timestep in enumerate(scheduler.timesteps):
        last = step == facts["steps"] - 1
        generator = _Recorded(None if last else next(noise))
        with generator:
            out = scheduler.step(tensors["scheduler.model_outputs"][step], timestep, sample)
        wanted = tensors["scheduler.prev_samples"][step]
        assert (out.prev_sample - wanted).abs().max() <= 3e-6 * wanted.abs().max()
        sample = out.prev_sample


class _Recorded:
    """Lets diffusers' LCM scheduler draw this noise; none means that it must not draw."""

    def __init__(self, noise: torch.Tensor | None) -> None:
        self.noise, self.patch = noise, pytest.MonkeyPatch()

    def __enter__(self) -> None:
        def draw(*args: Any, **kwargs: Any) -> torch.Tensor:
            assert self.noise is not None, "the last step draws nothing"
            return self.noise

        self.patch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", draw)

    def __exit__(self, *error: object) -> None:
        self.patch.undo()


def test_text_to_video_unet_and_its_lora() -> None:
    motion, tensors = load_attached(T2V), expected(T2V)
    assert_close(run_unet(motion, tensors), tensors["unet.out"])
    load_lora(LORA, unet=motion.unet)
    set_lora_scales([motion.unet], {LORA.stem: 1.0})
    assert_close(run_unet(motion, tensors), tensors["unet.out.lcm_lora_1.0"])


def test_text_to_video() -> None:
    pipe, tensors = load_pipeline(T2V), expected(T2V)
    assert_close(render(pipe, T2V, 1.0), tensors["pipeline.video.cfg_1.0"])
    assert_close(render(pipe, T2V, 1.5), tensors["pipeline.video.cfg_1.5"])
    pipe.load_lora_weights(LORA, adapter_name="lcm")
    pipe.set_adapters(["lcm"], [0.8])
    assert_close(render(pipe, T2V, 1.5), tensors["pipeline.video.cfg_1.5.lcm_lora_0.8"])


def test_image_encoder_and_unet() -> None:
    motion, tensors = load_attached(I2V), expected(I2V)
    encoder = motion.adapter.img_encoder
    assert encoder is not None
    assert_close(run_unet(motion, tensors), tensors["unet.out.without_image"])
    for scale in (0.8, 0.3):
        with torch.no_grad():
            features = encoder(tensors["unet.image_latents"], range(case(I2V)["frames"]), scale)
        for level, found in enumerate(features):
            if (name := f"img_encoder.features.{level}.motion_scale_{scale}") in tensors:
                assert_close(found, tensors[name])
        motion.frames.features = [rearrange(level, "b c f h w -> (b f) c h w") for level in features]
        assert_close(run_unet(motion, tensors), tensors[f"unet.out.motion_scale_{scale}"])
    motion.frames.features = ()


def test_latents_of_the_image() -> None:
    """Brought to size and drawn as by the original, whose noise a stream of the seed behind the clip's draws."""
    tensors, facts = expected(I2V), case(I2V)
    wanted = tensors["pipeline.image"]
    shown = covered(image().convert("RGB"), facts["width"], facts["height"])
    pixels = torch.frombuffer(bytearray(shown.tobytes()), dtype=torch.uint8).view(facts["height"], facts["width"], 3)
    assert_close(pixels.permute(2, 0, 1)[None].float() / 255, wanted)
    pipe = load_pipeline(I2V)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(facts["posterior_global_seed"])
        found = drawn_latents(pipe.vae, wanted, torch.device("cpu"), [generator])
    assert_close(found, tensors["pipeline.image_latents"])
    assert facts["posterior_global_seed"] == facts["noise_generator_seed"] + 1, "as test_image_to_video relies on"


def test_image_to_video() -> None:
    pipe, tensors = load_pipeline(I2V), expected(I2V)
    assert_close(render(pipe, I2V, 1.0, images=image()), tensors["pipeline.video.cfg_1.0"])
    latents = tensors["pipeline.image_latents"]
    assert_close(render(pipe, I2V, 1.5, images=latents), tensors["pipeline.video.cfg_1.5"])
    still = render(pipe, I2V, 1.0, images=latents, image_motion_scale=0.3)
    assert_close(still, tensors["pipeline.video.cfg_1.0.motion_scale_0.3"])


def test_colours_are_matched_as_opencv_does() -> None:
    tensors = expected(I2V)
    frames = rearrange(tensors["pipeline.video.cfg_1.0"], "1 c f h w -> f c h w")
    wanted = rearrange(tensors["pipeline.video.cfg_1.0.color_matched"], "1 c f h w -> f c h w")
    assert_close(matched(frames, mean_hsv(image())), wanted)
    found = render(load_pipeline(I2V), I2V, 1.0, images={0: image()}, color_match=True)
    moved = (found - tensors["pipeline.video.cfg_1.0.color_matched"]).abs() > 1e-5
    assert moved.float().mean() < 0.001, "8 bits are cut off, so that a difference of 1e-6 may be one of 1/255"
