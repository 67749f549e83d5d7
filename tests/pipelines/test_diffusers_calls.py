"""What users of diffusers' pipelines write in a call gives the numbers that diffusers' own pipelines compute.

Motion modules that change nothing make of every frame an image, which the image pipelines of diffusers render.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from support import tiny_models
from support.close import relative
from support.controlnet_files import save_controlnet
from support.ip_files import save_ip_adapter
from support.paths import GOLDEN
from support.pipelines import SMALL, pipeline, seeded

from animatediff.errors import Cancelled, UserError
from animatediff.motion import MotionAdapter
from animatediff.motion.module import TemporalAttention
from animatediff.pipelines import AnimateDiffPipeline

ONE: dict[str, Any] = {
    "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt",
}  # fmt: skip
LATENTS = torch.randn(1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(1))


def stilled(pipe: AnimateDiffPipeline) -> AnimateDiffPipeline:
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet))
    pipe.set_scheduler("ddim")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def still() -> AnimateDiffPipeline:
    return stilled(AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> AnimateDiffPipeline:
    file = tmp_path_factory.mktemp("sdxl") / "sdxl.safetensors"
    tiny_models.save_base(file, "sdxl")
    return stilled(AnimateDiffPipeline.from_single_file(file, torch_dtype=torch.float32))


def same_image(pipe: AnimateDiffPipeline, frames: Any, frame: int = 1, own: Any = None, **given: Any) -> None:
    """A frame is the image of diffusers' own pipeline."""
    image = (own or pipe.base)(latents=LATENTS[:, :, frame], **{**ONE, **given}).images[0]
    assert relative(frames[0][0, frame], image) < 1e-5


def as_pipeline(kind: Any, pipe: AnimateDiffPipeline, **more: Any) -> Any:
    parts = {**pipe.base.components, "safety_checker": None, "feature_extractor": None, **more}
    parts.pop("motion_adapter", None)
    own = kind(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    return own


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_prompt_embeddings_are_taken_as_they_are(still: AnimateDiffPipeline) -> None:
    for length in (77, 5):  # of a length that no chunk has, too
        positive, negative = torch.randn(2, 1, length, still.text_encoder.config.hidden_size)
        for given in ({"negative_prompt_embeds": negative}, {"negative_prompt": "fog"}, {}):
            frames = still(latents=LATENTS, prompt_embeds=positive, **given, **ONE)
            same_image(still, frames, prompt_embeds=positive, **given)
    frames = still("a cat", latents=LATENTS, negative_prompt_embeds=torch.ones(1, 77, 32), **ONE)
    same_image(still, frames, prompt="a cat", negative_prompt_embeds=torch.ones(1, 77, 32))
    words = "sea " * 40  # two chunks, as the prompt embeddings beside it
    both = still(latents=LATENTS, prompt_embeds=torch.ones(1, 154, 32), negative_prompt=words, **ONE)
    assert both.frames.isfinite().all()
    with pytest.raises(UserError, match="of 77 tokens are given, and a text beside them needs 154"):
        still(latents=LATENTS, prompt_embeds=torch.ones(1, 77, 32), negative_prompt=words, **ONE)
    with pytest.raises(UserError, match="have one shape"):
        still(prompt_embeds=torch.ones(1, 77, 32), negative_prompt_embeds=torch.ones(1, 5, 32), **ONE)


def test_sdxls_second_texts_sizes_and_pooled_embeddings(sdxl: AnimateDiffPipeline) -> None:
    texts = {"prompt": "a cat", "prompt_2": "a dog", "negative_prompt": "fog", "negative_prompt_2": "rain"}
    sizes = {"original_size": (64, 48), "crops_coords_top_left": (3, 5), "target_size": (40, 24)}
    less = {"negative_original_size": (16, 16), "negative_crops_coords_top_left": (1, 2)}
    less["negative_target_size"] = (8, 8)
    for given in (texts, {"prompt": "a cat", **sizes}, {**texts, **sizes, **less}):
        frames = sdxl(latents=LATENTS, **given, **ONE)
        same_image(sdxl, frames, **given)
        assert relative(frames.frames, sdxl("a cat", latents=LATENTS, **ONE).frames) > 1e-4
    # long and weighted texts take the other way to the embeddings
    long = sdxl("a (cat:1.0)", prompt_2="a dog", latents=LATENTS, **ONE)
    same_image(sdxl, long, prompt="a cat", prompt_2="a dog")
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    embeds = dict(zip(names, sdxl.base.encode_prompt("a cat", negative_prompt="fog"), strict=True))
    frames = sdxl(latents=LATENTS, **embeds, **ONE)
    same_image(sdxl, frames, **embeds)
    del embeds["pooled_prompt_embeds"]
    with pytest.raises(UserError, match="SDXL takes `prompt_embeds` and `pooled_prompt_embeds` together"):
        sdxl(latents=LATENTS, **embeds, **ONE)


def test_a_clip_does_not_depend_on_the_length_of_its_neighbours_prompt() -> None:
    pipe = pipeline()
    texts = ["a cat", "a dog, " * 60, "a (red:1.3) fox", "a house"]
    negatives = ["fog", "", "rain", "snow, " * 60]
    together = pipe(texts, negative_prompt=negatives, generator=seeded(1, 2, 3, 4), **SMALL).frames
    for clip, (text, negative) in enumerate(zip(texts, negatives, strict=True)):
        alone = pipe(text, negative_prompt=negative, generator=seeded(clip + 1), **SMALL).frames
        assert relative(together[clip], alone[0]) < 5e-5


def test_several_videos_of_each_prompt(still: AnimateDiffPipeline) -> None:
    settings: dict[str, Any] = {**ONE, "num_frames": 2}
    found = still(["a cat", "a dog"], num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4), **settings).frames
    for clip, text in enumerate(("a cat", "a cat", "a dog", "a dog")):
        alone = still(text, generator=seeded(clip + 1), **settings).frames
        assert relative(found[clip], alone[0]) < 5e-5
    embeds = torch.randn(2, 77, 32, generator=torch.Generator().manual_seed(0))
    four = still(prompt_embeds=embeds, num_videos_per_prompt=2, generator=seeded(1, 2, 3, 4), **settings).frames
    alone = still(prompt_embeds=embeds[1:], generator=seeded(4), **settings).frames
    assert relative(four[3], alone[0]) < 5e-5


