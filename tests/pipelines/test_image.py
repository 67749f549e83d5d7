"""Animate a picture: the route that the files at hand allow, the frames it shows, and one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from support.close import relative
from support.commands import is_one_message, run
from support.fake_pipeline import FakePipeline, loading
from support.images import BLUE, RED, colour, through_the_vae
from support.ip_files import save_ip_adapter
from support.paths import GOLDEN
from support.pipelines import pipeline, seeded

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.pipelines.conditions.routes import Loaded, choose_route
from animatediff.render import build_request, load_config, load_result
from animatediff.sampling.keep_frames import between, keep_fractions
from animatediff.weights.sparsectrl import find_rgb_encoder

SHORT: dict[str, Any] = {"num_inference_steps": 4, "height": 32, "width": 32, "output_type": "pt"}


# -- by way of latents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpmpp_2m_karras", "heun", "pndm"])
def test_the_clip_shows_its_pictures_exactly_and_the_other_frames_are_its_own(scheduler: str) -> None:
    pipe = pipeline("v3")
    pipe.set_scheduler(scheduler)
    try:
        settings = {**SHORT, "num_frames": 5, "guidance_scale": 1.0}
        clip = pipe("a cat", images={0: RED, -1: BLUE}, generator=seeded(1), **settings).frames[0]
        plain = pipe("a cat", generator=seeded(1), **settings).frames[0]
    finally:
        pipe.set_scheduler("ddim")
    for frame, picture in ((0, RED), (4, BLUE)):
        assert relative(clip[frame], through_the_vae(pipe, picture)) < 1e-5
        assert relative(plain[frame], clip[frame]) > 0.1
    assert clip.isfinite().all()
    for frame in range(1, 4):
        assert relative(clip[frame], clip[0]) > 0.1, "no frame is a copy"
        assert relative(clip[frame], plain[frame]) > 5e-3, "all know of the pictures"


def test_how_long_frames_are_held_and_what_to() -> None:
    shares = keep_fractions(20, [0, 19])
    assert shares[0] == shares[-1] == 1.0 and shares == shares[::-1]
    assert 1 > shares[1] > shares[2] > shares[5] > 0 and shares[9] == shares[10] == 0
    latents = torch.tensor([10.0, 0.0, 4.0]).reshape(1, 1, 3, 1, 1)  # at frames 4, 0 and 6
    assert between(latents, [4, 0, 6], 9).flatten().tolist() == [0.0, 2.5, 5.0, 7.5, 10.0, 7.0, 4.0, 4.0, 4.0]


def test_pictures_go_with_a_video_with_windows_and_with_several_clips() -> None:
    pipe = pipeline("v3")
    out = pipe(["a", "b"], images=RED, num_frames=6, window=4, overlap=1, generator=seeded(1, 2), **SHORT).frames
    wanted = through_the_vae(pipe, RED)
    assert all(relative(clip[0], wanted) < 1e-5 for clip in out)
    video = [BLUE] * 6
    changed = pipe("a", images={2: RED}, video=video, strength=0.5, generator=seeded(1), **SHORT).frames[0]
    without = pipe("a", video=video, strength=0.5, generator=seeded(1), **SHORT).frames[0]
    assert relative(changed[2], wanted) < 1e-5 and relative(without[2], wanted) > 0.1


def test_a_call_takes_its_shape_from_the_picture_and_refuses_what_does_not_fit() -> None:
    pipe = pipeline("v3")
    short: dict[str, Any] = {"num_inference_steps": 1, "num_frames": 2, "output_type": "pt"}
    assert (pipe.defaults.height, pipe.defaults.width) == (32, 32)
    frames = pipe("a", images=colour(1, 2, 3, size=(90, 45)), **short).frames
    assert frames.shape[-2:] == (24, 48), "its shape, about as many pixels, multiples of 8"
    for given, message in (
        ({"images": {2: RED}}, "no frame 2 in a clip of 2"),
        ({"images": {0: RED, -2: BLUE}}, r"two images for frame 0 \(indices 0 and -2\)"),
        ({"images": {}}, "images is empty"),
        ({"images": "a.png"}, r"images takes PIL images .* not str; open files"),
        ({"images": RED, "image_mode": "latent"}, "unknown image_mode 'latent'; did you mean 'latents'"),
        ({"images": RED, "image_mode": "sparsectrl"}, "none is loaded; name one by `sparsectrl`"),
        ({"images": RED, "image_mode": "ip-adapter"}, "none is loaded; name one by `ip_adapter`"),
        ({"image_mode": "latents"}, "but no image"),
        ({"images": RED, "strength": 0.5}, "of a video to start from, and none is given"),
    ):
        with pytest.raises(UserError, match=message):
            pipe("a", **{**short, **given})


# -- the route -------------------------------------------------------------------------------------------------------


def test_the_best_route_that_is_there_unless_told() -> None:
    all_of_them = Loaded(sparsectrl="rgb", ip_adapter=True)
    assert choose_route(None, all_of_them) == choose_route("auto", all_of_them) == "sparsectrl"
    assert choose_route(None, Loaded(sparsectrl="scribble", ip_adapter=True)) == "ip-adapter"
    assert choose_route(None, Loaded()) == choose_route("latents", all_of_them) == "latents"
    assert choose_route("ip-adapter", all_of_them) == "ip-adapter"
    with pytest.raises(UserError, match="the one loaded is for scribble"):
        choose_route("sparsectrl", Loaded(sparsectrl="scribble", ip_adapter=True))


def test_sparsectrl_shows_them_like_conditions_of_its_own() -> None:
    pipe = pipeline("v3")
    pipe.load_sparsectrl(GOLDEN / "v3" / "sparsectrl_rgb.ckpt")
    try:
        both: dict[str, Any] = {**SHORT, "num_frames": 4, "generator": seeded(1)}
        shown = pipe("a", images={0: RED, -1: BLUE}, **both).frames
        both["generator"] = seeded(1)
        own = pipe("a", conditioning_frames=[RED, BLUE], controlnet_frame_indices=[0, -1], **both).frames
        assert torch.equal(shown, own)
        both["generator"] = seeded(1)
        mixed = pipe("a", images={-1: BLUE}, conditioning_frames=RED, controlnet_frame_indices=[0], **both).frames
        assert torch.equal(mixed, own)
        both["generator"] = seeded(1)
        held = pipe("a", images={0: RED}, image_mode="latents", **both).frames[0]
        assert relative(held[0], through_the_vae(pipe, RED)) < 1e-5
    finally:
        pipe.set_sparsectrl(None)


def test_an_encoder_is_found_that_belongs_to_the_model(encoders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "README.md").write_text("no weights")
    (folder / "broken.safetensors").write_text("no weights either")
    (folder / "motion.safetensors").symlink_to(motion_module_path())
    (folder / "of another.ckpt").symlink_to(GOLDEN / "v3" / "sparsectrl_rgb.ckpt")
    (folder / "a scribble.safetensors").symlink_to(encoders / "scribble.safetensors")
    assert find_rgb_encoder(str(bundled_path()), [folder, tmp_path / "none"]) is None
    (folder / "z.safetensors").symlink_to(encoders / "rgb.safetensors")
    assert find_rgb_encoder(str(bundled_path()), [folder]) == folder / "z.safetensors"
    found = find_rgb_encoder(str(GOLDEN / "v3" / "sd"), [folder])
    assert found is not None and found.name == "of another.ckpt"
    assert find_rgb_encoder("someone/model", [folder]) is None


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with pictures and an IP-Adapter for the bundled model."""
    monkeypatch.chdir(tmp_path)
    colour(220, 20, 20, size=(60, 30)).save("a.png")
    colour(20, 20, 220, size=(60, 30)).save("b.png")
    Path("text.png").write_text("no picture")
    return tmp_path


