"""PIA: parity with the original, the image at any frame, masks, windows, batches, and one message for each mistake."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from support.close import relative
from support.commands import is_one_message, run
from support.golden import assert_close, case, expected
from support.images import BLUE, RED, colour
from support.paths import GOLDEN
from support.pia import BY_INDEX, FILE, MODEL, SHORT, image, new_pipeline, pipeline, render
from support.pipelines import pipeline as golden_pipeline
from support.pipelines import seeded
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.images import fit
from animatediff.motion import attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import drawn_latents
from animatediff.render import load_result
from animatediff.sampling.affinity import MOTION_AMOUNTS, preset_mask
from animatediff.weights.motion import load_motion_module

# -- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.exact
@pytest.mark.parametrize("name", ["unet.out", "unet.out.conv_in_from_file"])
def test_unet_and_what_is_left_of_it(name: str) -> None:
    tensors, unet = expected("pia"), AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype=torch.float32).unet
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    sample = tensors["unet.sample"]
    num_frames = sample.shape[2]
    images = rearrange(sample, "b c f h w -> (b f) c h w")
    text = tensors["unet.encoder_hidden_states"].repeat_interleave(num_frames, 0)

    def predicted() -> Tensor:
        with torch.no_grad():
            return unet(images, tensors["unet.timestep"], text).sample

    alone = predicted()
    adapter, family = load_motion_module(
        FILE, unet=unet, dtype=torch.float32, conv_in_from_file=name.endswith("from_file")
    )
    assert family.name == "pia" and family.numerics.max_positions == 32, "recognised from its tensors alone"
    motion = attach(unet, adapter)
    channels = torch.cat([tensors["unet.mask"], tensors["unet.image_latents"]], dim=1)
    with motion.frames.during(num_frames, image_channels=rearrange(channels, "b c f h w -> (b f) c h w")):
        out = predicted()
    assert_close(rearrange(out, "(b f) c h w -> b c f h w", f=num_frames), tensors[name])
    motion.frames.num_frames = 0
    assert torch.equal(predicted(), alone), "an image model while it draws images"
    motion.detach()
    assert unet.state_dict().keys() == before.keys() and not unet.conv_in._forward_hooks
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


@pytest.mark.exact
@pytest.mark.parametrize("preset", [1, 5])
def test_videos(preset: int) -> None:
    assert_close(render(pipeline(), preset), expected("pia")[f"pipeline.video.preset_{preset}"].transpose(1, 2))


@pytest.mark.exact
def test_latents_of_the_image_are_a_draw_behind_the_noise() -> None:
    tensors, vae = expected("pia"), pipeline().vae
    pixels = rearrange(torch.from_numpy(image().copy()), "h w c -> 1 c h w") / 255
    seed = case("pia")["posterior_generator_seed"]
    assert_close(drawn_latents(vae, pixels, torch.device("cpu"), seeded(seed)), tensors["pipeline.image_latents"])
    one, other = seeded(1, 1)
    noise = torch.randn(1, 4, 4, 8, 8, generator=other)
    settings = {**SHORT, "images": RED}
    given = pipeline()("a", latents=noise, generator=other, **settings).frames
    assert torch.equal(pipeline()("a", generator=one, **settings).frames, given)


@pytest.mark.parametrize("index", BY_INDEX)
def test_masks_of_all_presets(index: int) -> None:
    wanted = case("pia")["mask_by_preset"][str(index)]
    assert preset_mask(BY_INDEX[index], 16) == wanted
    assert preset_mask(BY_INDEX[index], 5) == wanted[:5]
    assert preset_mask(BY_INDEX[index], 16, frame=15) == wanted[::-1]
    assert preset_mask(BY_INDEX[index], 20)[16:] == [wanted[-1]] * 4
    assert set(BY_INDEX.values()) == set(MOTION_AMOUNTS)


# -- what the first layer sees ---------------------------------------------------------------------------------------


def seen_by_first_layer(pipe: AnimateDiffPipeline, **settings: Any) -> tuple[list[Tensor], Tensor]:
    """Channels (r*f, 5, h, w) at each call of the UNet, and the latents of the clips."""
    seen: list[Tensor] = []
    layer: Any = pipe.unet.motion_conv_in
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    try:
        return seen, pipe(settings.pop("prompt", "a"), **{**SHORT, "generator": seeded(1)[0], **settings}).frames
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        ({}, [1.0, 0.9, 0.85, 0.85]),
        ({"images": {-2: RED}, "motion_amount": "large"}, [0.7, 0.8, 1.0, 0.8]),
        ({"image_affinity": {0: 0.4, 2: 1.0}}, [0.4, 0.7, 1.0, 1.0]),
        ({"image_affinity": [0.1, 0.2, 0.3, 0.4]}, [0.1, 0.2, 0.3, 0.4]),
        ({"image_affinity": 0.0}, [0.0] * 4),
        ({"num_frames": 1, "motion_amount": "style-small"}, [0.5]),
        ({"num_frames": 3, "images": {1: RED}}, [0.9, 1.0, 0.9]),
    ],
)
def test_mask_and_image_at_any_frame(settings: dict[str, Any], mask: list[float]) -> None:
    (seen,), _ = seen_by_first_layer(pipeline(), guidance_scale=7.5, **{"images": RED, **settings})
    both = rearrange(seen, "(b f) c h w -> b f c h w", b=2)
    assert torch.equal(both[0], both[1]), "with and without the prompt"
    assert both[0, :, 0].flatten(1).eq(torch.tensor(mask)[:, None]).all()
    assert both[0, :, 1:].eq(both[0, :1, 1:]).all(), "the same image at every frame"


def test_windows_see_the_channels_of_their_own_frames() -> None:
    curve = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    windows = {"num_frames": 6, "window": 4, "overlap": 2, "image_affinity": curve, "images": RED}
    seen, _ = seen_by_first_layer(pipeline(), **windows)
    assert [part[:, 0, 0, 0].tolist() for part in seen] == [pytest.approx(curve[:4]), pytest.approx(curve[2:])]
    (whole,), _ = seen_by_first_layer(pipeline(), long_mode="motion", **windows)
    assert whole[:, 0, 0, 0].tolist() == pytest.approx(curve)


def test_each_clip_is_what_it_is_alone() -> None:
    seen, both = seen_by_first_layer(pipeline(), prompt=["a", "b"], generator=seeded(1, 2), images=RED)
    _, second = seen_by_first_layer(pipeline(), prompt="b", generator=seeded(2)[0], images=RED)
    assert relative(both[1], second[0]) < 1e-5
    clips = seen[0].unflatten(0, (2, -1))
    assert not torch.equal(clips[0, 0, 1:], clips[1, 0, 1:]), "a draw each"
    (seen,), _ = seen_by_first_layer(pipeline(), prompt=["a", "b"], images=RED)
    clips = seen.unflatten(0, (2, -1))
    assert torch.equal(clips[0], clips[1]), "of one generator one draw"


def test_without_an_image_the_channels_are_zeros_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline()
    with caplog.at_level(logging.WARNING):
        without = pipe("a", generator=seeded(1)[0], **SHORT).frames
    assert "PIA animates one image, and none is given" in caplog.text
    zeros = torch.zeros(4, 5, 8, 8)
    adapter, layer = pipe.attachment, pipe.unet.motion_conv_in
    assert adapter is not None
    noise, own = torch.randn(4, 4, 8, 8), pipe.unet.conv_in
    with torch.no_grad(), adapter.frames.during(4, image_channels=zeros):
        assert torch.equal(own(noise), layer(own(noise), noise, zeros))
    caplog.clear()
    held = pipe("a", images={0: RED, -1: BLUE}, generator=seeded(1)[0], **SHORT).frames
    assert "2 are given: its motion module sees none" in caplog.text and not torch.equal(held, without)


def test_strength_begins_with_the_image_at_every_frame() -> None:
    pipe, generator = pipeline(), seeded(1)[0]
    settings = {**SHORT, "num_inference_steps": 4, "images": RED, "strength": 0.5}
    found = pipe("a", generator=generator, **settings).frames
    again = seeded(1)[0]
    noise = torch.randn(1, 4, 4, 8, 8, generator=again)
    pixels = torch.tensor(np.asarray(fit(RED, 16, 16))).permute(2, 0, 1)[None] / 255
    state = again.get_state()
    latents = drawn_latents(pipe.vae, pixels, torch.device("cpu"), [again])[:, :, None].expand(1, 4, 4, 8, 8)
    pipe.scheduler.set_timesteps(4)
    noised = pipe.scheduler.add_noise(latents, noise, pipe.scheduler.timesteps[2:3])
    again.set_state(state)
    assert relative(pipe("a", generator=again, latents=noised, **settings).frames, found) < 1e-5
    whole = pipe("a", generator=seeded(1)[0], **{**settings, "strength": 1.0}).frames
    assert relative(whole, found) > 1e-3


def test_fast_mode_guidance_of_layers_and_a_second_pass() -> None:
    settings = {**SHORT, "images": RED, "guidance_scale": 5.0, "num_inference_steps": 12}
    exact = pipeline()("a", generator=seeded(1)[0], **settings).frames
    fast = pipeline()("a", generator=seeded(1)[0], fast="balanced", **settings).frames
    assert 0 < relative(fast, exact) < 0.5
    few = {**settings, "num_inference_steps": 2}
    assert pipeline()("a", generator=seeded(1)[0], pag_scale=2.0, **few).frames.isfinite().all()
    large = pipeline()("a", generator=seeded(1)[0], upscale=1.5, **few).frames
    assert large.shape[-2:] == (12, 12) and large.isfinite().all()


# -- the UNet that it sits in ----------------------------------------------------------------------------------------


def test_pipelines_around_one_unet_and_its_image_model() -> None:
    pipe = new_pipeline()
    plain = AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    still: dict[str, Any] = {"height": 16, "width": 16, "num_inference_steps": 1, "output_type": "np"}
    wanted = plain.base("a", generator=seeded(1), **still).images[0]
    shown = pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    drawn = pipe.base("a", generator=seeded(1), **still).images[0]
    assert np.abs(drawn - wanted).max() < 1e-6, "in another memory layout"
    other = AnimateDiffPipeline.from_pipe(pipe)
    assert torch.equal(other("a", images=RED, generator=seeded(1)[0], **SHORT).frames, shown)
    copied: Any = copy.deepcopy(pipe.unet)
    pipe.unload_motion_module()
    assert np.array_equal(pipe.base("a", generator=seeded(1), **still).images[0], drawn)
    pipe.unet = copied
    assert torch.equal(pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames, shown)


def test_loras_of_the_image_models_first_layer_act() -> None:
    from peft import LoraConfig

    pipe = new_pipeline()
    before = pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["conv_in"], init_lora_weights=False), "x")
    acting = pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    assert relative(acting, before) > 1e-3
    pipe.unet.delete_adapters("x")
    assert torch.equal(pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames, before)


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    pipe = new_pipeline(conv_in_from_file=True)
    shown = pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    pipe.save_pretrained(tmp_path / "saved")
    again = AnimateDiffPipeline.from_pretrained(tmp_path / "saved")
    assert again.family is not None and again.family.name == "pia"
    assert torch.equal(again("a", images=RED, generator=seeded(1)[0], **SHORT).frames, shown)
    of_the_base = pipeline()("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    assert relative(of_the_base, shown) > 1e-3


def test_from_diffusers_own_pipeline_of_pia(tmp_path: Path) -> None:
    from diffusers import PIAPipeline

    pipe = new_pipeline()
    shown = pipe("a", images=RED, generator=seeded(1)[0], **SHORT).frames
    parts = {name: part for name, part in pipe.components.items() if name in PIAPipeline._get_signature_types()}
    plain: Any = AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    theirs = PIAPipeline(**{**parts, "unet": plain.unet, "motion_adapter": pipe.motion_adapter})
    assert theirs.unet.config.in_channels == 9
    settings = {**SHORT, "images": RED}
    assert torch.equal(AnimateDiffPipeline.from_pipe(theirs)("a", generator=seeded(1)[0], **settings).frames, shown)
    theirs.save_pretrained(tmp_path)
    saved = AnimateDiffPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert torch.equal(saved("a", generator=seeded(1)[0], **settings).frames, shown)


# -- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"motion_amount": "smal"}, "unknown motion_amount 'smal'; did you mean 'small'"),
        ({"image_affinity": [1.0, 0.5]}, "image_affinity: 2 values for 4 frames"),
        ({"image_affinity": {0: 1.5}}, "image_affinity: 1.5 is more than 1"),
        ({"image_affinity": -1}, "image_affinity: -1 is no finite number of at least 0"),
        ({"image_affinity": 0.5, "motion_amount": "large"}, "give one of the two"),
        ({"images": {4: RED}}, "no frame 4 in a clip of 4"),
        ({"images": {0: RED, 1: BLUE}, "image_mode": "pia"}, "image_mode=pia shows one image, got 2"),
        ({"images": None, "image_mode": "pia"}, "but no image"),
        ({"image_mode": "latents", "strength": 0.5}, "is of a video to start from"),
    ],
)
def test_one_message_for_each_mistake(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipeline()("a", **{**SHORT, "images": RED, **settings})


def test_other_modules_and_other_models(caplog: pytest.LogCaptureFixture) -> None:
    pipe = golden_pipeline("v3")
    with pytest.raises(UserError, match=r"image_mode=pia takes PIA's motion module .* of the family v3"):
        pipe("a", images=RED, image_mode="pia", **SHORT)
    with pytest.raises(UserError, match="has no first layer that `conv_in_from_file` could take"):
        load_motion_module(GOLDEN / "v3" / "motion_module.ckpt", conv_in_from_file=True)
    with pytest.raises(UserError, match="so it is not of the family pia"):
        load_motion_module(GOLDEN / "v3" / "motion_module.ckpt", family="pia")
    with caplog.at_level(logging.WARNING):
        pipe("a", generator=seeded(1)[0], motion_amount="large", **SHORT)
        pipeline()("a", images=RED, generator=seeded(1)[0], motion_amount="loop-small", **SHORT)
    assert "`motion_amount` has no effect" in caplog.text
    assert "motion_amount=loop-small: its table was made for 16 frames" in caplog.text


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colour(220, 20, 20, size=(60, 30)).save("a.png")
    place = ("--model", str(MODEL), "--motion-module", str(FILE), "--num-frames", "2", "--steps", "2", "--seed", "1")
    small = (*place, "--width", "32", "--height", "16", "--dtype", "float32")
    code, _, err = run("a fox", *small, "--last-image", "a.png", "--motion-amount", "large", "--out", "fox.png")
    assert code == 0 and "1 image by way of PIA" in err
    request = load_result("fox.png")
    assert (request.image_mode, request.motion_amount, request.image_affinity) == ("pia", "large", None)
    mask = ("--image-affinity", "0=1.0,-1=0.5")
    code, _, err = run("a fox", *small, "--image", "a.png", "--strength", "0.5", *mask, "--out", "half.png")
    assert code == 0, err
    request = load_result("half.png")
    assert (request.strength, request.image_affinity) == (0.5, {0: 1.0, -1: 0.5})
    for given, message in (
        (("--motion-amount", "huge"), "unknown motion_amount 'huge'; known are small, moderate"),
        (("--image-affinity", "0=1,2=0.5"), "there is no frame 2 in a clip of 2"),
        (("--image-affinity", "1.5"), "1.5 is more than 1"),
        (("--motion-amount", "large", "--image-affinity", "1"), "--image-affinity is a mask of your own"),
        (("--last-image", "a.png", "--image-mode", "pia"), "image_mode=pia shows one image, got 2"),
    ):
        assert message in is_one_message(tmp_path, "a fox", *small, "--image", "a.png", *given)


def test_image_is_no_other_than_the_one_given() -> None:
    """A tensor that is shown comes as it is, whatever its type in memory."""
    array = np.asarray(RED)
    (one,), _ = seen_by_first_layer(pipeline(), images=array)
    (other,), _ = seen_by_first_layer(pipeline(), images=Image.fromarray(array))
    assert torch.equal(one, other)
