"""How strongly modules act: `motion_scale` along the clip, and several MotionLoRAs by short names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.close import relative
from support.commands import run, watched
from support.paths import GOLDEN
from support.pipelines import TINY, seeded

from animatediff.errors import UserError
from animatediff.frames import frame_curve
from animatediff.motion import MotionAdapter, MotionModule
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import build_request, load_result, parse_config
from animatediff.render.models import ModelSpec, load_model
from animatediff.render.prepare import complete
from animatediff.weights.hub import MOTION_LORAS, motion_lora_file
from animatediff.weights.lora.load import lora_names


def test_curves_are_straight_lines_between_their_frames() -> None:
    assert frame_curve(0.5, 3, "x") == [0.5] * 3
    assert frame_curve({1: 1.0, -1: 0.0}, 6, "x") == pytest.approx([1, 1, 0.75, 0.5, 0.25, 0])
    assert frame_curve({3: 2}, 5, "x") == [2.0] * 5
    assert frame_curve([1, 0, 3], 3, "x") == [1.0, 0.0, 3.0]


def test_one_is_bit_for_bit_and_zero_the_image_model(pipe: AnimateDiffPipeline) -> None:
    plain = pipe("a cat", generator=seeded(1), **TINY).frames
    for one in (1, {0: 1.0, 3: 1.0}, [1.0] * 4):
        assert torch.equal(pipe("a cat", generator=seeded(1), motion_scale=one, **TINY).frames, plain)
    still = pipe("a cat", generator=seeded(1), motion_scale=0, **TINY).frames
    image = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    image.set_motion_adapter(MotionAdapter.from_unet(image.unet), pipe.family)  # new modules add nothing
    assert torch.equal(still, image("a cat", generator=seeded(1), **TINY).frames)
    half = pipe("a cat", generator=seeded(1), motion_scale=0.5, **TINY).frames
    assert relative(half, plain) > 1e-2 and relative(half, still) > 1e-2
    assert pipe.attachment is not None and pipe.attachment.frames.scale is None


@torch.no_grad()
def test_each_frame_gets_its_share_of_what_is_added() -> None:
    torch.manual_seed(0)
    module = MotionModule(32)
    torch.nn.init.normal_(module.proj_out.weight)
    x, scale = torch.randn(8, 32, 3, 3), torch.tensor([1.0, 0.5, 0.0, 2.0])
    added = module(x, 4) - x
    assert relative(module(x, 4, scale=scale), x + added * scale.repeat(2)[:, None, None, None]) < 1e-5
    assert torch.equal(module(x, 4, scale=scale)[[2, 6]], x[[2, 6]])


@pytest.mark.parametrize("mode", ["unet", "motion"])
def test_a_curve_follows_the_frames_of_the_clip_through_windows(pipe: AnimateDiffPipeline, mode: str) -> None:
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    settings: dict[str, Any] = TINY | {"num_frames": 8, "window": 4, "overlap": 0, "long_mode": mode}
    curve = {0: 1.0, 7: 0.0}
    whole = pipe("a cat", latents=latents, motion_scale=curve, **settings).frames
    second = pipe("a cat", latents=latents[:, :, 4:], motion_scale=frame_curve(curve, 8, "x")[4:], **TINY).frames
    assert relative(whole[:, :, 4:], second) < 5e-5


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (-1, "motion_scale: -1 is no finite number of at least 0"),
        (float("nan"), "motion_scale: nan is no finite number"),
        ({0: 1.0, 4: 0.5}, "motion_scale: there is no frame 4 in a clip of 4: frames go from 0 to 3"),
        ({3: 1.0, -1: 0.5}, "motion_scale: frame 3 of 4 is given twice"),
        ([1.0, 0.5], "motion_scale: 2 values for 4 frames"),
        ({}, "motion_scale: no values"),
        ({"a": 1.0}, "motion_scale: 'a' is no frame"),
    ],
)
def test_what_is_no_curve(pipe: AnimateDiffPipeline, scale: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe("a cat", motion_scale=scale, **TINY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fast", "motion_scale='fast': 'fast' is no finite number of at least 0; expected a number, or frames"),
        ("0=1,0=2", "motion_scale='0=1,0=2': a frame is given twice"),
        ("0=1,x=2", "motion_scale='0=1,x=2': 'x' is no frame"),
        ("0=1,16=2", "motion_scale: there is no frame 16 in a clip of 16"),
    ],
)
def test_what_is_no_curve_in_a_request(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_request({"prompt": "a", "num_frames": 16, "motion_scale": text})


def test_curves_from_yaml_and_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in ("{0: 1.0, 3: 0.3}", "'0=1.0,3=0.3'"):
        assert parse_config(f"{{prompt: a, motion_scale: {text}}}")[0].motion_scale == {0: 1.0, 3: 0.3}
    assert parse_config("{prompt: a, motion_scale: 1.2}")[0].motion_scale == 1.2
    given = watched(monkeypatch)
    assert run("a fox", "--motion-scale", "0=1.0,3=0.3", "--out", "a.gif")[0] == 0
    assert given["motion_scale"] == load_result("a.gif").motion_scale == {0: 1.0, 3: 0.3}
    assert run("a fox", "--motion-scale", "0.5", "--out", "b.gif")[0] == 0
    assert given["motion_scale"] == 0.5


def test_short_names_of_motion_loras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ZoomIn", "zoom-in", "zoom in", "v2_lora_ZoomIn"):
        assert motion_lora_file(name) == "v2_lora_ZoomIn.ckpt"
    for move in MOTION_LORAS:
        assert motion_lora_file(move) == f"v2_lora_{move}.ckpt"
    for name in ("a/b", "mine.safetensors", "./ZoomIn.ckpt"):
        assert motion_lora_file(name) == name
    with pytest.raises(UserError, match=r"no MotionLoRA of this name.*did you mean 'ZoomIn'.*PanLeft"):
        motion_lora_file("ZomIn")
    folder = Path("models/MotionLoRA")
    folder.mkdir(parents=True)
    for file in ("v2_lora_PanLeft.safetensors", "orbit.ckpt"):
        (folder / file).write_bytes(b"x")
    assert motion_lora_file("PanLeft") == str(folder / "v2_lora_PanLeft.safetensors"), "what is here comes first"
    assert motion_lora_file("Orbit") == str(folder / "orbit.ckpt")


def test_several_motion_loras_by_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("models/MotionLoRA")
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "v2" / "motion_lora.ckpt", folder / "v2_lora_ZoomIn.ckpt")
    shutil.copy(GOLDEN / "v2" / "motion_lora.ckpt", folder / "pan.ckpt")
    values = {"prompt": "a", "model": str(GOLDEN / "v2" / "sd"), "dtype": "float32"}
    values["motion_module"] = str(GOLDEN / "v2" / "motion_module.ckpt")
    request = complete(
        build_request(values | {"motion_loras": [{"path": "ZoomIn", "scale": 0.25}, {"path": "pan", "scale": 0.5}]})
    )
    assert [Path(ref.path).name for ref in request.motion_loras] == ["v2_lora_ZoomIn.ckpt", "pan.ckpt"]
    both = load_model(ModelSpec.of(request))
    assert lora_names([both.unet]) == ["lora_0_v2_lora_ZoomIn", "lora_1_pan"]
    one = load_model(ModelSpec.of(complete(build_request(values))))
    assert one.load_lora_weights("ZoomIn", scale=0.75) == "motion_lora"
    frames = [pipe("a cat", generator=seeded(1), **TINY).frames for pipe in (both, one)]
    assert relative(*frames) < 5e-5, "the same one at 0.25 and at 0.5 is it at 0.75"
    arguments = ["--model", values["model"], "--motion-module", values["motion_module"]]
    code, _, err = run("a", *arguments, "--motion-lora", "PanLeft:0.5")
    assert code == 2 and "v2_lora_PanLeft.ckpt" in err and "--download" in err