SMALL = ("--num-frames", "4", "--steps", "2", "--seed", "5", "--dtype", "float32")


def test_from_two_pictures_to_a_clip_its_sheet_and_its_repeat(place: Path) -> None:
    pictures = ("--image", "a.png", "--last-image", "b.png", "--image-mode", "latents")
    code, out, err = run("a fox", *SMALL, *pictures, "--out", "o/fox.png")
    assert code == 0, err
    assert "a.png: 60 x 30, so the clip is 88 x 48" in err and "2 images by way of their latents" in err
    assert "fox.keyframes.png" in out
    frames = read_video("o/fox.png")[0]
    assert frames.shape == (4, 48, 88, 3)
    assert frames[0, 4, 4, 0] > 170 > 90 > frames[0, 4, 4, 2] and frames[3, 4, 4, 2] > 170 > 90 > frames[3, 4, 4, 0]
    request = json.loads(Path("o/fox.png.json").read_text())["request"]
    assert (request["image"], request["last_image"], request["image_mode"]) == ("a.png", "b.png", "latents")
    sheet = np.asarray(Image.open("o/fox.keyframes.png")).reshape(-1, 3).tolist()
    assert [220, 20, 20] in sheet and [20, 20, 220] in sheet
    assert run("--from", "o/fox.png", "--out", "again.png")[0] == 0
    assert np.array_equal(read_video("again.png")[0], frames)


