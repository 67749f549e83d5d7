"""PIA and AnimateLCM-I2V in the host: golden cases of the originals, and whole samplings against our own pipeline."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from support import comfy_host, pia
from support.close import relative
from support.golden import expected, load_pipeline, load_unet, motion_file
from torch import Tensor

from animatediff.pipelines import AnimateDiffPipeline
from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.images import I2VImage, PIAImage
from integrations.comfyui.motion import Motion, load_motion, with_condition
from integrations.comfyui.nodes.images import AnimateDiffI2V, AnimateDiffPIA
from integrations.comfyui.sampling_settings import with_family_sampling
from integrations.comfyui.windows import handler_of, with_windows

models = comfy_host.models()
PIA, I2V = "pia", "animatelcm_i2v"
GOLDEN_TOLERANCE = 1e-4
TOLERANCE = 5e-5
"""Of what the host's and our own sums round differently; see `support.close`."""
STEPS = 2


@cache
def loaded(family: str) -> Motion:
    return load_motion(motion_file(family), None)


def applied(motion: Motion, plain: Any = None, **run: Any) -> Any:
    model = models.golden_model(motion.family.name) if plain is None else plain
    return apply_motion(model, MotionRun(motion=motion, **run))


def assert_golden(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= GOLDEN_TOLERANCE


def one_clip(tensors: dict[str, Tensor], clip: int) -> dict[str, Tensor]:
    return {key: value if value.ndim == 0 else value[clip : clip + 1] for key, value in tensors.items()}


def image_of(family: str) -> Tensor:
    """Of the size that the latents of the golden case are made from: (1, h, w, 3)."""
    height, width = (2 * side for side in expected(family)["unet.sample"].shape[-2:])
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(5))


def stored(family: str, latents: Tensor) -> tuple[Tensor, Any]:
    """Images and a VAE that gives these latents of them."""
    return image_of(family).expand(len(latents), -1, -1, -1), models.StoredLatents(latents)


# -- golden cases ------------------------------------------------------------------------------------------------------


def golden_condition(family: str, clips: slice, scale: float = 0.8) -> Any:
    latents = expected(family)["unet.image_latents"][clips]
    if family == I2V:
        return I2VImage(*stored(family, latents), motion_scale=scale)
    return PIAImage(*stored(family, latents[:, :, 0]), amount="moderate")


@pytest.mark.parametrize(("family", "name"), [(PIA, "unet.out"), (I2V, "unet.out.motion_scale_0.8")])
def test_the_originals_output_for_clips_together_and_apart(family: str, name: str) -> None:
    tensors = expected(family)
    model = applied(with_condition(loaded(family), golden_condition(family, slice(None))))
    assert_golden(models.call(model, tensors), tensors[name])
    for clip in (0, 1):
        condition = golden_condition(family, slice(clip, clip + 1))
        alone = models.call(applied(with_condition(loaded(family), condition)), one_clip(tensors, clip))
        assert_golden(alone, tensors[name][clip : clip + 1])


def test_other_motion_scales_and_no_image() -> None:
    tensors = expected(I2V)
    condition = golden_condition(I2V, slice(None), scale=0.3)
    found = models.call(applied(with_condition(loaded(I2V), condition)), tensors)
    assert_golden(found, tensors["unet.out.motion_scale_0.3"])
    assert_golden(models.call(applied(loaded(I2V)), tensors), tensors["unet.out.without_image"])


def test_a_first_layer_that_is_wholly_the_files() -> None:
    tensors = expected(PIA)
    motion = load_motion(motion_file(PIA), None, conv_in_from_file=True)
    found = models.call(applied(with_condition(motion, golden_condition(PIA, slice(None)))), tensors)
    assert_golden(found, tensors["unet.out.conv_in_from_file"])


@pytest.mark.parametrize("family", [PIA, I2V])
def test_the_model_is_as_it_was_when_another_one_is_loaded(family: str) -> None:
    tensors, plain = expected(family), models.golden_model(family)
    before = models.call(plain, tensors)
    patched = applied(with_condition(loaded(family), golden_condition(family, slice(None))), plain)
    assert relative(models.call(patched, tensors), before) > 0.01
    assert torch.equal(models.call(plain, tensors), before)
    assert models.hooked(plain) == 0


# -- whole samplings ---------------------------------------------------------------------------------------------------


