"""A driving video and a portrait become options that there are: which weights, which preprocessor, at what rate."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from support import conditions
from support.commands import is_one_message, run
from support.controlnet_files import save_controlnet
from support.ip_files import save_ip_adapter
from support.paths import GOLDEN

from animatediff.bundled import bundled_path
from animatediff.errors import UserError
from animatediff.media import read_video, write_video
from animatediff.media.preprocess import BODY, FACE, HAND
from animatediff.media.shown import shown
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import Renderer, build_request
from animatediff.render.drive import DrivePlan, plan_drive
from animatediff.render.options import BY_NAME
from animatediff.weights.addons.at_hand import FOLLOWED, followed_by

KINDS = {
    "pose": conditions.poses, "lines": conditions.lines, "drawing": conditions.drawings, "depth": conditions.depths,
    "normal": conditions.normals, "scene": conditions.scenes,
}  # fmt: skip


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ControlNet and a random IP-Adapter for the bundled model."""
    place = tmp_path_factory.mktemp("nets")
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    save_controlnet(place / "net", unet, 0, (8, 16, 16))
    save_ip_adapter(place / "adapter", unet)
    return place


@pytest.fixture
def place(tmp_path: Path, nets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with driving videos, a portrait, an IP-Adapter, and no ControlNet yet."""
    monkeypatch.chdir(tmp_path)
    for kind, draw in KINDS.items():
        write_video(draw(6, 64 if kind != "depth" else 128), f"{kind}.mp4", fps=6)
    Image.new("RGB", (48, 40), (200, 40, 40)).save("face.png")
    Path("models/IP-Adapter").mkdir(parents=True)
    Path("models/IP-Adapter/models").symlink_to(nets / "adapter" / "models")
    return tmp_path


def put_controlnet(nets: Path, *names: str) -> None:
    for name in names:
        Path("models/ControlNet").mkdir(exist_ok=True)
        Path(f"models/ControlNet/{name}").symlink_to(nets / "net")


def plan(**settings: Any) -> DrivePlan:
    return plan_drive(build_request({"prompt": "a fox", **settings}))


# -- what a video shows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [128, 320])
def test_ready_made_conditions_are_told_from_scenes(kind: str, size: int, tmp_path: Path) -> None:
    frames = KINDS[kind](4, size)
    assert shown(frames) == kind
    write_video(frames, tmp_path / "a.mp4", fps=8)  # a codec blurs, and keeps colours at half the size
    assert shown(read_video(tmp_path / "a.mp4")[0]) == kind


def test_old_films_and_empty_frames_are_scenes() -> None:
    assert shown(conditions.scenes(4, grey=True)) == "scene"
    assert shown(np.zeros((3, 64, 64, 3), np.uint8)) == "scene"
    night = (conditions.scenes(3, 128) * 0.2).astype(np.uint8)
    night[:, 20:60, 20:60] = (220, 30, 30)  # a lit sign in the dark is no skeleton
    assert shown(night) == "scene"
    mixed = np.concatenate([conditions.poses(2), conditions.scenes(2)])
    assert shown(mixed) == "scene", "most of the frames decide"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("control_v11p_sd15_openpose.pth", "pose"),
        ("control_v11p_sd15_lineart.pth", "lineart"),
        ("control_v11p_sd15s2_lineart_anime.pth", "lineart"),
        ("control_v11p_sd15_softedge.pth", "softedge"),
        ("control_sd15_hed.pth", "softedge"),
        ("control_v11p_sd15_canny.pth", "canny"),
        ("control_v11p_sd15_scribble.pth", "scribble"),
        ("control_v11f1p_sd15_depth.pth", "depth"),
        ("control_v11p_sd15_normalbae.pth", "normal"),
        ("OpenPoseXL2.safetensors", "pose"),
        ("controlnet-depth-sdxl-1.0/diffusion_pytorch_model.safetensors", "depth"),
        ("control_v11e_sd15_shuffle.pth", None),
        ("control_v11f1e_sd15_tile.pth", None),
    ],
)
def test_published_controlnets_say_in_their_names_what_they_follow(name: str, kind: str | None) -> None:
    assert followed_by(Path("models/ControlNet") / name) == kind


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("video", "kind", "there", "chosen", "method"),
    [
        ("scene", "auto", ("openpose", "scribble", "lineart"), "lineart", "canny"),
        ("scene", "auto", ("openpose", "scribble"), "scribble", "scribble"),
        ("scene", "scribble", ("lineart", "scribble"), "scribble", "scribble"),
        ("pose", "auto", ("lineart", "openpose"), "openpose", "none"),
        ("lines", "auto", ("openpose", "softedge"), "softedge", "none"),
        ("drawing", "auto", ("canny",), "canny", "scribble"),
        ("depth", "auto", ("canny", "depth"), "depth", "none"),
        ("normal", "normal", ("normalbae",), "normalbae", "none"),
    ],
)
def test_the_weights_and_the_preprocessor_that_a_video_gets(
    video: str, kind: str, there: tuple[str, ...], chosen: str, method: str, place: Path, nets: Path
) -> None:
    put_controlnet(nets, *there)
    found = plan(drive=f"{video}.mp4", drive_kind=[kind], image="face.png")
    assert found.missing == []
    request = found.checked()
    assert request.controlnet == (f"models/ControlNet/{chosen}",) and request.controlnet_preprocess == (method,)
    assert request.controlnet_video == (f"{video}.mp4",) and request.drive is None and request.drive_kind == ("auto",)
    assert request.ip_adapter == "models/IP-Adapter/models/ip-adapter.safetensors"
    assert request.ip_adapter_image == ("face.png",) and request.image is None
    text = str(found)
    assert f"ControlNet models/ControlNet/{chosen}" in text and "looks: face.png" in text
    assert FOLLOWED[followed_by(chosen) or ""].title in text


def test_named_weights_win_and_several_follow_one_video(place: Path, nets: Path) -> None:
    put_controlnet(nets, "lineart", "canny")
    request = plan(drive="scene.mp4", drive_kind=["canny", "lineart"], controlnet_scale=[0.5, 0.8]).checked()
    assert [Path(net).name for net in request.controlnet] == ["canny", "lineart"]
    assert request.controlnet_preprocess == ("canny", "canny") and request.controlnet_scale == (0.5, 0.8)
    assert request.ip_adapter is None and not request.ip_adapter_image, "no image, no IP-Adapter"
    named = {"controlnet": ["mine"], "drive_kind": ["scribble"], "ip_adapter": "own.bin", "image": "face.png"}
    request = plan(drive="scene.mp4", **named).checked()
    assert request.controlnet == ("mine",) and request.controlnet_preprocess == ("scribble",)
    assert request.ip_adapter == "own.bin"
    kept = plan(drive="scene.mp4", controlnet=["a_canny"], controlnet_preprocess=["scribble"]).checked()
    assert kept.controlnet_preprocess == ("scribble",), "a preprocessor that is given stays"
    (place / "models/ControlNet/lineart").unlink()
    (place / "models/ControlNet/lineart").mkdir()
    (place / "models/ControlNet/lineart/config.json").write_text("{}")
    assert plan(drive="scene.mp4").checked().controlnet == ("models/ControlNet/canny",), "broken ones are passed over"


def test_an_image_may_begin_the_clip_instead(place: Path, nets: Path) -> None:
    put_controlnet(nets, "canny")
    request = plan(drive="scene.mp4", image="face.png", image_mode="latents").checked()
    assert request.image == "face.png" and request.ip_adapter is None
    both = plan(drive="scene.mp4", image="first.png", ip_adapter_image=["face.png"]).checked()
    assert both.image == "first.png" and both.ip_adapter_image == ("face.png",) and both.ip_adapter is not None
    mode = plan(drive="scene.mp4", image="face.png", image_mode="ip-adapter").checked()
    assert (
        mode.image is None
        and mode.image_mode == BY_NAME["image_mode"].default
        and mode.ip_adapter_image == ("face.png",)
    )


def test_frames_are_taken_at_the_rate_of_the_clip(place: Path, nets: Path) -> None:
    put_controlnet(nets, "canny")
    write_video(np.concatenate([conditions.scenes(24, 32)] * 2), "long.mp4", fps=24)

    def rate(**settings: Any) -> float | None:
        return plan(drive="long.mp4", **settings).checked().video_fps

    assert rate() == 8.0
    assert rate(num_frames=16) == 8.0 and rate(num_frames=24) == 12.0, "two seconds give 24 frames at 12 a second"
    assert rate(fps=6) == 6.0 and rate(fps=6, num_frames=24) == 6.0, "a rate that is given stays"
    assert rate(video_fps=10) == 10.0 and rate(fps=48) is None and rate(num_frames=200) is None
    assert rate(video_start=1.0, num_frames=24) is None, "all frames of the second that is left"
    assert plan(drive="scene.mp4").checked().video_fps is None, "fewer a second than the clip's"
    assert plan(drive=list(conditions.scenes(4, 32))).checked().video_fps is None, "frames in memory have no rate"
    with pytest.raises(UserError, match="has 48 frames to give, but num_frames=200"):
        Renderer().prepare([build_request({"prompt": "a fox", "drive": "long.mp4", "num_frames": 200})])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drive": "scene.mp4"}, "for the bundled model no ControlNet is published: name an image model with `model`"),
        ({"drive": "scene.mp4", "drive_kind": ["pose"]}, "for the bundled model no ControlNet"),
        (
            {"drive": "scene.mp4", "controlnet": ["openpose"]},
            r"scene.mp4 shows no poses .*controlnet_aux .*body_pose_model.pth.*models/Annotators.*`drive_kind` lineart",
        ),
        ({"drive": "scene.mp4", "controlnet": ["depth"]}, "shows no depth maps, and nothing here makes them"),
        ({"drive": "pose.mp4", "controlnet": ["depth"]}, "shows poses, and `drive_kind` is depth"),
        ({"drive": "scene.mp4", "controlnet": ["mine"]}, "mine: its name does not say what it follows"),
        ({"drive": "face.png"}, "face.png: holds a single frame, expected a video"),
        ({"drive": "gone.mp4"}, "gone.mp4: no such file"),
        ({"drive": "scene.mp4", "video_start": 9.0}, "nothing after a start of 9 s"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_message(settings: dict[str, Any], message: str, place: Path) -> None:
    with pytest.raises(UserError, match=message):
        plan(**settings).checked()


def test_weights_for_another_base_model_are_passed_over(place: Path, nets: Path) -> None:
    put_controlnet(nets, "canny")
    golden = {"model": str(GOLDEN / "v3" / "sd"), "motion_module": str(GOLDEN / "v3" / "motion_module.ckpt")}
    found = plan(drive="scene.mp4", image="face.png", **golden)
    assert found.missing[0].startswith("a ControlNet for line art, soft edges, edges (canny) or scribbles that fits")
    assert "control_v11p_sd15_lineart.pth" in found.missing[0] and len(found.missing) == 2


def test_an_adapter_without_its_encoder_is_taken_where_there_is_no_other(place: Path, nets: Path) -> None:
    put_controlnet(nets, "canny")
    (place / "models/IP-Adapter/models").unlink()
    adapter = place / "models/IP-Adapter/ip-adapter-plus-face.safetensors"
    adapter.symlink_to(nets / "adapter" / "models" / "ip-adapter.safetensors")
    request = build_request({"prompt": "a fox", "drive": "scene.mp4", "image": "face.png"})
    assert plan_drive(request).checked().ip_adapter == "models/IP-Adapter/ip-adapter-plus-face.safetensors"
    with pytest.raises(UserError, match="models/IP-Adapter/image_encoder: no image encoder here"):
        Renderer().prepare([request])
    Path("models/IP-Adapter/models").symlink_to(nets / "adapter" / "models")
    assert plan_drive(request).checked().ip_adapter == "models/IP-Adapter/models/ip-adapter.safetensors", "a whole one"


def test_published_weights_are_named_for_the_base_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from animatediff.render import drive
    from animatediff.weights.addons.at_hand import BaseFacts

    monkeypatch.setattr(drive, "_base_facts", lambda *_: BaseFacts(kinds=("sdxl",)))
    (place / "models/IP-Adapter/models").unlink()
    found = plan(drive="pose.mp4", image="face.png", model="xl.safetensors", motion_module="m.ckpt")
    assert "thibaud/controlnet-openpose-sdxl-1.0" in found.missing[0]
    assert "ip-adapter-plus-face_sdxl_vit-h.safetensors" in found.missing[1] and "h94/IP-Adapter" in found.missing[1]
    assert str(found).count("missing: ") == 2
    monkeypatch.setattr(drive, "_base_facts", lambda *_: BaseFacts(kinds=("sd1", "sd2")))
    found = plan(drive="scene.mp4", model="15.safetensors", motion_module="m.ckpt")
    assert "control_v11p_sd15_lineart.pth (lllyasviel/ControlNet-v1-1)" in found.missing[0]


def test_settings_that_exclude_each_other() -> None:
    for settings, message in (
        ({"controlnet": ["a"], "controlnet_video": ["b.mp4"]}, "drive and controlnet_video both say"),
        ({"controlnet_spread": [[0.5]]}, "controlnet_spread is for images at single frames"),
        ({"controlnet": ["a", "b"], "drive_kind": ["pose", "canny", "depth"]}, "3 x drive_kind for 2 x controlnet"),
        ({"drive_kind": ["posse"]}, "unknown drive_kind.0. 'posse'; did you mean 'pose'"),
        ({"controlnet_scale": [0.5, 0.2]}, "2 x controlnet_scale"),
        ({"ip_adapter": "a.bin"}, "no image for it; add `image`"),
    ):
        with pytest.raises(UserError, match=message):
            build_request({"prompt": "a fox", "drive": "a.mp4", **settings})


# -- a pose detector ---------------------------------------------------------------------------------------------------

DETECTOR = '''
from PIL import Image

class OpenposeDetector:
    """Paints the left half green; knows the folder of its weights."""

    @classmethod
    def from_pretrained(cls, folder):
        assert folder == "models/Annotators", folder
        return cls()

    def to(self, device):
        assert str(device) == "cpu"
        return self

    def __call__(self, image, detect_resolution, image_resolution, include_hand, include_face):
        found = Image.new("RGB", (64, 64))
        found.paste((0, 255, 0), (0, 0, 32, 64))
        return found
'''


def test_poses_are_found_where_a_detector_and_its_weights_are_installed(
    place: Path, nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_controlnet(nets, "openpose", "canny")
    package = place / "site" / "controlnet_aux"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "open_pose.py").write_text(DETECTOR)
    monkeypatch.syspath_prepend(place / "site")
    for name in [name for name in sys.modules if name.partition(".")[0] == "controlnet_aux"]:
        monkeypatch.delitem(sys.modules, name)
    assert plan(drive="scene.mp4").checked().controlnet_preprocess == ("canny",), "its weights are not there"
    Path("models/Annotators").mkdir()
    for name in (BODY, HAND, FACE):
        Path(f"models/Annotators/{name}").write_bytes(b"")
    request = plan(drive="scene.mp4", device="cpu").checked()
    assert request.controlnet == ("models/ControlNet/openpose",) and request.controlnet_preprocess == ("openpose",)

    from animatediff.render.inputs import input_arguments, look_into

    sized = request.model_copy(update={"num_frames": 2, "width": 40, "height": 24})
    (given,) = input_arguments(sized, look_into(sized), None)[0]["controlnet_inputs"]
    assert given.frames.shape == (2, 24, 40, 3)
    assert (given.frames[:, :, :18] == (0, 255, 0)).all() and not given.frames[:, :, 22:].any()
    for name in ("controlnet_aux", "controlnet_aux.open_pose"):
        sys.modules.pop(name, None)


def test_a_pose_detector_is_never_fetched(place: Path) -> None:
    request = build_request({
        "prompt": "x", "controlnet": ["net"], "controlnet_video": ["scene.mp4"], "controlnet_preprocess": ["openpose"],
    })  # fmt: skip
    with pytest.raises(UserError, match=r"`controlnet_preprocess` openpose: a pose detector is not at hand"):
        Renderer().prepare([request])


# -- through the doors -------------------------------------------------------------------------------------------------

SMALL = ("--steps", "2", "--seed", "5", "--dtype", "float32", "--num-frames", "4")


def test_a_driven_clip_its_repeat_and_the_options_it_stands_for(place: Path, nets: Path) -> None:
    put_controlnet(nets, "scribble")
    driving = ("a fox", *SMALL, "--drive", "scene.mp4", "--image", "face.png")
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run(*driving, "--plan")
    assert code == 0, err
    first, movement, looks, *memory = out.splitlines()
    assert first == "scene.mp4: 64 x 64, 4 of 6 frames at 6 a second lead the clip"
    assert movement.endswith("drawn from its frames (scribble); ControlNet models/ControlNet/scribble")
    assert looks.startswith(
        "looks: face.png, at strength 1; IP-Adapter models/IP-Adapter/models/ip-adapter.safetensors"
    )
    assert memory[0].startswith("4 frames of 64x64 in float32")
    assert sorted(path.name for path in place.iterdir()) == before, "a plan renders nothing"

    code, _, err = run(*driving, "--out", "a.png")
    assert code == 0, err
    assert "movement: scribbles" in err and "float32: []" not in err
    frames = read_video("a.png")[0]
    request = json.loads(Path("a.png.json").read_text())["request"]
    assert "drive" not in request and request["controlnet_video"] == ["scene.mp4"]
    assert run("--from", "a.png", "--out", "b.png")[0] == 0
    parts = ("--controlnet", "models/ControlNet/scribble", "--controlnet-video", "scene.mp4")
    parts += ("--controlnet-preprocess", "scribble", "--ip-adapter-image", "face.png")
    parts += ("--ip-adapter", "models/IP-Adapter/models/ip-adapter.safetensors")
    assert run("a fox", *SMALL, *parts, "--out", "c.png")[0] == 0
    assert np.array_equal(read_video("b.png")[0], frames) and np.array_equal(read_video("c.png")[0], frames)


def test_mistakes_at_the_command_line(place: Path) -> None:
    said = is_one_message(place, "a fox", *SMALL, "--drive", "scene.mp4", "--image", "face.png")
    assert "name an image model with --model" in said and "--controlnet" in said
    code, out, err = run("a fox", "--drive", "scene.mp4", "--plan")
    assert code == 2 and "missing: for the bundled model no ControlNet is published" in out and "--model" in err


def test_a_pipeline_that_is_given_takes_named_weights(place: Path) -> None:
    renderer = Renderer.of(AnimateDiffPipeline.from_bundled())
    with pytest.raises(UserError, match=r"the model in use is given whole; name its ControlNet with `controlnet`"):
        renderer.prepare([build_request({"prompt": "a fox", "drive": "scene.mp4"})])