def test_sparsectrl_is_taken_where_it_lies(place: Path, encoders: Path) -> None:
    folder = place / "models" / "SparseCtrl"
    folder.mkdir(parents=True)
    (folder / "rgb.safetensors").symlink_to(encoders / "rgb.safetensors")
    code, _, err = run("a fox", *SMALL, "--keyframe", "2=a.png", "--out", "fox.png")
    assert code == 0 and "1 image by way of the SparseCtrl RGB encoder" in err
    assert "rgb.safetensors: is an RGB encoder for this base model, so it is used" in err
    request = load_result("fox.png")
    assert request.sparsectrl == "models/SparseCtrl/rgb.safetensors" and request.image_mode == "sparsectrl"
    assert [(k.frame, k.path) for k in request.keyframes] == [(2, "a.png")]
    code, _, err = run("a fox", *SMALL, "--image", "a.png", "--image-mode", "latents", "--out", "held.png")
    assert code == 0 and "by way of their latents" in err and load_result("held.png").sparsectrl is None


def test_an_ip_adapter_from_the_command_line(place: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    adapter = str(save_ip_adapter(place, unet).relative_to(place))
    common = (*SMALL, "--num-frames", "2", "--ip-adapter", adapter, "--out")
    code, _, err = run("a fox", *common, "fox.png", "--image", "a.png", "--image-mode", "ip-adapter")
    assert code == 0 and "by way of the IP-Adapter" in err
    assert run("a fox", *common, "b.png", "--ip-adapter-image", "b.png", "--ip-adapter-scale", "0.7")[0] == 0
    assert run("a fox", *common, "off.png", "--ip-adapter-image", "b.png", "--ip-adapter-scale", "0")[0] == 0
    assert run("a fox", *SMALL, "--num-frames", "2", "--out", "plain.png")[0] == 0
    off, plain, seen = (read_video(f"{name}.png")[0].astype(int) for name in ("off", "plain", "b"))
    assert np.abs(off - plain).max() <= 1 and np.abs(seen - plain).max() > 8


def test_settings_from_yaml(place: Path) -> None:
    (place / "sub").mkdir()
    (place / "sub" / "c.png").write_bytes(Path("a.png").read_bytes())
    Path("sub/run.yaml").write_text("- {prompt: a, keyframes: {0: c.png, 8: gone.png}, image_mode: latents}\n")
    (request,) = load_config("sub/run.yaml")
    assert request.images == [(0, "sub/c.png"), (8, "gone.png")]
    request = build_request({"prompt": "a", "keyframes": ["0=a.png", "-1=b.png"]})
    assert request.images == [(0, "a.png"), (-1, "b.png")]
    assert build_request(request.stored()) == request


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "none.png"], "none.png: no such file; expected an image"),
        (["--image", "text.png"], "text.png: cannot be read as an image"),
        (["--keyframe", "4=a.png"], "no frame 4 in a clip of 4"),
        (["--keyframe", "a.png"], "expected FRAME=FILE, such as 8=c.png, got 'a.png'"),
        (["--keyframe", "x=a.png"], "expected FRAME=FILE"),
        (["--image", "a.png", "--keyframe", "0=b.png"], "two images for frame 0"),
        (["--last-image", "a.png", "--keyframe", "3=b.png"], "two images for frame 3 (indices -1 and 3)"),
        (
            ["--image", "a.png", "--image-mode", "pixels"],
            "unknown image_mode 'pixels'; known are auto, i2v, pia, sparsectrl, ip-adapter, latents",
        ),
        (["--image", "a.png", "--image-mode", "ip-adapter"], "takes an IP-Adapter; add --ip-adapter"),
        (["--image-mode", "latents"], "but no image; add --image"),
        (["--ip-adapter-image", "a.png"], "but no IP-Adapter"),
        (["--ip-adapter", "text.png"], "an IP-Adapter is given, but no image for it"),
        (["--ip-adapter", "text.png", "--image", "a.png"], "text.png: "),
        (["--ip-adapter", str(motion_module_path()), "--image", "a.png"], "not an IP-Adapter"),
        (["--image", "a.png", "--strength", "0.5"], "is of a video to start from, and none is given"),
        (["--image", "a.png", "--image-mode", "latents", "--strength", "0.5"], "strength is a setting of video"),
        (["--image", "a.png", "--image-mode", "pia"], "takes PIA's motion module (pia.ckpt)"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(place: Path, arguments: list[str], message: str) -> None:
    assert message in is_one_message(place, "a fox", *SMALL, *arguments)


def test_pictures_reach_the_call_at_the_size_of_the_clip(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    class Watching(FakePipeline):
        sparsectrl_kind = "rgb"

        def job(self, **arguments: Any) -> Any:
            seen.update(arguments)
            return super().job(**arguments)

    loading(monkeypatch, lambda *_: Watching())
    size = ("--width", "48", "--height", "48", "--resize", "pad")
    assert run("a fox", "--image", "a.png", "--keyframe", "-1=b.png", *size, "--out", "c.png")[0] == 0
    assert list(seen["images"]) == [0, -1] and seen["image_mode"] == "sparsectrl"
    first = np.asarray(seen["images"][0])
    assert first.shape == (48, 48, 3) and first[0].max() == 0 and first[24, 24].max() > 200