# -- steps -----------------------------------------------------------------------------------------------------------


def test_own_timesteps_and_sigmas(still: AnimateDiffPipeline) -> None:
    config = still.scheduler.config
    try:
        still.scheduler = DDPMScheduler.from_config(config)
        times = {"timesteps": [900, 500, 100], "generator": seeded(3)[0]}
        frames = still("a cat", latents=LATENTS[:, :, 1:2], **times, **ONE)
        times["generator"] = seeded(3)[0]
        image = still.base("a cat", latents=LATENTS[:, :, 1], **times, **ONE).images[0]
        assert relative(frames[0][0, 0], image) < 1e-5
        still.scheduler = EulerDiscreteScheduler.from_config(config)
        for given in ({"sigmas": [10.0, 3.0, 0.5]}, {"timesteps": [900, 500, 100]}):
            same_image(still, still("a cat", latents=LATENTS, **given, **ONE), prompt="a cat", **given)
    finally:
        still.set_scheduler("ddim")


def test_denoising_ends_early(sdxl: AnimateDiffPipeline) -> None:
    given = {**ONE, "num_inference_steps": 5, "denoising_end": 0.6, "output_type": "latent"}
    frames = sdxl("a cat", latents=LATENTS, **given)
    image = sdxl.base("a cat", latents=LATENTS[:, :, 1], **given).images
    assert relative(frames[0][:, :, 1], image) < 1e-5


