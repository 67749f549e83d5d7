"""Few-step weights: how they are known, and that they bring sampler, steps and guidance unless told otherwise."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from support.commands import run
from support.paths import GOLDEN
from support.weight_files import published, write_hollow

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.inspect import describe
from animatediff.weights.lora.few_steps import few_step_lora
from animatediff.weights.recognise import recognise
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors

V2 = GOLDEN / "v2"


def save_lora(path: Path, *, text: bool = False, metadata: dict[str, str] | None = None) -> Path:
    """A LoRA of one attention of the bundled and the golden models, in diffusers' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unet = load_tensors(read_header(bundled_path() / "unet" / "diffusion_pytorch_model.safetensors"))
    key = next(k for k in unet if k.endswith("attn1.to_q.weight"))
    out, inner = unet[key].shape
    stem = f"unet.{key.removesuffix('.weight')}"
    state = {f"{stem}.lora_A.weight": torch.ones(2, inner), f"{stem}.lora_B.weight": torch.ones(out, 2)}
    if text:
        layer = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
        state |= {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    save_file(state, path, metadata)
    return path


@pytest.mark.parametrize(
    ("name", "settings", "how"),
    [
        ("lcm-lora-sdv1-5.safetensors", {}, "by its name, lcm-lora-sdv1-5.safetensors, as no tensor tells"),
        ("AnimateLCM_sd15_t2v_lora.safetensors", {}, "by its name"),
        ("lcmLora15.safetensors", {}, "by its name"),
        ("lcm-lora-sdxl/pytorch_lora_weights.safetensors", {}, "by its name, lcm-lora-sdxl"),
        (
            "models--latent-consistency--lcm-lora-sdv1-5/snapshots/0ab/pytorch_lora_weights.safetensors",
            {},
            "by its name, latent-consistency/lcm-lora-sdv1-5",
        ),
        ("a.safetensors", {"metadata": {"modelspec.title": "LCM LoRA, SD 1.5"}}, "by its metadata, modelspec.title"),
        ("style.safetensors", {}, None),
        ("calcmania.safetensors", {}, None),
        ("lcm/style.safetensors", {}, None),
        ("lcm.safetensors", {"text": True}, None),
    ],
)
def test_how_an_lcm_lora_is_known(tmp_path: Path, name: str, settings: dict, how: str | None) -> None:
    path = save_lora(tmp_path / name, **settings)
    found = few_step_lora(read_header(path))
    facts = describe(path)
    if how is None:
        assert found is None and "scheduler" not in facts["settings"]
    else:
        assert found is not None and how in found.evidence
        assert facts["settings"] == {
            "rank": 2, "strength": "0.8 to 1.0", "num_inference_steps": 6, "guidance_scale": 1.5, "scheduler": "lcm",
        }  # fmt: skip
        assert how in facts["notes"][0]


def test_lightning_by_its_published_name_and_animatelcm_by_its_tensors(tmp_path: Path) -> None:
    v2 = published("mm_sd_v15_v2")
    for name, family, steps in (
        ("animatediff_lightning_2step_comfyui.safetensors", "lightning", 2),
        ("AnimateDiff-Lightning-8step.safetensors", "lightning", 8),
        ("lightning_4step.safetensors", "v2", 25),
        ("animatediff_lightning.safetensors", "v2", 25),
    ):
        write_hollow(tmp_path / name, v2)
        found = recognise(tmp_path / name)
        assert found.family is not None
        assert (found.family.name, found.family.recommended.num_inference_steps) == (family, steps)
        assert any("its name says" in line for line in found.evidence) == (family == "lightning")
    write_hollow(tmp_path / "animatediff_lightning_4step.safetensors", published("mm_sd_v15"))
    assert recognise(tmp_path / "animatediff_lightning_4step.safetensors").family.name == "v1"  # type: ignore[union-attr]
    write_hollow(tmp_path / "any.safetensors", published("mm_sd_v15_v2", positions=False))
    assert recognise(tmp_path / "any.safetensors").family.name == "animatelcm"  # type: ignore[union-attr]


def chosen(pipe: AnimateDiffPipeline) -> tuple[str, int, float]:
    return type(pipe.scheduler).__name__, pipe.defaults.num_inference_steps, pipe.defaults.guidance_scale


def test_few_step_motion_modules_set_the_pipeline_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(V2 / "sd", torch_dtype=torch.float32)
    tensors = load_tensors(read_header(V2 / "motion_module.ckpt"))
    save_tensors(tmp_path / "animatediff_lightning_4step_comfyui.safetensors", tensors)
    bare = {key: value for key, value in tensors.items() if not key.endswith(".pe")}
    save_tensors(tmp_path / "AnimateLCM_sd15_t2v.ckpt", bare)
    with caplog.at_level(logging.INFO):
        pipe.load_motion_module(tmp_path / "AnimateLCM_sd15_t2v.ckpt")
        assert chosen(pipe) == ("LCMScheduler", 6, 1.5)
        assert pipe.scheduler.config.original_inference_steps == 100
        assert "takes scheduler lcm, 6 steps, guidance 1.5, unless told otherwise" in caplog.text
        pipe.load_motion_module(tmp_path / "animatediff_lightning_4step_comfyui.safetensors")
    assert chosen(pipe) == ("EulerDiscreteScheduler", 4, 1.0)
    assert pipe.scheduler.config.timestep_spacing == "trailing"
    assert "takes scheduler euler_trailing, 4 steps, guidance 1, unless told otherwise" in caplog.text
    assert "its name says AnimateDiff-Lightning" in caplog.text
    pipe.set_scheduler("ddim")
    pipe.load_motion_module(tmp_path / "animatediff_lightning_4step_comfyui.safetensors")
    assert chosen(pipe) == ("DDIMScheduler", 4, 1.0)


def test_an_lcm_lora_sets_the_pipeline_while_it_acts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lcm = save_lora(tmp_path / "lcm-lora.safetensors")
    pipe = AnimateDiffPipeline.from_bundled()
    before = chosen(pipe)
    assert before[0] == "DDIMScheduler" and before[1] > 8
    with caplog.at_level(logging.INFO):
        name = pipe.load_lora_weights(lcm)
    assert chosen(pipe) == ("LCMScheduler", 6, 1.5)
    assert "an LCM-LoRA (by its name, lcm-lora.safetensors" in caplog.text
    assert "takes scheduler lcm, 6 steps, guidance 1.5, unless told otherwise" in caplog.text
    pipe.set_adapters([name], [0.0])
    assert chosen(pipe) == before
    pipe.set_adapters([name], [0.8])
    assert chosen(pipe) == ("LCMScheduler", 6, 1.5)
    pipe.load_motion_module(motion_module_path())  # another motion module does not undo it
    assert chosen(pipe)[0] == "LCMScheduler"
    pipe.unload_lora_weights()
    assert chosen(pipe) == before
    pipe.load_lora_weights(lcm, scale=0)
    assert chosen(pipe) == before
    pipe.unload_lora_weights()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.load_lora_weights(lcm)
    assert chosen(pipe) == ("DDIMScheduler", 6, 1.5)  # put in by hand
    pipe.set_scheduler("euler")
    assert chosen(pipe)[0] == "EulerDiscreteScheduler"


def test_an_lcm_lora_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_lora(tmp_path / "lcm-lora.safetensors")
    small = ("--lora", "lcm-lora.safetensors:0.001", "--num-frames", "2", "--width", "32", "--height", "32")
    for options, expected in (((), ("lcm", 6, 1.5)), (("--scheduler", "ddim", "--steps", "2"), ("ddim", 2, 1.5))):
        code, _, err = run("a fox", *small, *options, "--out", "a.png")
        assert code == 0 and "takes scheduler lcm, 6 steps, guidance 1.5, unless told otherwise" in err
        stored = json.loads(Path("a.png.json").read_text())["request"]
        assert (stored["scheduler"], stored["steps"], stored["guidance_scale"]) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Hyper-SDXL-8steps-CFG-lora.safetensors", ("ddim_trailing", 8, 5.0)),
        ("Hyper-SD15-1step-lora.safetensors", ("tcd", 1, 1.0)),
        ("Hyper-SD15-4steps-lora.safetensors", ("ddim_trailing", 4, 1.0)),
        ("sdxl_lightning_8step_lora.safetensors", ("euler_trailing", 8, 1.0)),
        ("sd_xl_turbo_lora_v1.safetensors", ("euler_trailing", 4, 1.0)),
        ("pcm_sd15_smallcfg_2step_converted.safetensors", ("ddim_trailing", 2, 1.0)),
        ("pcm_sdxl_normalcfg_8step_converted.safetensors", ("ddim_trailing", 8, 7.5)),
        ("pcm_sd15_lcmlike_lora_converted.safetensors", ("lcm", 4, 1.0)),
        ("TCD-SD15-LoRA/pytorch_lora_weights.safetensors", ("tcd", 4, 1.0)),
        ("dmd2_sdxl_4step_lora.safetensors", ("lcm", 4, 1.0)),
        ("flash-sdxl/pytorch_lora_weights.safetensors", ("lcm", 4, 1.0)),
        ("lightning_storm_style.safetensors", None),
        ("turbo_car.safetensors", None),
        ("flashlight.safetensors", None),
    ],
)
def test_published_few_step_loras_by_their_names(
    tmp_path: Path, name: str, expected: tuple[str, int, float] | None
) -> None:
    """Sampler, steps and guidance of their model cards."""
    facts = describe(save_lora(tmp_path / name))
    found = few_step_lora(read_header(tmp_path / name))
    if expected is None:
        assert found is None and "scheduler" not in facts["settings"]
        return
    assert found is not None and "by its name" in found.evidence
    settings = facts["settings"]
    assert (settings["scheduler"], settings["num_inference_steps"], settings["guidance_scale"]) == expected
    assert found.title in facts["notes"][0]