def noise(family: str, num_frames: int) -> Tensor:
    height, width = expected(family)["unet.sample"].shape[-2:]
    return torch.randn(1, 4, num_frames, height, width, generator=torch.Generator().manual_seed(3))


@cache
def i2v_pipeline() -> AnimateDiffPipeline:
    """With a sampler that draws no noise of its own, at the betas of the module."""
    pipe = load_pipeline(I2V)
    pipe.scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.014, beta_schedule="linear", steps_offset=1, clip_sample=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pia_by_us(latents: Tensor, frame: int = 0, **settings: Any) -> tuple[Tensor, list[int]]:
    generator = torch.Generator().manual_seed(pia.case(PIA)["posterior_generator_seed"])
    return models.by_pipeline(pia.pipeline(), latents, images={frame: pia.image()}, generator=generator, **settings)


def by_host(model: Any, latents: Tensor, timesteps: list[int]) -> Tensor:
    return models.sampled(model, latents, timesteps, *map(models.conditioning, models.texts()))


def pia_model(plain: Any = None, **inputs: Any) -> Any:
    """The MODEL of the golden case, with its image by the node."""
    image = torch.from_numpy(pia.image().copy())[None] / 255
    vae = models.StoredLatents(expected(PIA)["pipeline.image_latents"])
    motion = AnimateDiffPIA.execute(loaded(PIA), image, vae, **inputs).result[0]
    return with_family_sampling(applied(motion, plain), motion.family)


@pytest.mark.parametrize(
    ("frame", "settings"),
    [(0, {"motion_amount": "moderate"}), (-2, {"motion_amount": "style-large"}), (1, {"image_affinity": "0=0.4,2=1"})],
    ids=str,
)
def test_frames_of_pia_are_those_of_our_pipeline(frame: int, settings: dict[str, Any]) -> None:
    latents = noise(PIA, 4)
    ours = {"image_affinity": {0: 0.4, 2: 1.0}} if "image_affinity" in settings else settings
    wanted, timesteps = pia_by_us(latents, frame, **ours)
    found = by_host(pia_model(frame=frame, **settings), latents, timesteps)
    assert relative(found, wanted) <= TOLERANCE


def test_windows_of_pia_have_the_affinity_of_their_frames() -> None:
    latents = noise(PIA, 6)
    wanted, timesteps = pia_by_us(latents, 2, motion_amount="large", window=4, overlap=1)
    model = with_windows(pia_model(frame=2, motion_amount="large"), handler_of(length=4, overlap=1))
    assert relative(by_host(model, latents, timesteps), wanted) <= TOLERANCE


def test_strength_and_no_image(caplog: pytest.LogCaptureFixture) -> None:
    latents, plain = noise(PIA, 4), models.golden_model(PIA)
    whole, half, none = (by_host(pia_model(plain, strength=value), latents, [501, 1]) for value in (1.0, 0.5, 0.0))
    without = by_host(with_family_sampling(applied(loaded(PIA), plain), loaded(PIA).family), latents, [501, 1])
    assert "pia.ckpt animates an image and sees none: AnimateDiff PIA Image gives it" in caplog.text
    large = by_host(pia_model(plain, motion_amount="large"), latents, [501, 1])
    assert min(relative(whole, without), relative(large, whole)) > 0.01
    assert relative(none, without) <= TOLERANCE
    assert 0 < relative(half, without) < relative(whole, without)


