"""Pipelines made as users of diffusers make them: keywords, components, objects, folders, other pipelines."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import SMALL, pipeline, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.diffusers_motion import as_diffusers, header_of

SD = GOLDEN / "v2" / "sd"
MODULE = GOLDEN / "v2" / "motion_module.ckpt"
QUICK = SMALL | {"num_frames": 2, "num_inference_steps": 1, "output_type": "latent"}


def latents(pipe: AnimateDiffPipeline, **settings: Any) -> torch.Tensor:
    return pipe("a cat", generator=seeded(1), **QUICK, **settings).frames


def fresh(**keywords: Any) -> AnimateDiffPipeline:
    keywords = {"torch_dtype": torch.float32, "motion_adapter": MODULE} | keywords
    return AnimateDiffPipeline.from_pretrained(SD, **keywords)


@pytest.fixture(scope="module")
def wanted() -> torch.Tensor:
    return latents(pipeline("v2"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    """diffusers' pipeline of the golden model, which has a UNet of its own."""
    own = fresh()
    return diffusers.AnimateDiffPipeline(**own.components)


@pytest.mark.parametrize(
    "keywords",
    [
        {"torch_dtype": "float32"},
        {"dtype": torch.float32, "torch_dtype": None},
        {"torch_dtype": {"default": torch.float32}},
        {"torch_dtype": {"default": torch.float64, "unet": "fp32", "vae": "fp32", "text_encoder": "float32"}},
        {"device_map": "cpu"},
        {"device_map": {"": torch.device("cpu")}},
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        {"use_safetensors": True, "low_cpu_mem_usage": False, "trust_remote_code": True, "variant": None},
        {"local_files_only": True, "cache_dir": "x", "revision": "main", "token": None, "force_download": False},
        {"scheduler": None, "vae": None, "image_encoder": None, "custom_pipeline": None},
        {"vae": SD / "vae", "unet": SD / "unet", "text_encoder": SD},
        {"subfolder": "sd"},
        {"family": "v2"},
    ],
)
def test_keywords_of_from_pretrained(keywords: dict[str, Any], wanted: torch.Tensor) -> None:
    folder = SD.parent if "subfolder" in keywords else SD
    keywords = {"torch_dtype": torch.float32, "motion_adapter": MODULE} | keywords
    pipe = AnimateDiffPipeline.from_pretrained(folder, **keywords)
    assert torch.equal(latents(pipe), wanted)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"torch_dtyp": torch.float32}, "unknown keyword 'torch_dtyp'; did you mean 'torch_dtype'"),
        ({"torch_dtype": {"unett": "fp16"}}, "unknown part in `torch_dtype` 'unett'; did you mean 'unet'"),
        ({"torch_dtype": "float33"}, "unknown dtype 'float33'"),
        ({"torch_dtype": 16}, "unknown dtype 16"),
        ({"device_map": "balanced"}, "`device_map`='balanced': a model is on one device here"),
        ({"device_map": {"unet": "cuda:0", "vae": "cpu"}}, "a model is on one device here"),
        ({"custom_pipeline": "lpw"}, "`custom_pipeline` cannot be used here: the code of other pipelines is not run"),
        ({"max_memory": {0: "1GB"}}, "`max_memory` cannot be used here: .*`enable_model_cpu_offload`"),
        ({"quantization_config": {"a": 1}}, "`quantization_config` cannot be used here"),
        ({"tokenizer": "here"}, "`tokenizer` is an object"),
        ({"motion_adapter": 3}, "`motion_adapter` is a int; give a file"),
        ({"motion_adapter": "nowhere.ckpt"}, "nowhere.ckpt: no such file"),
        ({"controlnet": 3}, "`controlnet` is a int; give a ControlNetModel"),
        ({"tokenizer_2": object()}, "this model has no tokenizer_2"),
        ({"use_ema": True}, "`use_ema` is about single files"),
    ],
)
def test_keywords_that_cannot_be_followed(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fresh(**keywords)


def test_every_keyword_of_diffusers_is_known(caplog: pytest.LogCaptureFixture) -> None:
    """Those that its documentation and its code name; each works, or says what to use."""
    import re

    text = diffusers.DiffusionPipeline.from_pretrained.__doc__ or ""
    named = set(re.findall(r"^\s+(\w+) \(", text, re.MULTILINE)) - {"pretrained_model_name_or_path", "kwargs"}
    assert {"device_map", "variant", "use_safetensors", "cache_dir"} <= named
    from animatediff.pipelines.keywords import Keywords

    for name in sorted(named):
        Keywords.of({name: None})
    with caplog.at_level(logging.WARNING):
        fresh(safety_checker=object(), use_safetensors=False)
    assert "`safety_checker` is left out" in caplog.text and "`use_safetensors=False` has no effect" in caplog.text


def test_pickles_are_refused_where_safetensors_are_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    fresh().base.save_pretrained(folder, safe_serialization=False)
    assert AnimateDiffPipeline.from_pretrained(folder, torch_dtype="float32").unet.dtype == torch.float32
    with pytest.raises(UserError, match=r"unet: not in safetensors, which `use_safetensors` asks for"):
        AnimateDiffPipeline.from_pretrained(folder, use_safetensors=True)


def test_parts_in_formats_of_their_own() -> None:
    pipe = fresh(torch_dtype={"default": torch.bfloat16, "vae": torch.float32, "unet": torch.float32})
    assert (pipe.vae.dtype, pipe.unet.dtype, pipe.text_encoder.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    assert latents(pipe).isfinite().all()
    assert fresh(torch_dtype={"unet": "bf16"}).vae.dtype == torch.float32, "as in diffusers"


def test_objects_take_the_place_of_parts(wanted: torch.Tensor) -> None:
    own = fresh()
    names = ("vae", "text_encoder", "tokenizer", "scheduler")
    given = {name: getattr(own, name) for name in names}
    again = fresh(**given)
    assert all(getattr(again, name) is given[name] for name in names)
    assert torch.equal(latents(again), wanted)
    unet = diffusers.UNet2DConditionModel.from_pretrained(SD / "unet", torch_dtype=torch.float32)
    replaced = fresh(unet=unet)
    assert replaced.unet is unet and torch.equal(latents(replaced), wanted)


def test_a_scheduler_that_is_given_is_kept(wanted: torch.Tensor) -> None:
    for given in (
        diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_end=0.02, steps_offset=0),
        diffusers.EulerDiscreteScheduler(beta_schedule="linear"),
    ):
        before = dict(given.config)
        pipe = fresh(scheduler=given)
        assert pipe.scheduler is given and dict(given.config) == before


@pytest.mark.parametrize("form", ["file", "module", "diffusers", "folder"])
def test_motion_modules_in_every_form(form: str, tmp_path: Path, wanted: torch.Tensor) -> None:
    own = fresh()
    attachment, family = own.attachment, own.family
    assert attachment is not None
    made: Any = own.motion_adapter
    made.save_pretrained(tmp_path / "adapter")
    forms = {
        "file": MODULE,
        "module": own.attachment.detach() if form == "module" else None,
        "diffusers": diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter"),
        "folder": tmp_path / "adapter",
    }
    pipe = fresh(motion_adapter=forms[form], **({} if form == "module" else {"family": "v2"}))
    if form == "module":
        pipe.set_motion_adapter(attachment.adapter, family)
    assert torch.equal(latents(pipe), wanted)


def test_modules_made_diffusers_are_themselves_again(wanted: torch.Tensor) -> None:
    own = fresh()
    made, family = own.motion_adapter, own.family
    assert made.config.motion_max_seq_length == 32 and made.dtype == torch.float32
    assert own.attachment is not None
    theirs, ours = made.state_dict(), own.attachment.adapter.state_dict()
    assert all(theirs[key].data_ptr() == value.data_ptr() for key, value in ours.items()), "one copy of the weights"
    pipe = fresh(motion_adapter=None)
    assert pipe.attachment is None and pipe.family is None and pipe.components["motion_adapter"] is None
    pipe.motion_adapter = made
    assert pipe.family == family and torch.equal(latents(pipe), wanted)
    pipe.motion_adapter = None
    assert pipe.attachment is None


@pytest.mark.parametrize("heads_and_groups", [(4, 16), (2, 8)])
def test_heads_and_groups_of_an_object(heads_and_groups: tuple[int, int]) -> None:
    """No tensor tells them."""
    heads, groups = heads_and_groups
    made = diffusers.MotionAdapter(
        block_out_channels=(32, 64),
        motion_layers_per_block=1,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=groups,
    )
    from animatediff.weights.motion import load_motion_module

    adapter, _ = load_motion_module(header_of(made))
    assert (adapter.layout.num_heads, adapter.layout.norm_groups) == heads_and_groups
    back = as_diffusers(adapter, None)
    assert back.config.motion_num_attention_heads == heads and back.config.motion_norm_num_groups == groups
    assert all(torch.equal(back.state_dict()[key], value) for key, value in made.state_dict().items())


def test_components_as_diffusers_takes_them(theirs: Any, wanted: torch.Tensor) -> None:
    own = fresh()
    assert set(own.components) == set(theirs.components)
    parts = {name: part for name, part in own.components.items() if name not in ("unet", "motion_adapter")}
    unet = diffusers.UNet2DConditionModel.from_pretrained(SD / "unet", torch_dtype=torch.float32)
    again = AnimateDiffPipeline(**parts, unet=unet, motion_adapter=own.motion_adapter)
    assert torch.equal(latents(again), wanted)
    whole = AnimateDiffPipeline(**theirs.components, family="v2")  # its UNet has motion modules inside
    assert type(whole.unet) is diffusers.UNet2DConditionModel
    assert torch.equal(latents(whole), wanted)
    shared = theirs.unet.state_dict()["conv_in.weight"].data_ptr()
    assert whole.unet.conv_in.weight.data_ptr() == shared, "no copy of the weights"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "vae, text_encoder, tokenizer, unet, scheduler missing, got nothing; .*from_pretrained"),
        ({"vae": 1, "unet": 2}, "text_encoder, tokenizer, scheduler missing, got vae, unet"),
    ],
)
def test_components_that_are_missing(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AnimateDiffPipeline(**arguments)


def test_what_is_no_pipeline() -> None:
    own = pipeline("v2")
    with pytest.raises(UserError, match="needs a StableDiffusionPipeline"):
        AnimateDiffPipeline(own.vae)
    with pytest.raises(UserError, match="give a whole pipeline, or components"):
        AnimateDiffPipeline(own.base, vae=own.vae)
    with pytest.raises(UserError, match="a pipeline that animates has no transformer"):
        AnimateDiffPipeline(**{**own.base.components, "transformer": own.vae})


def test_folders_of_diffusers_whole_pipelines(theirs: Any, tmp_path: Path, wanted: torch.Tensor) -> None:
    """The UNet is saved with its motion modules in it, and these beside it."""
    theirs.save_pretrained(tmp_path / "animatediff-motion-adapter-v1-5-2")
    pipe = AnimateDiffPipeline.from_pretrained(tmp_path / "animatediff-motion-adapter-v1-5-2", torch_dtype="float32")
    assert pipe.family is not None and pipe.family.name == "v2"
    assert type(pipe.scheduler) is type(theirs.scheduler)
    assert torch.equal(latents(pipe), wanted)
    still = AnimateDiffPipeline.from_pretrained(
        tmp_path / "animatediff-motion-adapter-v1-5-2", torch_dtype="float32", motion_adapter=None
    )
    assert still.attachment is None


def test_from_pipe_of_diffusers_and_back(theirs: Any, wanted: torch.Tensor) -> None:
    pipe = AnimateDiffPipeline.from_pipe(theirs, family="v2")
    assert torch.equal(latents(pipe), wanted)
    back = diffusers.AnimateDiffPipeline.from_pipe(pipe)
    state = back.unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in theirs.unet.state_dict().items())
    base = diffusers.StableDiffusionPipeline.from_pretrained(
        SD, torch_dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    animated = AnimateDiffPipeline.from_pipe(base, motion_adapter=MODULE)
    assert animated.unet is base.unet
    assert torch.equal(latents(animated), wanted)
    assert AnimateDiffPipeline.from_pipe(pipe, dtype=torch.bfloat16).unet.dtype == torch.bfloat16
    with pytest.raises(UserError, match="from_pipe: a pipeline has no part 'shceduler'"):
        AnimateDiffPipeline.from_pipe(pipe, shceduler=None)


def test_pipelines_around_one_unet(wanted: torch.Tensor) -> None:
    """Motion modules are in the UNet, so that all pipelines around it see them."""
    one = fresh(motion_adapter=None)
    two = AnimateDiffPipeline(one.base)
    three = AnimateDiffPipeline.from_pipe(one)
    assert three.base is not one.base and three.unet is one.unet
    two.load_motion_module(MODULE)
    assert one.attachment is two.attachment is three.attachment is not None
    assert one.family is three.family is two.family
    one.load_motion_module(MODULE)
    for pipe in (one, two):
        assert torch.equal(latents(pipe), wanted)
    two.unload_motion_module()
    assert one.attachment is None
    with pytest.raises(UserError, match="no motion module is loaded"):
        latents(three)


def test_settings_of_ours_go_along(wanted: torch.Tensor) -> None:
    own = fresh()
    own.set_scheduler("euler_a")
    own.enable_free_noise(4, 2)
    again = AnimateDiffPipeline.from_pipe(own)
    assert type(again.scheduler).__name__ == "EulerAncestralDiscreteScheduler" and again.free_noise_enabled
    again.disable_free_noise()
    assert own.free_noise_enabled


def test_configurations() -> None:
    assert AnimateDiffPipeline.load_config(SD)["_class_name"] == "StableDiffusionPipeline"
    assert AnimateDiffPipeline.download(SD) == str(SD)
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        AnimateDiffPipeline.load_config(SD / "unet")
    with pytest.raises(UserError, match=r"a configuration has no weights"):
        AnimateDiffPipeline.from_config({})


def test_exchanging_parts(wanted: torch.Tensor) -> None:
    own, other = fresh(), fresh(motion_adapter=None)
    own.register_modules(vae=other.vae, feature_extractor=None)
    assert own.vae is other.vae and own.base.vae is other.vae
    assert own.to(torch_device="cpu", torch_dtype="float32") is own and own.dtype == torch.float32
    assert own.device == own._execution_device == torch.device("cpu")
    with pytest.raises(UserError, match="unknown argument of `to` 'devise'; did you mean 'device'"):
        own.to(devise="cpu")
    own.unet = other.unet
    assert own.attachment is None, "another UNet has no motion modules"
    assert relative(latents(fresh()), wanted) == 0


def test_a_pipeline_that_only_encodes_prompts(tmp_path: Path) -> None:
    """As users make to keep the UNet out of memory."""
    own = fresh(motion_adapter=None)
    parts = {**dict.fromkeys(own.components), "tokenizer": own.tokenizer, "text_encoder": own.text_encoder}
    pipe = AnimateDiffPipeline(**parts)
    wanted, *_ = own.encode_prompt("a cat", "cpu", 1, False)
    assert torch.equal(pipe.encode_prompt("a cat", "cpu", 1, False)[0], wanted)
    assert pipe.attachment is None and pipe.motion_adapter is None
    for action in (lambda: pipe.load_motion_module(MODULE), lambda: pipe.load_lora_weights({})):
        with pytest.raises(UserError, match="this pipeline has no UNet"):
            action()
    with pytest.raises(UserError, match="a pipeline without unet is not saved"):
        pipe.save_pretrained(tmp_path)
