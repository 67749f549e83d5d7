"""Arguments of a call as users of diffusers write them: every keyword, every type, places, and what comes back."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from support.pipelines import TINY, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffOutput, AnimateDiffPipeline
from animatediff.pipelines.argument_types import FORMER
from animatediff.pipelines.arguments import Arguments

SEVEN = (
    "AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffControlNetPipeline", "AnimateDiffPAGPipeline",
    "AnimateDiffSparseControlNetPipeline", "AnimateDiffVideoToVideoPipeline",
    "AnimateDiffVideoToVideoControlNetPipeline",
)  # fmt: skip
NAMES = [item.name for item in fields(Arguments) if item.init]
ODD: dict[str, Any] = {
    "text": "sixteen", "number": 0.37, "none": None, "nan": float("nan"), "dictionary": {"a": 1},
    "list": [[], object()], "bool": True, "tensor": torch.full((2, 2), float("nan")),
}  # fmt: skip
"""Values of which most fit no argument."""


@pytest.mark.parametrize("name", SEVEN)
def test_every_keyword_of_diffusers_pipelines_is_one_here(name: str) -> None:
    theirs = inspect.signature(getattr(diffusers, name).__call__).parameters
    assert set(theirs) - {"self", "kwargs"} <= set(inspect.signature(AnimateDiffPipeline.__call__).parameters)


def test_arguments_without_names_stand_in_the_order_of_diffusers(pipe: AnimateDiffPipeline) -> None:
    theirs = list(inspect.signature(diffusers.AnimateDiffPipeline.__call__).parameters)
    ours = inspect.signature(AnimateDiffPipeline.__call__).parameters
    placed = [one.name for one in ours.values() if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert placed == theirs[: len(placed)] and placed[-1] == "return_dict"
    frames = pipe("a cat", 3, 16, 24, 2, 1.0, None, 1, 0.0, seeded(1)[0], output_type="pt")[0]
    assert frames.shape == (1, 3, 3, 16, 24)
    named = pipe("a cat", num_frames=3, height=16, width=24, num_inference_steps=2, guidance_scale=1.0,
                 generator=seeded(1)[0], output_type="pt")  # fmt: skip
    assert torch.equal(frames, named.frames)
    with pytest.raises(UserError, match=r"second argument is `num_frames`.*`prompt_2`"):
        pipe("a cat", "a dog")
    with pytest.raises(UserError, match=r"first argument is `prompt`; give the video by name"):
        pipe([Image.new("RGB", (16, 16))] * 3, "a cat")
    with pytest.raises(UserError, match="too many positional arguments; give arguments by name"):
        pipe(*["a cat", *[None] * 30])


def test_what_comes_back_is_taken_apart_as_diffusers_output(pipe: AnimateDiffPipeline) -> None:
    settings: dict[str, Any] = {**TINY, "generator": seeded(1)}
    out = pipe("a cat", **settings)
    assert isinstance(out, AnimateDiffOutput) and len(out) == 1
    assert (
        out[0] is out.frames and out["frames"] is out.frames and out.to_tuple()[0] is out.frames and [*out] == [out[0]]
    )
    settings["generator"] = seeded(1)
    as_tuple = pipe("a cat", return_dict=False, **settings)
    assert type(as_tuple) is tuple and torch.equal(as_tuple[0], out.frames)
    with pytest.raises(IndexError):
        out[1]


def test_names_that_are_none_say_what_to_use(pipe: AnimateDiffPipeline) -> None:
    for name in FORMER:
        assert name not in NAMES
        with pytest.raises(UserError, match=f"no argument `{name}`; .*`|no argument `{name}`; a call has no speed"):
            pipe("a cat", **{name: 1})
    with pytest.raises(UserError, match="no argument `num_frame`; did you mean `num_frames`"):
        pipe("a cat", num_frame=4)


@pytest.mark.parametrize("name", NAMES)
def test_values_of_other_types_are_user_errors(name: str, pipe: AnimateDiffPipeline) -> None:
    """Each argument with values of every kind: it is taken, or refused by one sentence that names it."""
    messages = []
    for value in ODD.values():
        try:
            pipe.job(**{"prompt": "a cat", **TINY, name: value})
        except UserError as error:
            messages.append(str(error))
    assert messages and not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_frames": "16"}, r"`num_frames` is a whole number, got '16' \(str\)"),
        ({"num_frames": 4.0}, r"`num_frames` is a whole number, got 4.0 \(float\)"),
        ({"num_frames": True}, "`num_frames` is a whole number"),
        ({"guidance_scale": "7"}, r"`guidance_scale` is a number, got '7' \(str\)"),
        ({"guidance_scale": float("nan")}, r"`guidance_scale` is a number, got nan \(float\)"),
        ({"guidance_rescale": None}, "`guidance_rescale` is a number, got None; leave it out for the default"),
        ({"closed_loop": "yes"}, "`closed_loop` is True or False, got 'yes'"),
        ({"latents": np.zeros((1, 4, 4, 8, 8))}, "`latents` is a tensor of finite numbers"),
        ({"latents": torch.full((1, 4, 4, 8, 8), torch.nan)}, "values that are not finite"),
        ({"negative_prompt": 3}, "`negative_prompt` is a text or a list of texts, got 3"),
        ({"negative_prompt": ["a", None]}, "`negative_prompt` is a text or a list of texts"),
        ({"negative_prompt": []}, "`negative_prompt` is empty"),
        ({"generator": 7}, r"`generator` is a torch.Generator or a list of them, got 7 \(int\)"),
        ({"original_size": 512}, r"`original_size` is a pair of whole numbers \(height, width\), got 512"),
        ({"timesteps": [900, "x"]}, "`timesteps` is a list of numbers"),
        ({"timesteps": [100, 900]}, "`timesteps` fall from step to step"),
        ({"timesteps": [900], "sigmas": [1.0]}, "`timesteps` and `sigmas` are given; give one of the two"),
        ({"sigmas": [9.0, 1.0]}, "`sigmas` of 2 steps: not with DDIMScheduler .*it takes no `sigmas`"),
        ({"callback_on_step_end": 3}, "`callback_on_step_end` is a function"),
        ({"callback_on_step_end_tensor_inputs": ["latent"]}, "unknown callback_on_step_end_tensor_inputs 'latent'"),
        ({"cross_attention_kwargs": 0.5}, "`cross_attention_kwargs` is a dictionary"),
        ({"cross_attention_kwargs": {"scale": "1"}}, "scale is a number, the factor of all LoRAs"),
        ({"cross_attention_kwargs": {"gligen": {}}}, "no attention processor of this model takes 'gligen'"),
        ({"cross_attention_kwargs": {"ip_adapter_masks": []}}, "no IP-Adapter that they limit"),
        ({"ip_adapter_image_embeds": [torch.zeros(2, 1, 8)]}, "but no IP-Adapter that reads them"),
        ({"prompt": None}, "there is no prompt: .*`prompt_embeds`"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "`prompt` and `prompt_embeds` are given"),
        ({"prompt": None, "prompt_embeds": torch.zeros(77, 32)}, r"`prompt_embeds` is \(b, n, d\)"),
        ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 31)}, "`prompt_embeds` are 31 wide, and this base model"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt=0: expected 1 to 1000"),
        ({"num_videos_per_prompt": 2, "generator": seeded(1, 2, 3)}, "2 clips want one generator or 2, got 3"),
        ({"controlnet_conditioning_scale": [1.0, "2"]}, "`controlnet_conditioning_scale` is a number or a list of"),
        ({"pag_scale": 2.0, "pag_adaptive_scale": -1.0}, "pag_adaptive_scale=-1: expected 0 to 1000"),
        ({"denoising_end": 0.0001}, "denoising_end=0.0001 comes before the first of 2 steps"),
        ({"eta": 2}, "eta=2: expected 0 to 1"),
        ({"video": [3]}, "video takes a list of PIL images"),
        ({"latents": torch.zeros(1, 4, 4, 8, 8), "video": torch.rand(4, 3, 16, 16)}, "both are where sampling begins"),
    ],
)  # fmt: skip
def test_what_is_refused(pipe: AnimateDiffPipeline, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe(**{"prompt": "a cat", **TINY, **given})


def test_length_and_size_are_those_of_latents(pipe: AnimateDiffPipeline) -> None:
    latents = torch.randn(1, 4, 5, 8, 12)
    assert pipe("a cat", latents=latents, num_inference_steps=1, output_type="latent")[0].shape == latents.shape


def test_layers_of_perturbed_attention_are_checked(pipe: AnimateDiffPipeline) -> None:
    with pytest.raises(UserError, match="no self-attention layer of this model is called 'middle'; try 'mid'"):
        pipe.set_pag_applied_layers("middle")
    with pytest.raises(UserError, match="are names of layers"):
        pipe.set_pag_applied_layers([3])  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"is no pattern"):
        pipe.set_pag_applied_layers("mid(")
    assert pipe.pag_applied_layers is None


def test_settings_for_all_calls_give_way_to_the_call(pipe: AnimateDiffPipeline) -> None:
    pipe.call_settings["num_frames"] = 3
    try:
        assert pipe.job("a cat").clip.num_frames == 3 and pipe.job("a cat", 5).clip.num_frames == 5
    finally:
        del pipe.call_settings["num_frames"]


def test_a_seed_as_generator_is_told_how_to_be_one(pipe: AnimateDiffPipeline) -> None:
    with pytest.raises(UserError, match=r"`generator` is a torch\.Generator .*=torch\.Generator\(\)\.manual_seed\(3\)"):
        pipe("a cat", generator=3, **TINY)