def test_the_image_is_encoded_once_a_sampling_and_brought_to_the_size_of_each() -> None:
    sizes: list[Any] = []

    class Vae:
        def spacial_compression_encode(self) -> int:
            return 8

        def encode(self, images: Tensor) -> Tensor:
            sizes.append(tuple(images.shape))
            return torch.zeros(1, 4, *(side // 8 for side in images.shape[1:3]))

    motion = AnimateDiffPIA.execute(loaded(PIA), torch.rand(1, 40, 90, 3), Vae()).result[0]
    model = applied(motion)
    for size in (8, 16):
        latents = torch.randn(1, 4, 4, size, size, generator=torch.Generator().manual_seed(3))
        by_host(model, latents, [501, 250, 1])
    assert sizes == [(1, 64, 64, 3), (1, 128, 128, 3)]


def i2v_model(**inputs: Any) -> Any:
    latents = expected(I2V)["pipeline.image_latents"]
    motion = AnimateDiffI2V.execute(loaded(I2V), *stored(I2V, latents), **inputs).result[0]
    betas = {key: value for key, value in motion.family.betas.items() if key != "original_inference_steps"}
    return with_family_sampling(applied(motion), replace(motion.family, betas=betas))


@pytest.mark.parametrize("windows", [None, (4, 1)], ids=str)
def test_frames_of_i2v_are_those_of_our_pipeline(windows: tuple[int, int] | None) -> None:
    latents = noise(I2V, 4 if windows is None else 6)
    more: dict[str, Any] = {} if windows is None else {"window": windows[0], "overlap": windows[1]}
    images = expected(I2V)["pipeline.image_latents"]
    wanted, timesteps = models.by_pipeline(i2v_pipeline(), latents, images=images, image_motion_scale=0.6, **more)
    model = i2v_model(image_motion_scale=0.6)
    if windows is not None:
        model = with_windows(model, handler_of(length=windows[0], overlap=windows[1]))
    assert relative(by_host(model, latents, timesteps), wanted) <= TOLERANCE


def test_the_module_brings_its_betas_and_steps() -> None:
    motion = loaded(I2V)
    sampling = with_family_sampling(models.golden_model(I2V), motion.family).get_model_object("model_sampling")
    alphas = expected(I2V)["scheduler.alphas_cumprod"]
    assert len(sampling.sigmas) == 200
    assert relative(sampling.sigmas, ((1 - alphas) / alphas)[4::5] ** 0.5) <= TOLERANCE


@pytest.mark.parametrize(
    ("family", "dtype", "compute"), [(I2V, torch.bfloat16, None), (PIA, torch.float16, torch.float32)], ids=str
)
def test_other_types_of_the_host(family: str, dtype: torch.dtype, compute: torch.dtype | None) -> None:
    tensors = expected(family)
    motion = with_condition(loaded(family), golden_condition(family, slice(None)))
    plain = models.golden_model(family, dtype=dtype, compute=compute)
    wanted = tensors["unet.out" if family == PIA else "unet.out.motion_scale_0.8"]
    assert relative(models.call(applied(motion, plain), tensors), wanted) < 0.05


@pytest.mark.skipif(not comfy_host.is_real(), reason="the stub keeps all weights loaded")
@pytest.mark.parametrize(("family", "name"), [(PIA, "unet.out"), (I2V, "unet.out.motion_scale_0.8")])
def test_weights_that_the_host_keeps_offloaded(family: str, name: str) -> None:
    tensors = expected(family)
    model = applied(with_condition(loaded(family), golden_condition(family, slice(None))))
    assert_golden(models.call(model, tensors, prepare=models.load_offloaded), tensors[name])


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_are_named() -> None:
    image, vae = stored(PIA, expected(PIA)["pipeline.image_latents"])
    v3 = load_motion(motion_file("v3"), None)
    with pytest.raises(ValueError, match=r"motion_module\.ckpt has no first layer that sees an image.* for pia\.ckpt"):
        AnimateDiffPIA.execute(v3, image, vae)
    with pytest.raises(ValueError, match=r"pia\.ckpt has no image encoder: AnimateDiff I2V Image is for"):
        AnimateDiffI2V.execute(loaded(PIA), image, vae)
    with pytest.raises(ValueError, match="animate one image, and image has 3"):
        AnimateDiffPIA.execute(loaded(PIA), image.expand(3, -1, -1, -1), vae)
    once = AnimateDiffPIA.execute(loaded(PIA), image, vae, frame=7).result[0]
    with pytest.raises(ValueError, match="goes through AnimateDiff PIA Image already"):
        AnimateDiffPIA.execute(once, image, vae)
    with pytest.raises(ValueError, match="there is no frame 7 in a clip of 4"):
        by_host(applied(once), noise(PIA, 4), [501, 1])
    assert "1.5 is more than 1" in str(AnimateDiffPIA.validate_inputs("0=1.5"))
    other = models.StoredLatents(torch.zeros(1, 16, 16, 16))
    model = applied(AnimateDiffPIA.execute(loaded(PIA), image, other).result[0])
    with pytest.raises(ValueError, match=r"this VAE makes latents of shape .*: connect the VAE of the checkpoint"):
        by_host(model, noise(PIA, 4), [501, 1])
    with pytest.raises(ValueError, match=r"for SD 1\.x base models, but the base model is SDXL"):
        applied(loaded(PIA), models.patcher_of(load_unet("sdxl")))
