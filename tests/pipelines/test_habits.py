"""Methods of diffusers' AnimateDiff pipelines on ours, and every method that README and docs name."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from support.close import relative
from support.ip_files import save_ip_adapter
from support.paths import GOLDEN, ROOT
from support.pipelines import SMALL, TINY, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline

OF_A_CALL = {
    *("clip_skip", "cross_attention_kwargs", "do_classifier_free_guidance", "guidance_scale", "interrupt"),
    "num_timesteps",
}
"""Properties that a call sets."""


@pytest.fixture(scope="module")
def own() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(
        GOLDEN / "v2" / "sd", torch_dtype=torch.float32, motion_adapter=GOLDEN / "v2" / "motion_module.ckpt"
    )


def latents(pipe: AnimateDiffPipeline, **settings: Any) -> torch.Tensor:
    return pipe("a cat", generator=seeded(1), **TINY | settings).frames


@pytest.mark.parametrize(
    "name",
    ["AnimateDiffPipeline", "AnimateDiffSDXLPipeline", "AnimateDiffControlNetPipeline", "AnimateDiffPAGPipeline"],
)
def test_every_public_name_of_diffusers_is_there(own: AnimateDiffPipeline, name: str) -> None:
    theirs = getattr(diffusers, name)
    names = {name for name in dir(theirs) if not name.startswith("_") and "pag" not in name and "sdxl" not in name}
    names -= OF_A_CALL | {
        "denoising_end",
        "prepare_image",
        "prepare_video",
        "upcast_vae",
        "guidance_rescale",
        "get_guidance_scale_embedding",
    }
    names -= {"do_perturbed_attention_guidance"}
    assert not [name for name in sorted(names) if not hasattr(own, name)]
    for method in ("from_pipe", "from_single_file", "from_pretrained", "load_config", "from_config", "download"):
        assert callable(getattr(AnimateDiffPipeline, method))


def test_free_init(own: AnimateDiffPipeline) -> None:
    plain = latents(own)
    own.enable_free_init(num_iters=2, method="gaussian", spatial_stop_frequency=0.5, temporal_stop_frequency=0.4)
    assert own.free_init_enabled
    wanted = {"freeinit": 2, "freeinit_filter": "gaussian", "freeinit_ds": 0.5, "freeinit_dt": 0.4}
    found = latents(own)
    assert torch.equal(latents(own, freeinit=1), plain), "an argument of the call comes first"
    own.disable_free_init()
    assert not own.free_init_enabled
    assert torch.equal(found, latents(own, **wanted)) and torch.equal(latents(own), plain)
    with pytest.raises(UserError, match="freeinit"):
        own.enable_free_init(num_iters=0)
    with pytest.raises(UserError, match="unknown freeinit_filter 'gausian'; did you mean 'gaussian'"):
        own.enable_free_init(method="gausian")
    assert not own.free_init_enabled


def test_free_noise(own: AnimateDiffPipeline, caplog: pytest.LogCaptureFixture) -> None:
    long = {"num_frames": 8}
    own.enable_free_noise(context_length=4, context_stride=2, weighting_scheme="flat")
    assert own.free_noise_enabled
    found = latents(own, **long)
    with caplog.at_level(logging.WARNING):
        own.enable_free_noise_split_inference(spatial_split_size=16, temporal_split_size=4)
    assert "enable_free_noise_split_inference has no effect" in caplog.text
    assert torch.equal(latents(own, **long), found)
    own.disable_free_noise()
    wanted = {"window": 4, "overlap": 2, "blend": "flat", "noise": "freenoise", "long_mode": "motion"}
    assert torch.equal(found, latents(own, **long, **wanted))
    assert not own.free_noise_enabled and not own.call_settings
    own.enable_free_noise(context_length=None, context_stride=8, noise_type="random")
    assert own.call_settings["window"] == 32 and own.call_settings["overlap"] == 24
    own.disable_free_noise()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weighting_scheme": "pyramd"}, "unknown weighting_scheme 'pyramd'; did you mean 'pyramid'"),
        (
            {"noise_type": "repeat_context"},
            r"unknown noise_type 'repeat_context'; .* known are shuffle_context, random",
        ),
        ({"context_stride": 17}, r"`context_stride` is 1 to `context_length` \(16\), got 17"),
        ({"context_stride": 0}, "`context_stride` is 1 to"),
        ({"prompt_interpolation_callback": print}, "give a `PromptTravel`"),
    ],
)
def test_what_free_noise_is_not(own: AnimateDiffPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        own.enable_free_noise(**settings)
    assert not own.free_noise_enabled


def test_savings_of_memory(own: AnimateDiffPipeline) -> None:
    """All of them change rounding at most."""
    settings = {**SMALL, "num_inference_steps": 1}
    wanted = own("a cat", generator=seeded(1), **settings).frames
    for enable, disable in (
        ("enable_vae_slicing", "disable_vae_slicing"),
        ("enable_vae_tiling", "disable_vae_tiling"),
        ("enable_attention_slicing", "disable_attention_slicing"),
        ("fuse_qkv_projections", "unfuse_qkv_projections"),
    ):
        getattr(own, enable)()
        assert relative(own("a cat", generator=seeded(1), **settings).frames, wanted) < 1e-5, enable
        getattr(own, disable)()
    processors = own.unet.attn_processors
    own.unet.set_attn_processor(AttnProcessor())
    assert relative(own("a cat", generator=seeded(1), **settings).frames, wanted) < 1e-5
    own.unet.set_attn_processor(processors)
    own.vae.enable_slicing()
    assert own.vae.use_slicing
    own.disable_vae_slicing()
    assert not own.vae.use_slicing and not own.vae.use_tiling


def test_free_u(own: AnimateDiffPipeline) -> None:
    """Of factors 1 nothing changes but rounding."""
    plain = latents(own)
    own.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    assert relative(latents(own), plain) > 1e-3
    own.enable_freeu(s1=1.0, s2=1.0, b1=1.0, b2=1.0)
    assert relative(latents(own), plain) < 1e-5
    own.disable_freeu()
    assert torch.equal(latents(own), plain)


def test_group_offload(own: AnimateDiffPipeline) -> None:
    """Layers that are moved to the device one by one, the CPU in place of a GPU, give the same frames."""
    pipe = AnimateDiffPipeline.from_pretrained(
        GOLDEN / "v2" / "sd", torch_dtype=torch.float32, motion_adapter=GOLDEN / "v2" / "motion_module.ckpt"
    )
    pipe.enable_group_offload(onload_device="cpu", offload_type="leaf_level")
    assert torch.equal(latents(pipe), latents(own))


def test_others(own: AnimateDiffPipeline) -> None:
    own.set_progress_bar_config(disable=True)
    own.maybe_free_model_hooks()
    own.remove_all_hooks()
    assert {"vae", "unet", "scheduler"} <= set(own.config)
    for method in ("enable_model_cpu_offload", "enable_sequential_cpu_offload"):
        if not torch.cuda.is_available():
            with pytest.raises(UserError, match=f"{method} cannot be used here .* on the CPU leave it out"):
                getattr(own, method)()
    with pytest.raises(UserError, match=r"xformers cannot be used here .* leave the call out"):
        own.enable_xformers_memory_efficient_attention()


def test_ip_adapters_by_diffusers_call(tmp_path: Path) -> None:
    from PIL import Image

    pipe = AnimateDiffPipeline.from_pretrained(
        GOLDEN / "v2" / "sd", torch_dtype=torch.float32, motion_adapter=GOLDEN / "v2" / "motion_module.ckpt"
    )
    with pytest.raises(UserError, match="no IP-Adapter is loaded"):
        pipe.set_ip_adapter_scale(0.5)
    bare = diffusers.UNet2DConditionModel.from_pretrained(GOLDEN / "v2" / "sd" / "unet")
    file = save_ip_adapter(tmp_path, bare)
    image = Image.new("RGB", (32, 32), (200, 10, 10))
    plain = latents(pipe)
    pipe.load_ip_adapter_file(file)
    wanted = latents(pipe, ip_adapter_image=image)
    assert relative(wanted, plain) > 1e-4
    pipe.unload_ip_adapter()
    pipe.load_ip_adapter(str(tmp_path), subfolder="models", weight_name=file.name)
    assert torch.equal(latents(pipe, ip_adapter_image=image), wanted)
    pipe.set_ip_adapter_scale([0.0])
    assert relative(latents(pipe, ip_adapter_image=image), plain) < 1e-5
    with pytest.raises(UserError, match="the strength of an IP-Adapter cannot be"):
        pipe.set_ip_adapter_scale([0.1, 0.2, 0.3])
    pipe.unload_ip_adapter()
    with pytest.raises(UserError, match="`weight_name` names the file"):
        pipe.load_ip_adapter(str(tmp_path), subfolder="models")
    with pytest.raises(UserError, match="cannot be loaded as an IP-Adapter"):
        pipe.load_ip_adapter(str(tmp_path), subfolder="models", weight_name="none.bin", local_files_only=True)
    assert torch.equal(latents(pipe), plain)


def test_words_by_diffusers_call(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v2" / "sd", torch_dtype=torch.float32)
    width = pipe.text_encoder.config.hidden_size
    save_file({"emb_params": torch.randn(1, width)}, tmp_path / "one.safetensors")
    assert pipe.load_textual_inversion(tmp_path, weight_name="one.safetensors", token="<one>") == "<one>"
    listed = [{"<two>": torch.randn(1, width)}, torch.randn(width)]
    assert pipe.load_textual_inversion(listed, token=["<two>", "<three>"]) == "<two> <three>"
    alone = {"text_encoder": pipe.text_encoder, "tokenizer": pipe.tokenizer}
    assert pipe.load_textual_inversion(torch.randn(2, width), "<four>", **alone) == "<four>"
    assert len(pipe.tokenizer("<one> <two> <three> <four>").input_ids) == 6
    for settings, message in (
        ({"path": listed, "token": "<five>"}, "2 embeddings want 2 words"),
        ({"path": listed[0], "token": ["<a>", "<b>"]}, "one embedding has one word"),
        ({"path": listed[1], "token": "<six>", "text_encoder": pipe.text_encoder, "tokenizer": None}, None),
        ({"path": tmp_path, "wait_name": "x"}, "unknown keyword of load_textual_inversion 'wait_name'"),
    ):
        if message is None:
            pipe.load_textual_inversion(**settings)
        else:
            with pytest.raises(UserError, match=message):
                pipe.load_textual_inversion(**settings)


def test_every_method_that_the_docs_name_is_there_and_is_tested(own: AnimateDiffPipeline) -> None:
    texts = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    texts.remove(ROOT / "docs" / "http.md")  # its names in backquotes are fields of requests
    texts.remove(ROOT / "docs" / "comfyui.md")  # and here inputs of nodes
    named = {
        name
        for text in texts
        for pattern in (
            r"\bpipe\.([a-z_]+)\(",
            r"\bAnimateDiffPipeline\.([a-z_]+)\(",
            r"`(enable_\w+|load_\w+|save_\w+)`",
        )
        for name in re.findall(pattern, text.read_text("utf-8"))
    }
    assert {"load_motion_module", "enable_vae_slicing", "save_pretrained"} <= named
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    for name in sorted(named):
        if hasattr(own, name) or hasattr(AnimateDiffPipeline, name):
            assert re.search(rf'\.{name}\(|"{name}"', tests), f"{name} is named by the docs and called by no test"
    missing = sorted(name for name in named if not hasattr(own, name))
    assert not missing, f"named by the docs, and not there: {missing}"
