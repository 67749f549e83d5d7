"""`save_pretrained` and `from_pretrained` are there and back, to the bit; diffusers reads the folder as its own."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from support.golden import load_unet
from support.paths import GOLDEN
from support.pipelines import SMALL, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.motion import load_motion_module

QUICK = SMALL | {"num_inference_steps": 2, "output_type": "latent"}


def latents(pipe: AnimateDiffPipeline, prompt: str = "a cat", **settings: Any) -> torch.Tensor:
    return pipe(prompt, generator=seeded(1), **QUICK, **settings).frames


def golden(family: str) -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(
        GOLDEN / family / "sd", torch_dtype=torch.float32, motion_adapter=GOLDEN / family / "motion_module.ckpt"
    )


def settings_of(scheduler: Any) -> dict[str, Any]:
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}


def again(folder: Path, **keywords: Any) -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(folder, torch_dtype=torch.float32, **keywords)


@pytest.mark.parametrize(
    ("family", "sampler"), [("v1", None), ("v2", "euler_a"), ("v3", "dpmpp_2m_karras"), ("v3", "by hand")]
)
def test_there_and_back(family: str, sampler: str | None, tmp_path: Path) -> None:
    """v1's GroupNorms over frames, which diffusers does not know, among them."""
    pipe = golden(family)
    if sampler == "by hand":
        pipe.scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", steps_offset=0, clip_sample=False)
    elif sampler is not None:
        pipe.set_scheduler(sampler)
    before = settings_of(pipe.scheduler)
    pipe.save_pretrained(tmp_path / "pipe")
    found = again(tmp_path / "pipe")
    assert found.family == pipe.family
    assert type(found.scheduler) is type(pipe.scheduler) and settings_of(found.scheduler) == before
    assert (found.sampler.name, found.sampler.by_hand) == (pipe.sampler.name, pipe.sampler.by_hand)
    assert torch.equal(latents(found), latents(pipe))
    found.set_scheduler("ddim")
    pipe.set_scheduler("ddim")
    assert settings_of(found.scheduler) == settings_of(pipe.scheduler), "on the base model's own settings"


def test_modules_of_no_family(tmp_path: Path) -> None:
    pipe = golden("v1")
    assert pipe.attachment is not None
    pipe.set_motion_adapter(pipe.attachment.detach())
    assert pipe.family is None
    pipe.save_pretrained(tmp_path / "pipe")
    assert torch.equal(latents(again(tmp_path / "pipe")), latents(pipe))


def test_diffusers_reads_the_folder(tmp_path: Path) -> None:
    pipe = golden("v2")
    pipe.save_pretrained(tmp_path / "pipe", variant="fp32")
    assert (tmp_path / "pipe/unet/diffusion_pytorch_model.fp32.safetensors").is_file()
    theirs = diffusers.AnimateDiffPipeline.from_pretrained(tmp_path / "pipe", variant="fp32")
    state, image = theirs.unet.state_dict(), pipe.unet.state_dict()
    assert all(torch.equal(state[key], value) for key, value in image.items())
    assert settings_of(theirs.scheduler) == settings_of(pipe.scheduler)
    assert again(tmp_path / "pipe", variant="fp32").family == pipe.family


def test_networks_beside_it(tmp_path: Path) -> None:
    from support.controlnet_files import save_controlnet

    pipe = golden("v3")
    settings: dict[str, Any] = {"conditioning_frames": torch.rand(1, 3, 32, 32)}
    pipe.load_sparsectrl(GOLDEN / "v3" / "sparsectrl_rgb.ckpt")
    pipe.save_pretrained(tmp_path / "sparse")
    assert json.loads((tmp_path / "sparse/model_index.json").read_text())["_class_name"] == (
        "AnimateDiffSparseControlNetPipeline"
    )
    found = again(tmp_path / "sparse")
    assert torch.equal(latents(found, **settings), latents(pipe, **settings))
    theirs = diffusers.SparseControlNetModel.from_pretrained(tmp_path / "sparse/controlnet")
    assert pipe.sparsectrl is not None
    state = theirs.state_dict()
    assert all(torch.equal(state[key], value) for key, value in pipe.sparsectrl.state_dict().items())
    by_object = again(tmp_path / "sparse", controlnet=theirs)
    assert torch.equal(latents(by_object, **settings), latents(pipe, **settings))

    for number in range(2):
        net = save_controlnet(tmp_path / f"net{number}", load_unet("v3"), number, (8, 16))
        pipe.load_controlnet(net)
    pipe.save_pretrained(tmp_path / "both")
    found = again(tmp_path / "both")
    assert len(found.controlnets) == 2 and found.sparsectrl is not None
    for net, other in zip(pipe.controlnets, found.controlnets, strict=True):
        assert all(torch.equal(other.state_dict()[key], value) for key, value in net.state_dict().items())


def test_loras_are_not_saved_unless_fused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = golden("v2")
    pipe = golden("v2")
    pipe.load_lora_weights(GOLDEN / "v2" / "style_lora_kohya.safetensors", adapter_name="style")
    pipe.load_lora_weights(GOLDEN / "v2" / "motion_lora.ckpt", adapter_name="zoom")
    with caplog.at_level(logging.WARNING):
        pipe.save_pretrained(tmp_path / "plain")
    assert "LoRAs are not saved (style, zoom): load them again, or make them part" in caplog.text
    assert torch.equal(latents(again(tmp_path / "plain")), latents(plain))
    pipe.fuse_lora()
    wanted = latents(pipe)
    caplog.clear()
    pipe.save_pretrained(tmp_path / "fused")
    assert not caplog.records
    assert torch.equal(latents(again(tmp_path / "fused")), wanted)


def test_words_go_along(tmp_path: Path) -> None:
    pipe = golden("v3")
    width = pipe.text_encoder.config.hidden_size
    pipe.load_textual_inversion({"<blob>": torch.randn(2, width)}, token="<blob>")
    pipe.save_pretrained(tmp_path / "pipe")
    found = again(tmp_path / "pipe")
    assert [word.words for word in found.embeddings] == [("<blob>",)]
    assert torch.equal(latents(found, "a <blob>"), latents(pipe, "a <blob>"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"push_to_hub": True}, "nothing is uploaded here"),
        ({"varient": "fp16"}, "unknown keyword of save_pretrained 'varient'; did you mean 'variant'"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], message: str, pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        pipe.save_pretrained(tmp_path / "pipe", **settings)
    (tmp_path / "file").write_text("here")
    with pytest.raises(UserError, match="a file has this name"):
        pipe.save_pretrained(tmp_path / "file")


def test_the_module_alone_knows_its_family(tmp_path: Path) -> None:
    pipe = golden("v1")
    pipe.save_pretrained(tmp_path / "pipe")
    _, family = load_motion_module(tmp_path / "pipe" / "motion_adapter")
    assert family == pipe.family
