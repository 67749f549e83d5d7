"""The extension in Forge, the program that Forge Neo descends from: FORGE2_ROOT is its checkout, FORGE2_PYTHON its Python.

Both have the same patcher of the UNet (`backend/patcher/unet.py`), and so the same backend of ours, `backends/neo.py`.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline
from einops import rearrange
from support.forge_files import forge_models, save_forge_checkpoint
from support.golden import motion_file
from support.http_server import eventually
from support.tiny_models import save_motion, save_motion_lora
from support.webui_host import Drawn, WebUIHost, host_folders, with_motion
from torch import Tensor, nn
from transformers import CLIPTokenizer

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel

TOLERANCE = 1e-4
FRAMES, STEPS, SCALE = 4, 4, 7.5  # 4 steps of 1000 are whole ones
PROMPT, NEGATIVE = "a red fox moving", "blurry ball"
CALL: dict[str, Any] = {
    "prompt": PROMPT, "negative_prompt": NEGATIVE, "seed": 5, "steps": STEPS, "cfg_scale": SCALE, "width": 64, "height": 64,
    "batch_size": FRAMES, "sampler_name": "Euler", "scheduler": "Automatic",
}  # fmt: skip
MOTION: dict[str, Any] = {"model": "small_v3.safetensors", "format": ["Frame"], "video_length": FRAMES}
OPTIONS = ("--always-cpu", "--all-in-fp32", "--attention-pytorch")


@pytest.fixture(scope="module")
def parts() -> dict[str, nn.Module]:
    """The models, for our pipeline."""
    return forge_models()


@pytest.fixture(scope="module")
def data(parts: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The host's folder of data, with models in it."""
    host_folders("FORGE2")
    data = tmp_path_factory.mktemp("forge2")
    models = data / "models"
    for name in ("Stable-diffusion", "animatediff", "Lora"):
        (models / name).mkdir(parents=True)
    save_forge_checkpoint(models / "Stable-diffusion" / "small.safetensors", parts)
    torch.manual_seed(3)
    for family in ("v1", "v2", "v3"):
        adapter = save_motion(models / "animatediff" / f"small_{family}.safetensors", parts["unet"], family)  # pyright: ignore
    save_motion_lora(models / "Lora" / "pan.safetensors", adapter)
    shutil.copy(motion_file("hotshot"), models / "animatediff" / "other.safetensors")
    return data


@pytest.fixture(scope="module")
def host(data: Path) -> Iterator[WebUIHost]:
    """The host, with our extension."""
    root, python = host_folders("FORGE2")
    with WebUIHost(root, python, data, OPTIONS) as host:
        yield host


@pytest.fixture(scope="module")
def plain(host: WebUIHost) -> Drawn:
    """The images without motion modules."""
    return host.draw(**CALL)


