"""Pictures that steer, from the command line and the original's YAML to files; and one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from support.close import relative
from support.commands import run
from support.fake_pipeline import FakePipeline, loading
from support.paths import GOLDEN
from typer.testing import CliRunner

from animatediff.bundled import motion_module_path
from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.conditions import on_device
from animatediff.render import load_config, load_result, parse_config, to_original

V3 = GOLDEN / "v3"


@pytest.fixture
def place(tmp_path: Path, encoders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two pictures and the encoders."""
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a", (200, 30, 30)), ("b", (30, 30, 200))):
        picture = Image.new("RGB", (120, 90), colour)
        ImageDraw.Draw(picture).rectangle((40, 25, 80, 65), fill=(240, 240, 40))
        picture.save(f"{name}.png")
    for file in encoders.iterdir():
        (tmp_path / file.name).symlink_to(file)
    return tmp_path


SMALL = ("--num-frames", "4", "--steps", "2", "--seed", "5", "--dtype", "float32")
BOTH = ("--control-image", "a.png", "--control-image", "b.png", "--control-index", "0", "--control-index", "-1")


def test_a_clip_with_pictures_its_sheet_and_its_repeat(place: Path) -> None:
    code, out, err = run("a fox", *SMALL, "--sparsectrl", "rgb.safetensors", *BOTH, "--out", "o/fox.png")
    assert code == 0, err
    assert {p.name for p in (place / "o").iterdir()} == {"fox.png", "fox.png.json", "fox.keyframes.png"}
    assert "fox.keyframes.png" in out
    sheet = np.asarray(Image.open("o/fox.keyframes.png"))
    assert {(200, 30, 30), (30, 30, 200)} <= {tuple(pixel) for pixel in sheet.reshape(-1, 3).tolist()}
    request = json.loads((place / "o" / "fox.png.json").read_text())["request"]
    assert request["sparsectrl"] == "rgb.safetensors"
    assert (request["control_images"], request["control_indices"]) == (["a.png", "b.png"], [0, -1])
    frames = read_video("o/fox.png")[0]
    assert run("--from", "o/fox.png", "--out", "again.png")[0] == 0
    assert np.array_equal(read_video("again.png")[0], frames)
    assert run("--from", "o/fox.png", "--control-scale", "0", "--out", "plain.png")[0] == 0
    assert run("a fox", *SMALL, "--out", "without.png")[0] == 0
    assert relative(read_video("plain.png")[0], frames) > 1e-2
    assert np.array_equal(read_video("plain.png")[0], read_video("without.png")[0])


ORIGINAL = """
- controlnet_path: "models/SparseCtrl/{kind}.safetensors"
  controlnet_config: "configs/inference/sparsectrl/{config}_condition.yaml"
  controlnet_images: {images}
  controlnet_image_indexs: {indices}
  normalize_condition_images: {norm}
  H: 48
  W: 64
  L: 4
  steps: 2
  guidance_scale: 3
  seed: [1, 2]
  prompt: ["a fox", "a boat"]
  n_prompt: [""]
"""


def test_the_originals_keys_work_as_they_are(place: Path, encoders: Path) -> None:
    (place / "models" / "SparseCtrl").mkdir(parents=True)
    for kind in ("rgb", "scribble"):
        (place / "models" / "SparseCtrl" / f"{kind}.safetensors").symlink_to(encoders / f"{kind}.safetensors")
    text = ORIGINAL.format(kind="rgb", config="latent", images='"a.png"', indices="[0]", norm=False)
    text += ORIGINAL.format(kind="scribble", config="latent", images="[a.png, b.png]", indices="[0, -1]", norm=True)
    (place / "run.yaml").write_text(text)
    code, _, err = run("--config", "run.yaml")
    assert code == 0, err
    assert "is for the other kind of SparseCtrl encoder; this one is scribble" in err
    (folder,) = (place / "samples").iterdir()
    assert {p.name for p in (folder / "control_images").iterdir()} == {"0.png", "1.png", "2.png"}
    first, second = (np.asarray(Image.open(folder / "control_images" / name)) for name in ("0.png", "1.png"))
    assert first.shape == (48, 64, 3) and first[0, 0].tolist() == [200, 30, 30]
    assert set(second.reshape(-1).tolist()) >= {0, 255} and np.ptp(second, axis=-1).max() == 0, "grey, stretched"
    names = {p.name for p in (folder / "sample").glob("*.png")}
    assert names == {
        "0-a-fox.keyframes.png",
        "1-a-boat.keyframes.png",
        "2-a-fox.keyframes.png",
        "3-a-boat.keyframes.png",
    }
    written = yaml.safe_load((folder / "config.yaml").read_text())
    assert written[0]["controlnet_path"].endswith("rgb.safetensors")
    assert (written[1]["controlnet_images"], written[1]["controlnet_image_indexs"]) == (["a.png", "b.png"], [0, -1])
    again = load_config(folder / "config.yaml")
    assert [request.control_images for request in again] == [("a.png",), ("a.png", "b.png")]
    assert load_result(folder / "sample" / "2-a-fox.gif").normalize_condition_images