def test_a_list_of_videos_begins_each_clip_and_steps_can_be_enforced(still: AnimateDiffPipeline) -> None:
    videos = [[Image.new("RGB", (32, 32), (60 * clip + 30 * n, 90, 120)) for n in range(2)] for clip in range(2)]
    settings: dict[str, Any] = {**ONE, "strength": 0.7}
    two = still(["a cat", "a dog"], video=videos, generator=seeded(1, 2), **settings).frames
    for clip, text in enumerate(("a cat", "a dog")):
        alone = still(text, video=videos[clip], generator=seeded(clip + 1), **settings).frames
        assert relative(two[clip], alone[0]) < 5e-5
    tensor = torch.rand(2, 5, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # (b, f, c, h, w)
    listed = still("a cat", video=tensor[1], generator=seeded(2), **settings).frames
    assert relative(still(["a", "a cat"], video=tensor, generator=seeded(1, 2), **settings).frames[1], listed[0]) < 5e-5
    # as many steps as asked for, the last ones of a longer schedule
    steps: list[int] = []

    def note(pipe: Any, step: int, timestep: Any, tensors: Any) -> None:
        steps.append(int(timestep))

    enforced = {**settings, "num_inference_steps": 4, "strength": 0.5, "enforce_inference_steps": True}
    clip = still("a cat", video=videos[0], generator=seeded(1), callback_on_step_end=note, **enforced).frames
    assert len(steps) == 4
    still.scheduler.set_timesteps(8)
    assert steps == still.scheduler.timesteps[-4:].tolist()
    usual = {**enforced, "enforce_inference_steps": False, "num_inference_steps": 8}
    assert torch.equal(clip, still("a cat", video=videos[0], generator=seeded(1), **usual).frames)
    own = as_pipeline(StableDiffusionImg2ImgPipeline, still)
    assert len(own.get_timesteps(8, 0.5, "cpu")[0]) == 4


def test_latents_with_a_strength_begin_where_their_noise_is(still: AnimateDiffPipeline) -> None:
    settings: dict[str, Any] = {**ONE, "num_inference_steps": 4, "strength": 0.5, "output_type": "latent"}
    found = still("a cat", latents=LATENTS, **settings).frames
    scheduler = still.scheduler
    scheduler.set_timesteps(4)
    first = scheduler.timesteps[2:3]
    whole = still.base.scheduler.add_noise(LATENTS, torch.zeros_like(LATENTS), first)
    assert relative(found, still("a cat", latents=whole, **settings).frames) > 1e-3
    given = {**settings, "num_inference_steps": 2, "enforce_inference_steps": True}
    noise = torch.randn(LATENTS.shape, generator=seeded(7)[0])
    noised = scheduler.add_noise(LATENTS, noise, first)
    enforced = still("a cat", latents=LATENTS, generator=seeded(7), **given).frames
    assert relative(enforced, still("a cat", latents=noised, **settings).frames) < 1e-5


# -- attention, guidance, controls -----------------------------------------------------------------------------------


def test_the_scale_in_attention_arguments_is_that_of_all_loras() -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    plain = pipe("a cat", generator=seeded(1), **SMALL).frames
    pipe.load_lora_weights(GOLDEN / "v3" / "style_lora_kohya.safetensors", adapter_name="style", scale=0.8)
    pipe.load_lora_weights(GOLDEN / "v3" / "motion_lora.ckpt", adapter_name="motion")
    full = pipe("a cat", generator=seeded(1), **SMALL).frames
    half = pipe("a cat", generator=seeded(1), cross_attention_kwargs={"scale": 0.5}, **SMALL).frames
    off = pipe("a cat", generator=seeded(1), cross_attention_kwargs={"scale": 0}, **SMALL).frames
    assert torch.equal(pipe("a cat", generator=seeded(1), **SMALL).frames, full), "strengths are what they were"
    assert relative(off, plain) < 1e-5 and relative(full, plain) > 1e-2
    pipe.set_adapters(["style", "motion"], [0.4, 0.5])
    assert relative(half, pipe("a cat", generator=seeded(1), **SMALL).frames) < 1e-5


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_perturbed_attention_is_that_of_diffusers(still: AnimateDiffPipeline, guidance: float) -> None:
    own = as_pipeline(StableDiffusionPAGPipeline, still, pag_applied_layers=["mid", "down_blocks.0"])
    still.set_pag_applied_layers(["mid", "down_blocks.0"])
    try:
        for given in ({"pag_scale": 2.0}, {"pag_scale": 3.0, "pag_adaptive_scale": 0.004}, {"pag_scale": 0.0}):
            settings = {**given, "guidance_scale": guidance}
            frames = still("a cat", latents=LATENTS, **{**ONE, **settings})
            same_image(still, frames, own=own, prompt="a cat", **settings)
        three = still("a cat", latents=LATENTS, **{**ONE, "guidance_scale": guidance})
        same_image(still, three, own=own, prompt="a cat", pag_scale=3.0, guidance_scale=guidance)
    finally:
        still.set_pag_applied_layers(None)
    assert {type(one).__name__ for one in still.unet.attn_processors.values()} == {"AttnProcessor2_0"}


def test_motion_layers_are_perturbed_too(pipe: AnimateDiffPipeline) -> None:
    attention = next(layer for layer in pipe.unet.modules() if isinstance(layer, TemporalAttention))
    x = torch.randn(6, 4, 2, attention.to_q.in_features)
    whole = attention(x)
    attention.identity_part = 3
    try:
        found = attention(x)
    finally:
        attention.identity_part = 0
    assert relative(found[:4], whole[:4]) < 1e-6
    assert torch.equal(found[4:], attention.to_out[0](attention.to_v(x[4:])))
    plain = pipe("a cat", generator=seeded(1), **SMALL).frames
    pipe.set_pag_applied_layers("down_blocks.0.motion_modules")
    try:
        for mode in ("unet", "motion"):
            clip = pipe("a cat", generator=seeded(1), window=2, overlap=1, long_mode=mode, **SMALL).frames
            assert relative(clip, plain) > 1e-3
    finally:
        pipe.set_pag_applied_layers(None)


def test_image_embeddings_and_masks_of_ip_adapters(tmp_path: Path) -> None:
    pipe = stilled(AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32))
    pipe.load_ip_adapter_file(save_ip_adapter(tmp_path, pipe.unet))
    embeds = torch.randn(2, 2, 24, generator=torch.Generator().manual_seed(0))  # two images, negative ones first
    masks = torch.zeros(1, 2, 32, 32)
    masks[0, 0, :, :16] = masks[0, 1, :, 16:] = 1
    for extra in ({}, {"cross_attention_kwargs": {"ip_adapter_masks": [masks]}}):
        given = {"prompt": "a cat", "ip_adapter_image_embeds": [embeds], **extra}
        same_image(pipe, pipe(latents=LATENTS, **given, **ONE), **given)
    without = {**ONE, "guidance_scale": 1.0, "ip_adapter_image_embeds": [embeds[1:]]}
    same_image(pipe, pipe("a cat", latents=LATENTS, **without), prompt="a cat", **without)
    both = torch.cat([embeds[:1], embeds[:1], embeds[1:], embeds[1:] * 2])  # of each prompt its own
    two = pipe(["a cat", "a dog"], ip_adapter_image_embeds=[both], latents=LATENTS.repeat(2, 1, 1, 1, 1), **ONE)
    own = [torch.cat([embeds[:1], embeds[1:] * 2])]
    alone = pipe("a dog", ip_adapter_image_embeds=own, latents=LATENTS, **ONE)
    assert relative(two[0][1], alone[0][0]) < 5e-5
    for wrong, message in (
        ({"ip_adapter_image_embeds": [embeds[:1]]}, "have 1 rows; expected 1 or 1, and as many negative ones"),
        ({"ip_adapter_image_embeds": [embeds, embeds]}, "1 IP-Adapters want `ip_adapter_image_embeds` of 1, got 2"),
        ({"ip_adapter_image_embeds": [torch.zeros(2, 1, 23)]}, "of width 24"),
        ({"ip_adapter_image_embeds": [embeds], "ip_adapter_image": Image.new("RGB", (8, 8))}, "give one of the two"),
        ({"ip_adapter_image": 3}, "takes PIL images, arrays and tensors, got 3"),
        ({"ip_adapter_image_embeds": [embeds], "cross_attention_kwargs": {"ip_adapter_masks": [masks[:, :1]]}},
         "has 1 masks for IP-Adapter 0, which has 2 images"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            pipe("a cat", latents=LATENTS, **ONE, **wrong)


def test_conditioning_frames_of_controlnets_and_guess_mode(still: AnimateDiffPipeline, tmp_path: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "v3" / "sd", subfolder="unet")
    nets = [still.load_controlnet(save_controlnet(tmp_path / str(seed), unet, seed, (8, 16))) for seed in range(2)]
    images = [[Image.new("RGB", (32, 32), (80 * net + 50 * n, 120, 40)) for n in range(2)] for net in range(2)]
    given: dict[str, Any] = {"controlnet_conditioning_scale": [0.8, 0.5], "control_guidance_start": 0.0,
                             "control_guidance_end": [0.7, 1.0], "negative_prompt": ""}  # fmt: skip
    try:
        for guess in (False, True):
            frames = still("a cat", latents=LATENTS, conditioning_frames=images, guess_mode=guess, **given, **ONE)
            own = as_pipeline(StableDiffusionControlNetPipeline, still, controlnet=nets)
            image = [images[net][1] for net in range(2)]
            same_image(still, frames, own=own, prompt="a cat", image=image, guess_mode=guess,
                       **{**given, "control_guidance_start": [0.0, 0.0]})  # fmt: skip
        for wrong, message in (
            (
                {"conditioning_frames": [*images[0], images[0][0]]},
                "2 ControlNets are loaded, and `conditioning_frames` is then a list",
            ),
            ({"control_guidance_end": [0.1]}, "`control_guidance_end` has 1 values for 2 ControlNets; give 2"),
            ({"control_start": 0.2, "control_guidance_start": 0.1}, "are one setting"),
        ):
            with pytest.raises(UserError, match=message):
                still("a cat", latents=LATENTS, **{"conditioning_frames": images, **ONE, **wrong})
    finally:
        still.unload_controlnets()


def test_clips_of_prompts_of_other_lengths_have_their_own_images(tmp_path: Path) -> None:
    pipe = stilled(AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32))
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "v3" / "sd", subfolder="unet")
    pipe.load_controlnet(save_controlnet(tmp_path / "net", unet, 0, (8, 16)))
    pipe.load_ip_adapter_file(save_ip_adapter(tmp_path, pipe.unet))
    texts, videos = ["a cat, " * 60, "a dog", "a house, " * 60], torch.rand(3, 2, 3, 32, 32, generator=seeded(5)[0])
    embeds = torch.randn(6, 1, 24, generator=seeded(6)[0])
    settings: dict[str, Any] = {**ONE, "num_frames": 2, "num_inference_steps": 2}
    given = {"conditioning_frames": list(videos), "ip_adapter_image_embeds": [embeds]}
    three = pipe(texts, generator=seeded(1, 2, 3), **given, **settings).frames
    for clip, text in enumerate(texts):
        own = {"conditioning_frames": videos[clip], "ip_adapter_image_embeds": [embeds[[clip, clip + 3]]]}
        alone = pipe(text, generator=seeded(clip + 1), **own, **settings).frames
        assert relative(three[clip], alone[0]) < 5e-5