def ours(
    parts: dict[str, nn.Module],
    drawn: Drawn,
    motion: Path | None = None,
    lora: tuple[Path, float] | None = None,
    **call: Any,
) -> Tensor:
    """Frames (f, 3, h, w) in [0, 1] of our pipeline, that begin with the noise of those drawn."""
    root, _ = host_folders("FORGE2")
    tokenizer = CLIPTokenizer.from_pretrained(root / "backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer")
    models = {**parts, "unet": copy.deepcopy(parts["unet"])}
    settings: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": SCALE,
        "height": 64, "width": 64, "output_type": "pt",
    } | call  # fmt: skip
    if motion is None:
        pipe = StableDiffusionPipeline(
            **models, tokenizer=tokenizer, scheduler=euler("scaled_linear"), safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
        settings |= {name: [settings[name]] * len(drawn.noise) for name in ("prompt", "negative_prompt")}
        return pipe(latents=drawn.noise, **settings).images
    pipe = AnimateDiffPipeline(**models, tokenizer=tokenizer, scheduler=euler("linear"), motion_adapter=motion)
    if lora is not None:
        pipe.load_lora_weights(lora[0], scale=lora[1])
    latents = rearrange(drawn.noise, "f c h w -> 1 c f h w")
    return pipe(num_frames=len(drawn.noise), latents=latents, **settings).frames[0]


def euler(betas: str) -> EulerDiscreteScheduler:
    """The host's sampler "Euler"."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule=betas, timestep_spacing="linspace", steps_offset=1
    )


def assert_equal(drawn: Drawn, wanted: Tensor) -> None:
    """Whether the frames are those wanted."""
    difference = (drawn.frames - wanted).abs().max().item()
    assert difference <= TOLERANCE, f"frames differ by {difference:.2e}"


def assert_clean(host: WebUIHost, plain: Drawn) -> None:
    """Whether the host draws without motion modules what it drew before, to the bit."""
    assert torch.equal(host.draw(**CALL).frames, plain.frames)


def test_without_it_the_images_are_those_of_diffusers(
    host: WebUIHost, plain: Drawn, parts: dict[str, nn.Module]
) -> None:
    assert_equal(plain, ours(parts, plain))
    assert_clean(host, plain)


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
def test_frames_are_those_of_our_pipeline(
    host: WebUIHost, plain: Drawn, data: Path, parts: dict[str, nn.Module], family: str
) -> None:
    name = f"small_{family}.safetensors"
    drawn = host.draw(MOTION | {"model": name}, **CALL | {"batch_size": 1})
    assert torch.equal(drawn.noise, plain.noise) and len(drawn.files) == FRAMES
    assert (drawn.frames - plain.frames).abs().max() > 0.05
    assert_equal(drawn, ours(parts, drawn, data / "models/animatediff" / name))
    assert_clean(host, plain)


def test_guidance_scale_1_sends_one_conditioning(host: WebUIHost, data: Path, parts: dict[str, nn.Module]) -> None:
    drawn = host.draw(MOTION, **CALL | {"batch_size": 1, "cfg_scale": 1})
    assert_equal(drawn, ours(parts, drawn, data / "models/animatediff/small_v3.safetensors", guidance_scale=1.0))


def test_motion_lora_in_the_prompt(host: WebUIHost, plain: Drawn, data: Path, parts: dict[str, nn.Module]) -> None:
    motion = data / "models/animatediff/small_v3.safetensors"
    drawn = host.draw(MOTION, **CALL | {"batch_size": 1, "prompt": f"{PROMPT} <lora:pan:0.5>"})
    assert_equal(drawn, ours(parts, drawn, motion, lora=(data / "models/Lora/pan.safetensors", 0.5)))
    assert (drawn.frames - ours(parts, drawn, motion)).abs().max() > 0.01
    assert_clean(host, plain)


def test_prompt_travel_and_windows(host: WebUIHost, data: Path, parts: dict[str, nn.Module]) -> None:
    travel = f"{PROMPT}\n0: spring\n5: winter\noil painting"
    settings = MOTION | {"video_length": 6, "batch_size": 4, "overlap": 2, "closed_loop": "N"}
    drawn = host.draw(settings, **CALL | {"batch_size": 1, "prompt": travel})
    wanted = ours(
        parts, drawn, data / "models/animatediff/small_v3.safetensors", window=4, overlap=2,
        prompt=PromptTravel({0: "spring", 5: "winter"}, head=PROMPT, tail="oil painting", hold=0.0),
    )  # fmt: skip
    assert len(wanted) == 6
    assert_equal(drawn, wanted)


def test_second_pass_of_hires_fix_is_a_clip_too(host: WebUIHost, plain: Drawn) -> None:
    hires = {
        "enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7, "hr_cfg": SCALE, "steps": 2,
        "hr_additional_modules": ["Use same choices"],
    }  # fmt: skip
    drawn = host.draw(MOTION, **CALL | {"batch_size": 1} | hires)
    images = host.draw(**CALL | hires)
    assert drawn.frames.shape == images.frames.shape == (FRAMES, 3, 128, 128)
    assert (drawn.frames - images.frames).abs().max() > 0.05
    assert_clean(host, plain)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "nothing.safetensors"}, ("nothing.safetensors", "small_v3.safetensors")),
        ({"model": "other.safetensors"}, ("SDXL", "SD 1.x")),
        ({"video_length": 1}, ("at least 2 frames",)),
        ({"video_length": -3}, ("Number of frames (video_length)", "from 0 to 4096", "-3")),
        ({"fsp": 8}, ("fsp", "fps")),
        ({"batch_size": 4, "overlap": 4, "video_length": 8}, ("Overlap (overlap)", "windows have 4")),
    ],
)
def test_bad_input_is_told(host: WebUIHost, plain: Drawn, settings: dict[str, Any], words: tuple[str, ...]) -> None:
    reply = host.post("txt2img", with_motion(CALL | {"batch_size": 1}, MOTION | settings))
    assert reply.status_code == 422, reply.text[:2000]
    assert all(word in reply.json()["detail"] for word in words), reply.text
    assert_clean(host, plain)


def test_an_error_in_the_middle_leaves_the_host_clean(host: WebUIHost, plain: Drawn) -> None:
    host.fail_next()
    reply = host.post("txt2img", with_motion(CALL | {"batch_size": 1}, MOTION))
    assert reply.status_code == 500 and "broken in the middle" in reply.text
    assert_clean(host, plain)


def test_an_interrupt_leaves_the_host_clean(host: WebUIHost, plain: Drawn) -> None:
    call = with_motion(CALL | {"batch_size": 1, "steps": 100}, MOTION)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(host.post, "txt2img", call)
        eventually(lambda: host.get("progress")["state"]["sampling_step"], lambda step: step >= 1)
        host.post("interrupt", {})
        assert running.result().status_code == 200
    assert host.get("progress")["state"]["job_count"] == 0
    assert_clean(host, plain)
