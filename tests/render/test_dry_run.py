"""Everything that a request alone tells is refused before the first model is loaded, and the first run rendered."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import run
from support.fake_pipeline import loading
from support.paths import GOLDEN

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import OneFile, Renderer, RunFolder, build_request
from animatediff.render.derived import warn_of_contradictions
from animatediff.render.dry_run import dry_model
from animatediff.render.inputs import Inputs, look_into
from animatediff.render.models import ModelSpec, load_model
from animatediff.weights.families import FAMILIES
from animatediff.weights.lora.few_steps import LCM

V2, V3, SDXL = GOLDEN / "v2", GOLDEN / "v3", GOLDEN / "sdxl"
GOOD: dict[str, Any] = {"prompt": "a fox", "seed": 1, "num_frames": 2, "steps": 1, "width": 32, "height": 32}
OF_V3 = {"model": str(V3 / "sd"), "motion_module": str(V3 / "motion_module.ckpt")}


def unloadable(*_: Any) -> Any:
    raise AssertionError("a model was loaded")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("0000", 10), ("0001", 90), ("0020", 200)):
        Path("frames").mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (colour, 40, 40)).save(f"frames/{name}.png")
    Path("broken.yaml").write_text("a: [")
    return tmp_path


def refused(**settings: Any) -> str:
    """The message with which the second of two runs is refused, before a model is loaded."""
    with pytest.raises(UserError) as refusal:
        Renderer(load=unloadable).prepare([build_request(GOOD), build_request({"prompt": "a fox", **settings})])
    return str(refusal.value)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "module": ({**OF_V3, "motion_module": str(V2 / "motion_module.ckpt")}, "does not fit the base model"),
    "module of the bundled model": (
        {"model": "bundled", "motion_module": str(V2 / "motion_module.ckpt")},
        "the small one that ships.*leave `motion_module` out",
    ),
    "overlap": ({"num_frames": 40, "overlap": 16}, "overlap must be at least 0 and less than the window of 16 frames"),
    "overlap by what the model recommends": ({"overlap": 16}, "less than the window of 16 frames, got 16"),
    "window": ({"window": 33}, "window must be 1 to 32 frames"),
    "text": ({"prompt_travel": {"16": "a boat"}}, "frame 16 is to show 'a boat'"),
    "keyframe": ({"keyframes": {16: "frames/0000.png"}}, "no frame 16 in a clip of 16"),
    "motion scale": ({"motion_scale": {0: 1, 16: 0.5}}, "no frame 16 in a clip of 16"),
    "clip skip": ({"clip_skip": 20}, "clip_skip must be 0 to"),
    "steps": ({"scheduler": "lcm", "steps": 300}, "num_inference_steps=300: not with LCMScheduler"),
    "sampler": ({"scheduler": "EDMEulerScheduler"}, "trained on EDM noise levels"),
    "strength": (
        {"video": "frames", "num_frames": 2, "strength": 0.1, "steps": 4}, "strength=0.1 of 4 steps is not one whole",
    ),
    "strength by default": ({"video": "frames", "num_frames": 2, "steps": 1}, "strength=0.6 of 1 steps"),
    "upscale": ({"upscale": 2, "upscale_strength": 0.1, "steps": 4}, "upscale_strength=0.1 of 4 steps"),
    "text encoder": (
        {**OF_V3, "text_encoder": "bundled"}, "takes prompt embeddings of width 32, and .* makes 128",
    ),
    "second text encoder": ({**OF_V3, "text_encoder_2": str(V3 / "sd")}, "this model has no text_encoder_2"),
    "LoRA": (
        {"loras": str(V3 / "style_lora_kohya.safetensors")}, "style_lora_kohya.safetensors.*another base model",
    ),
    "MotionLoRA": ({"motion_loras": str(V2 / "motion_lora.ckpt")}, "motion_lora.ckpt"),
    "configuration": ({"inference_config": "broken.yaml"}, "broken.yaml.*not valid YAML"),
    "images at frames": (
        {"video": "frames", "video_by_number": True, "num_frames": 2, "steps": 4, "overlap": 9}, "overlap must be",
    ),
    "prompts": ({"prompt": {0: "a", 40: "b"}, "num_frames": None}, "frame 40 is to show"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_refused_before_loading(name: str) -> None:
    from animatediff.bundled import bundled_path

    settings, message = CASES[name]
    if settings.get("text_encoder") == "bundled":
        settings = {**settings, "text_encoder": str(bundled_path() / "text_encoder")}
    assert re.search(message, refused(**settings).replace("\n", " "))


def test_encoders_of_another_model(encoders: Path) -> None:
    rgb = str(encoders / "rgb.safetensors")
    assert "does not fit the base model" in refused(**OF_V3, sparsectrl=rgb, image="frames/0000.png")
    shown = {"sparsectrl": rgb, "control_images": ["frames/0000.png"], "control_indices": [16]}
    assert "no frame 16 in a clip of 16" in refused(**shown)


def test_images_of_controlnets(tmp_path: Path) -> None:
    from diffusers import ControlNetModel, UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(V3 / "sd", subfolder="unet")
    ControlNetModel.from_unet(unet).save_pretrained("net")  # pyright: ignore[reportArgumentType]
    Path("late").mkdir()
    Path("frames/0020.png").rename("late/0020.png")
    net = {**OF_V3, "controlnet": "net", "controlnet_spread": [[0.5]]}
    assert "late: its first image is for frame 20, but the clip has 16" in refused(**net, controlnet_video="late")
    other = {"model": "bundled", "controlnet": "net", "controlnet_video": "frames", "controlnet_spread": [[0.5]]}
    assert "another base model" in refused(**other, num_frames=2)
    Path("frames/0001.png").write_bytes(Path("frames/0001.png").read_bytes()[:60])
    assert "damaged or cut off" in refused(**net, controlnet_video="frames", num_frames=2)
    assert "frames/0001.png" in refused(video="frames", video_by_number=True, num_frames=2, steps=4)


def test_sound_in_a_format_without() -> None:
    request = build_request(GOOD).model_copy(update={"audio": True})
    for to in (RunFolder("run"), OneFile("a.gif")):
        with pytest.raises(UserError, match=r"\.gif: holds no sound"):
            Renderer(load=unloadable).render([request], to)


def test_a_file_of_runs_is_judged_before_its_first_run_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    loading(monkeypatch, unloadable)
    run_of = "- {{model: {0}, motion_module: {1}, prompt: a, seed: 1, steps: 1}}\n".format
    Path("late.yaml").write_text(
        run_of(V3 / "sd", V3 / "motion_module.ckpt") + run_of(V3 / "sd", V2 / "motion_module.ckpt")
    )
    code, out, err = run("--config", "late.yaml", "--num-frames", "2", "--width", "64", "--height", "64")
    assert (code, out) == (2, "") and len(err.strip().splitlines()) == 1
    assert "motion_module.ckpt: does not fit the base model" in err
    assert not Path("samples").exists()


def test_a_bundled_module_takes_the_bundled_model() -> None:
    renderer = Renderer(load=unloadable)
    (request,) = renderer.prepare([build_request({**GOOD, "motion_module": "bundled"})])
    assert (request.model, request.motion_module) == ("bundled", None)
    (neon,) = renderer.prepare([build_request({**GOOD, "motion_module": "bundled", "model": "bundled/neon"})])
    assert neon.motion_module is not None and neon.motion_module.endswith("motion_module.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        OF_V3,
        {**OF_V3, "loras": str(V3 / "style_lora_kohya.safetensors"), "scheduler": "euler_a"},
        {"model": "bundled/neon"},
    ],
    ids=("bundled", "v3", "v3 with a LoRA", "neon"),
)
def test_a_dry_model_recommends_what_the_loaded_one_does(settings: dict[str, Any]) -> None:
    (request,) = Renderer(load=unloadable).prepare([build_request({"prompt": "a", **settings})])
    spec = ModelSpec.of(request)
    dry, loaded = dry_model(spec.settings), load_model(spec)
    assert dry is not None
    assert (dry.defaults, dry.recommended, type(dry.scheduler)) == (
        loaded.defaults, loaded.recommended, type(loaded.scheduler),
    )  # fmt: skip
    assert dict(dry.scheduler.config) == dict(loaded.scheduler.config)
    assert dry.unet.device.type == "meta" and not dict(loaded.unet.named_parameters())["conv_in.weight"].is_meta
    shapes: Callable[[Any], Any] = lambda pipe: {k: v.shape for k, v in pipe.vae.state_dict().items()}  # noqa: E731
    assert shapes(dry) == shapes(loaded)


def said(caplog: pytest.LogCaptureFixture, **settings: Any) -> list[str]:
    caplog.clear()
    Renderer(load=unloadable).prepare([build_request(GOOD | settings)])
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_inputs_that_disagree_are_said(caplog: pytest.LogCaptureFixture) -> None:
    for name, size in (("wide", (64, 32)), ("wider", (129, 64)), ("tall", (32, 64))):
        Image.new("RGB", size).save(f"{name}.png")
    ends = {"width": None, "height": None, "image": "wide.png"}
    assert said(caplog, **ends, last_image="wider.png") == []
    (line,) = said(caplog, **ends, last_image="tall.png")
    assert line.startswith("the image of frame -1 is 32 x 64, but the image of frame 0 is 64 x 32")
    (line,) = said(caplog, **ends, video="frames", steps=4)
    assert line.startswith("the image of frame 0 is 64 x 32, but `video` is 32 x 32: the clip has the shape of `video`")
    assert said(caplog, **ends | {"width": 32, "height": 32}, video="frames", steps=4) == []


def test_rates_that_disagree_are_said(caplog: pytest.LogCaptureFixture) -> None:
    from animatediff.media import write_video

    for name, fps in (("slow", 8), ("fast", 12)):
        write_video(np.zeros((4, 32, 32, 3), np.uint8), f"{name}.mp4", fps=fps)
    inputs = look_into(build_request(GOOD | {"video": "slow.mp4"}))
    inputs.controlnet_videos = [look_into(build_request(GOOD | {"video": "fast.mp4"})).video]  # pyright: ignore
    warn_of_contradictions(build_request(GOOD), inputs, None)
    (line,) = caplog.messages
    assert line.startswith("`controlnet_video` has 12 frames a second, but `video` has 8")


def test_few_step_weights_that_disagree_are_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe: Any = AnimateDiffPipeline.from_bundled()
    pipe.sampler.few_steps["lcm"] = LCM
    call = {"prompt": "a", "scheduler": "euler"}
    warn_of_contradictions(build_request(call), Inputs(), pipe)
    (line,) = caplog.messages
    assert line.startswith("`scheduler` is euler, but lcm was made for scheduler lcm, 6 steps, guidance 1.5")
    caplog.clear()
    for more in ({"steps": 20, "guidance_scale": 5}, {"scheduler": "lcm"}):
        warn_of_contradictions(build_request(call | more), Inputs(), pipe)
    assert caplog.messages == []
    pipe.attachment.adapter.family = FAMILIES["lightning"]
    warn_of_contradictions(build_request({"prompt": "a"}), Inputs(), pipe)
    (line,) = caplog.messages
    assert "the motion module (AnimateDiff-Lightning) takes scheduler euler_trailing, 4 steps" in line
    assert "but lcm scheduler lcm, 6 steps, guidance 1.5: the latter counts" in line


def test_a_dry_run_says_nothing_and_changes_no_frame(caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    request = build_request({**GOOD, "negative_prompt": "blurry", "guidance_scale": 1})
    (clip,) = [clip.array() for clip in Renderer.of(pipe).clips([request])]
    assert sum("`negative_prompt` has no effect" in line for line in caplog.messages) == 1
    direct = pipe("a fox", num_frames=2, num_inference_steps=1, width=32, height=32, guidance_scale=1.0,
                  generator=torch.Generator().manual_seed(1), output_type="np").frames  # fmt: skip
    assert np.array_equal(clip, np.round(np.asarray(direct)[0] * 255).astype(np.uint8))