def test_settings_from_yaml() -> None:
    (request,) = parse_config(
        "- {prompt: a, controlnet_path: s.ckpt, controlnet_images: p.png, control_end: 0.4, control_scale: 0.8}"
    )
    assert (request.sparsectrl, request.control_images, request.control_indices) == ("s.ckpt", ("p.png",), (0,))
    assert (request.control_start, request.control_end, request.control_scale) == (0.0, 0.4, 0.8)
    assert parse_config(yaml.safe_dump([to_original(request)])) == [request]
    (request,) = parse_config(
        "- {prompt: a, controlnet_path: '', controlnet_config: x.yaml, controlnet_image_indexs: [0, 3], "
        "normalize_condition_images: true}"
    )
    assert not request.control_images and request.sparsectrl is None, "nothing without an encoder, as in the original"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("controlnet_images: p.png", "control_images are given, but no SparseCtrl encoder"),
        ("controlnet_path: s.ckpt", "a SparseCtrl encoder is given.*no images"),
        ("controlnet_path: s.ckpt\ncontrolnet_images: [p.png, q.png]", r"2 images and 1 frame index \(0\)"),
        ("controlnet_path: s.ckpt\ncontrolnet_images: p.png\ncontrolnet_image_indexs: 16\nL: 16", "no frame 16"),
        ("controlnet_path: s.ckpt\ncontrolnet_images: p.png\ncontrol_end: 1.5", "line 4.*control_end=1.5"),
        ("controlnet_path: s.ckpt\ncontrolnet_images: p.png\ncontrol_start: 0.5\ncontrol_end: 0.2", "is after"),
        (
            "controlnet_path: s.ckpt\ncontrolnet_images: p.png\ncontrol_preprocess: hed",
            "unknown control_preprocess 'hed'",
        ),
        ("controlnet_pth: s.ckpt", "did you mean 'controlnet_path'"),
    ],
)
def test_mistakes_in_yaml(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config(f"prompt: a\n{text}")


RGB = ("--sparsectrl", "rgb.safetensors")
SKETCH = ("--sparsectrl", "scribble.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*RGB, "--control-image", "none.png"], "none.png: no such file; expected an image"),
        ([*RGB, "--control-image", "text.png"], "text.png: cannot be read as an image"),
        ([*RGB, "--control-image", "a.png", "--control-index", "4"], "no frame 4 in a clip of 4"),
        ([*RGB, *BOTH[:4]], "2 images and 1 frame index"),
        ([*RGB, *BOTH[:4], "--control-index", "0", "--control-index", "-4"], "two images for frame 0"),
        ([*RGB], "no images for it"),
        (["--control-image", "a.png"], "no SparseCtrl encoder to read them"),
        ([*RGB, *BOTH, "--control-preprocess", "canny"], "makes sketches, but rgb.safetensors takes images"),
        ([*RGB, *BOTH, "--control-end", "2"], "control_end=2"),
        (["--sparsectrl", "none.ckpt", *BOTH], "none.ckpt: no such file"),
        (
            ["--sparsectrl", "v3_sd15_sparsectrl_rgb.ckpt", *BOTH],
            "models/SparseCtrl/v3_sd15_sparsectrl_rgb.ckpt, or add",
        ),
        (["--sparsectrl", str(motion_module_path()), *BOTH], "motion module, not a SparseCtrl encoder"),
        (["--motion-module", "rgb.safetensors", "--model", "bundled"], "SparseCtrl encoder, not a motion module"),
        (["--sparsectrl", str(V3 / "sparsectrl_rgb.ckpt"), *BOTH], "does not fit the base model"),
        (["--sparsectrl", "text.png", *BOTH], "text.png"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(place: Path, arguments: list[str], message: str) -> None:
    (place / "text.png").write_text("no picture")
    before = sorted(p.name for p in place.iterdir())
    code, out, err = run("a fox", *SMALL, *arguments, "--quiet")
    assert (code, out) == (2, ""), err
    lines = [line for line in err.strip().splitlines() if line.startswith("animatediff: ")]
    assert message in err and len(lines) == 1 and "Traceback" not in err
    assert sorted(p.name for p in place.iterdir()) == before


def test_pictures_of_the_wrong_kind_in_python(place: Path) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    short: dict[str, Any] = {"num_frames": 4, "num_inference_steps": 1}
    with pytest.raises(UserError, match="call load_sparsectrl"):
        pipe("a fox", conditioning_frames=Image.open("a.png"), **short)
    assert pipe.load_sparsectrl("scribble.safetensors") == "scribble"
    with pytest.raises(UserError, match=r"takes sketches \(scribble encoder\) of 3 channels, got a tensor of 4"):
        pipe("a fox", conditioning_frames=torch.randn(1, 4, 16, 16), **short)
    pipe.load_sparsectrl("rgb.safetensors")
    with pytest.raises(UserError, match="conditions must be 16 x 16"):
        pipe("a fox", conditioning_frames=torch.randn(1, 4, 8, 8), **short)
    with pytest.raises(UserError, match="1 clips want images"):
        pipe("a fox", conditioning_frames=torch.rand(2, 3, 1, 64, 64), **short)
    with pytest.raises(UserError, match="fractions of the steps"):
        pipe("a fox", conditioning_frames=Image.open("a.png"), control_start=0.9, control_end=0.1, **short)
    # longer than the encoder's positions: windows, as many as it knows
    assert pipe.sparsectrl is not None
    out = pipe("a fox", conditioning_frames=Image.open("a.png"), num_frames=34, num_inference_steps=1, output_type="pt")
    assert out.frames.shape == (1, 34, 3, 64, 64)
    latents = pipe("a fox", generator=torch.Generator().manual_seed(1), output_type="latent", **short).frames
    steered = pipe(
        ["a fox", "a fox"],
        conditioning_frames=torch.stack([torch.zeros(3, 1, 64, 64), torch.ones(3, 1, 64, 64)]),
        generator=[torch.Generator().manual_seed(1) for _ in range(2)],
        output_type="latent",
        **short,
    ).frames
    assert relative(steered[0], latents[0]) > 1e-2, "each clip has its own pictures"
    assert relative(steered[0], steered[1]) > 5e-3


def test_sketches_are_made_before_they_reach_the_encoder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Steered(FakePipeline):
        sparsectrl_kind = "scribble"

        def job(self, **arguments: Any) -> Any:
            seen.update(arguments, pictures=arguments["conditioning_frames"])
            return super().job(**arguments)

    loading(monkeypatch, lambda *_: Steered())
    arguments = ["a fox", *SKETCH, *BOTH, "--width", "64", "--height", "48", "--control-end", "0.4"]
    code, _, err = run(*arguments, "--control-preprocess", "scribble")
    assert code == 0 and "mostly bright" not in err
    assert (seen["controlnet_frame_indices"], seen["control_end"]) == ((0, -1), 0.4)
    assert seen["controlnet_conditioning_scale"] == 1.0
    for picture in seen["pictures"]:
        values = np.asarray(picture)
        assert picture.size == (64, 48) and np.ptp(values, axis=-1).max() == 0
        assert values.min() == 0 and values.max() > 200 and values.mean() < 60
    Image.new("RGB", (64, 48), (250, 250, 250)).save("paper.png")
    code, _, err = run("a fox", *SKETCH, "--control-image", "paper.png")
    assert code == 0 and "paper.png: mostly bright" in err and "--control-preprocess scribble" in err


def test_half_precision_and_an_encoder_that_is_kept_elsewhere(place: Path) -> None:
    pipe = AnimateDiffPipeline.from_bundled(torch_dtype="bfloat16")
    pipe.load_sparsectrl("scribble.safetensors")
    assert pipe.sparsectrl is not None and pipe.sparsectrl.dtype == torch.bfloat16
    short: dict[str, Any] = {"num_frames": 2, "num_inference_steps": 1, "output_type": "pt"}
    plain, steered = (
        pipe("a fox", generator=torch.Generator().manual_seed(1), conditioning_frames=picture, **short).frames
        for picture in (None, Image.open("a.png"))
    )
    assert steered.isfinite().all() and relative(steered, plain) > 1e-2
    assert pipe.to(torch.float32).sparsectrl.dtype == torch.float32
    moves: list[Any] = []
    encoder = SimpleNamespace(device="home", to=moves.append)
    with pytest.raises(KeyError), on_device([encoder], "work"):  # type: ignore[arg-type]
        raise KeyError
    assert moves == ["work", "home"], "brought back whatever happens"


def test_inspect_says_which_encoder(place: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", "scribble.safetensors", "--json"])
    facts = json.loads(result.stdout)
    assert (facts["kind"], facts["variant"], facts["dialect"]) == ("sparsectrl", "scribble", "original")
    assert facts["give_it_to"].startswith("--sparsectrl") and "white lines" in facts["settings"]["takes"]