# -- callbacks -------------------------------------------------------------------------------------------------------


def test_guidance_ends_within_a_call_as_diffusers_writes_it(still: AnimateDiffPipeline) -> None:
    def without_guidance(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> Any:
        if step == int(pipe.num_timesteps * 0.4):
            tensors["prompt_embeds"] = tensors["prompt_embeds"].chunk(2)[-1]
            pipe._guidance_scale = 0.0
        return tensors

    given: dict[str, Any] = {"prompt": "a cat", "callback_on_step_end": without_guidance,
                             "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}  # fmt: skip
    sizes: list[int] = []
    handle = still.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    try:
        frames = still(latents=LATENTS, **given, **ONE)
    finally:
        handle.remove()
    assert sizes == [4, 4, 2] and not still.do_classifier_free_guidance
    same_image(still, frames, **given)


def test_callbacks_change_tensors_or_return_nothing(still: AnimateDiffPipeline) -> None:
    other = still.base.encode_prompt("a dog", "cpu", 1, True, negative_prompt="fog")
    changes = {"prompt_embeds": torch.cat([other[1], other[0]]).repeat_interleave(2, 0)}
    changes["negative_prompt_embeds"] = other[1]

    def change(name: str) -> Any:
        return lambda pipe, step, timestep, tensors: {name: changes[name]} if step == 0 else None

    first: dict[str, torch.Tensor] = {}

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> None:
        first.setdefault("latents", tensors["latents"].clone())
        assert list(tensors) == ["latents"]

    call: dict[str, Any] = {**ONE, "latents": LATENTS, "output_type": "latent", "num_inference_steps": 2}
    plain = still("a cat", callback_on_step_end=keep, **call).frames
    timestep = still.scheduler.timesteps[1]
    for name, prompt, negative in (("prompt_embeds", "a dog", "fog"), ("negative_prompt_embeds", "a cat", "fog")):
        inputs = {"callback_on_step_end_tensor_inputs": ["latents", name]}
        found = still("a cat", callback_on_step_end=change(name), **inputs, **call).frames
        assert relative(found, plain) > 5e-5
        # the second step alone, with the other text
        embeds = still.base.encode_prompt(prompt, "cpu", 1, True, negative_prompt=negative)
        rows = torch.cat([embeds[1], embeds[0]]).repeat_interleave(2, 0)
        flat = first["latents"].transpose(1, 2).flatten(0, 1)
        with torch.no_grad():
            noise = still.unet(torch.cat([flat, flat]), timestep, rows).sample.chunk(2)
        guided = (noise[0] + 3.0 * (noise[1] - noise[0])).unflatten(0, (1, 2)).transpose(1, 2)
        assert relative(found, still.scheduler.step(guided, timestep, first["latents"]).prev_sample) < 1e-5
    for wrong, message in (
        (lambda *given: {"prompt_embeds": torch.zeros(2, 77, 32)}, "which it was not given"),
        (lambda *given: {"latents": 3}, "returned 3 as latents, which is a tensor"),
        (lambda *given: [1], r"returns a dictionary of tensors or None, got \[1\]"),
        (lambda *given: {"latents": torch.zeros(1)}, r"latents of a callback are \(1, 4, 2, 16, 16\), got \(1,\)"),
    ):
        with pytest.raises(UserError, match=message):
            still("a cat", callback_on_step_end=wrong, **call)
    texts, inputs = ["a cat", "a dog, " * 60], {"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    with pytest.raises(UserError, match="have no common `prompt_embeds` for a callback"):
        still(texts, callback_on_step_end=keep, num_frames=2, **inputs, **ONE)


def test_an_interrupted_call_ends_with_the_frames_as_they_are(still: AnimateDiffPipeline) -> None:
    seen: list[torch.Tensor] = []

    def stop(pipe: Any, step: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> Any:
        seen.append(tensors["latents"])
        pipe._interrupt = step == 1
        return tensors

    call = {**ONE, "num_inference_steps": 5, "output_type": "latent", "latents": LATENTS}
    for freeinit in (1, 2):
        seen.clear()
        found = still("a cat", callback_on_step_end=stop, freeinit=freeinit, **call).frames
        assert len(seen) == 2 and torch.equal(found, seen[1]) and still.interrupt
    assert not torch.equal(still("a cat", **call).frames, found), "the next call is not interrupted"


# -- what a call leaves behind ---------------------------------------------------------------------------------------


def test_images_of_a_shared_unet_are_those_of_the_image_model() -> None:
    theirs = StableDiffusionPipeline(
        **{**AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32).base.components},
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {**ONE, "latents": LATENTS[:, :, 0]}
    before = theirs("a cat", **call).images[0]
    pipe = AnimateDiffPipeline.from_pipe(theirs, motion_adapter=GOLDEN / "v3" / "motion_module.ckpt")
    assert torch.equal(theirs("a cat", **call).images[0], before), "motion modules rest outside of clips"
    for settings in ({"num_frames": 4}, {"num_frames": 2}, {"num_frames": 3, "cancel": lambda: True}):
        with suppress(Cancelled):
            pipe("a cat", **{**SMALL, **settings})
        for image_pipe in (theirs, pipe.base):
            assert torch.equal(image_pipe("a cat", **call).images[0], before)
    clip = pipe("a cat", latents=LATENTS[:, :, :1], **ONE).frames[0, 0]
    assert relative(before, clip) > 1e-2, "a clip of one frame goes through the motion modules"


def test_a_scheduler_keeps_what_it_was_given() -> None:
    parts = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32).base.components
    parts = {name: part for name, part in parts.items() if name not in ("scheduler", "safety_checker")}
    given = EulerDiscreteScheduler(steps_offset=0, timestep_spacing="leading", beta_schedule="scaled_linear")
    pipe = AnimateDiffPipeline(**parts, scheduler=given)
    assert pipe.scheduler.config.steps_offset == given.config.steps_offset == 0
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet))
    pipe("a cat", num_frames=2, **{**ONE, "num_inference_steps": 2})
    assert pipe.scheduler.timesteps.tolist() == [500.0, 0.0]


def test_free_init_samples_a_video_again(still: AnimateDiffPipeline) -> None:
    video = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {**ONE, "video": video, "num_inference_steps": 4, "strength": 0.5}
    once = still("a cat", generator=seeded(1), **settings).frames
    twice = still("a cat", generator=seeded(1), freeinit=2, **settings).frames
    assert twice.isfinite().all() and 1e-3 < relative(twice, once) < 1
    steps: list[int] = []
    still("a cat", freeinit=2, freeinit_fast=True, num_frames=2, **{**ONE, "num_inference_steps": 4},
          on_progress=lambda progress: steps.append(progress.total))  # fmt: skip
    assert steps[:6] == [6] * 6, "two steps, then four"
