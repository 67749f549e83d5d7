"""ControlNets along a clip: for every frame what diffusers computes for one picture; one message for each mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from PIL import Image
from safetensors.torch import save_file
from support import ldm_files
from support.close import relative
from support.commands import is_one_message, run
from support.controlnet_files import in_original_names, save_controlnet
from support.paths import GOLDEN
from support.pipelines import seeded

from animatediff.bundled import bundled_path
from animatediff.errors import UserError
from animatediff.media import read_video, write_video
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling import UNetInputs
from animatediff.sampling.controlnet import ControlNetControl, ControlNetInput, controlnet_images, frame_weights
from animatediff.weights.addons.controlnet import check_controlnet, load_controlnet
from animatediff.weights.recognise import recognise

SETTINGS: dict[str, Any] = {
    "negative_prompt": "", "height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0,
    "output_type": "pt",
}  # fmt: skip


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / "v3" / "sd", subfolder="unet")
    folder = tmp_path_factory.mktemp("nets")
    return [save_controlnet(folder / name, unet, seed, (8, 16)) for seed, name in enumerate(("edges", "depth"))]


@pytest.fixture(scope="module")
def still(nets: list[Path]) -> AnimateDiffPipeline:
    """Motion modules that change nothing yet, and a ControlNet."""
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet))
    pipe.set_scheduler("ddim")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pictures(count: int, shift: int = 0) -> list[Image.Image]:
    found = []
    for number in range(count):
        picture = Image.new("RGB", (32, 32))
        picture.paste((255, 200, 90), (4 + 5 * number, 6 + shift, 14 + 5 * number, 20 + shift))
        found.append(picture)
    return found


LATENTS = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def reference(pipe: AnimateDiffPipeline, frame: int, loaded: Any, **given: Any) -> torch.Tensor:
    """The picture that diffusers' own ControlNet pipeline makes."""
    assert pipe.attachment is not None
    pipe.attachment.frames.num_frames = 1
    parts = {**pipe.base.components, "safety_checker": None, "feature_extractor": None, "controlnet": loaded}
    own = StableDiffusionControlNetPipeline(**parts, requires_safety_checker=False)
    own.set_progress_bar_config(disable=True)
    return own("a cat", latents=LATENTS[:, :, frame], **given, **SETTINGS).images[0]


def test_without_motion_every_frame_is_that_of_diffusers_with_its_own_picture(
    still: AnimateDiffPipeline, nets: list[Path]
) -> None:
    net = still.load_controlnet(nets[0])
    given = ControlNetInput(frames=pictures(3), scale=0.8, start=0.0, end=0.7)
    clip = still("a cat", num_frames=3, latents=LATENTS, controlnet_inputs=[given], **SETTINGS).frames[0]
    for frame in (0, 2):
        one = {"image": pictures(3)[frame], "controlnet_conditioning_scale": 0.8, "control_guidance_end": 0.7}
        assert relative(clip[frame], reference(still, frame, net, **one)) < 1e-5
    plain = still("a cat", num_frames=3, latents=LATENTS, **SETTINGS).frames[0]
    assert relative(plain, clip) > 1e-2, "without frames for it, a loaded one does nothing"
    # several at once
    second = still.load_controlnet(nets[1])
    both = [given, ControlNetInput(frames=pictures(4, shift=8), scale=0.5)]
    clip = still("a cat", num_frames=3, latents=LATENTS, controlnet_inputs=both, **SETTINGS).frames[0]
    two = {
        "image": [pictures(3)[1], pictures(4, shift=8)[1]],
        "controlnet_conditioning_scale": [0.8, 0.5],
        "control_guidance_end": [0.7, 1.0],
    }
    assert relative(clip[1], reference(still, 1, [net, second], **two)) < 1e-5
    # windows get the pictures of their frames
    windows = still("a cat", num_frames=3, latents=LATENTS, controlnet_inputs=both, window=2, overlap=1, **SETTINGS)
    assert relative(windows.frames[0], clip) < 1e-5
    for wrong, message in (
        (both[:1], "2 ControlNets are loaded, and controlnet_inputs has 1 entries"),
        ([ControlNetInput(frames=pictures(2)), given], "a ControlNet has 2 frames, but the clip has 3"),
        ([ControlNetInput(frames=pictures(3), start=0.5, end=0.2), given], "fractions of the steps"),
        ([ControlNetInput(frames=torch.rand(3, 4, 8, 8)), given], "images of 3 channels"),
    ):
        with pytest.raises(UserError, match=message):
            still("a cat", num_frames=3, latents=LATENTS, controlnet_inputs=wrong, **SETTINGS)
    still.unload_controlnets()


@pytest.mark.parametrize("layout", ["folder", "file"])
def test_pooled_conditions_act_on_prompts_alone(
    still: AnimateDiffPipeline, nets: list[Path], layout: str, tmp_path: Path
) -> None:
    net: Any = ControlNetModel.from_pretrained(nets[0])
    net.register_to_config(global_pool_conditions=True)
    net.save_pretrained(tmp_path / "shuffle")
    save_file(net.state_dict(), tmp_path / "control_v11e_sd15_shuffle.safetensors")
    path = tmp_path / ("shuffle" if layout == "folder" else "control_v11e_sd15_shuffle.safetensors")
    loaded = still.load_controlnet(path)
    given = ControlNetInput(frames=pictures(3), scale=0.8)
    clip = still("a cat", num_frames=3, latents=LATENTS, controlnet_inputs=[given], **SETTINGS).frames[0]
    one = {"image": pictures(3)[1], "controlnet_conditioning_scale": 0.8}
    assert relative(clip[1], reference(still, 1, loaded, **one)) < 1e-5
    still.unload_controlnets()


@torch.no_grad()
def test_clips_have_pictures_of_their_own_and_what_is_off_costs_nothing(nets: list[Path]) -> None:
    net: Any = ControlNetModel.from_pretrained(nets[0])
    frames = torch.rand(2, 3, 4, 32, 32)
    control = ControlNetControl(controlnet=net, images=frames, scale=1.0, active=frozenset([500.0]))
    text = torch.randn(8, 5, 32)
    inputs = UNetInputs(
        latents=torch.randn(8, 4, 16, 16), timestep=torch.tensor(500), embeddings=text, conditions=None, frames=[1, 3]
    )  # two clips, with guidance, two frames
    found = control.residuals(inputs)
    assert found is not None
    condition = torch.stack([frames[clip, :, frame] for _ in range(2) for clip in range(2) for frame in (1, 3)])
    down, mid = net(inputs.latents, 500, text, condition, return_dict=False)
    assert relative(found.mid, mid) < 1e-5 and relative(found.down[2], down[2]) < 1e-5
    at_another_step = UNetInputs(
        latents=inputs.latents, timestep=torch.tensor(20), embeddings=text, conditions=None, frames=[1, 3]
    )
    assert control.residuals(at_another_step) is None


@torch.no_grad()
def test_pictures_at_single_frames_steer_their_neighbours_less(nets: list[Path]) -> None:
    net: Any = ControlNetModel.from_pretrained(nets[0])
    given = ControlNetInput(frames=pictures(2), at=[0, 3], spread=(0.5, 0.25))
    shares = frame_weights(given, 6)
    assert shares is not None
    assert shares.tolist() == [[1.0, 0.5, 0.25, 0.0, 0.0, 0.0], [0.0, 0.25, 0.5, 1.0, 0.5, 0.25]]
    around = frame_weights(given, 6, loop=True)
    assert around is not None and around[0].tolist() == [1.0, 0.5, 0.25, 0.0, 0.25, 0.5]
    stacked = controlnet_images(net, given, (1, 4, 6, 16, 16))
    control = ControlNetControl(controlnet=net, images=stacked, scale=0.8, active=frozenset([500.0]), weights=shares)
    frames = [0, 1, 4]
    text = torch.randn(6, 5, 32)
    inputs = UNetInputs(
        latents=torch.randn(6, 4, 16, 16), timestep=torch.tensor(500), embeddings=text, conditions=None, frames=frames
    )  # a clip, with guidance, and three of its frames
    found = control.residuals(inputs)
    assert found is not None
    wanted = torch.zeros_like(found.mid)
    for row in range(6):
        for picture in range(2):
            share = float(shares[picture, frames[row % 3]])
            one = stacked[:, :, picture]
            _, mid = net(inputs.latents[row : row + 1], 500, text[row : row + 1], one, 0.8, return_dict=False)
            wanted[row] += share * mid[0]
    assert relative(found.mid, wanted) < 5e-5
    for wrong, message in (
        (ControlNetInput(frames=pictures(2), at=[0, 6]), "there is no frame 6 in a clip of 6"),
        (ControlNetInput(frames=pictures(2), at=[1, 1]), "two images for frame 1"),
        (ControlNetInput(frames=pictures(2), spread=(0.5,)), "is for images at single frames"),
    ):
        with pytest.raises(UserError, match=message):
            frame_weights(wrong, 6)
    with pytest.raises(UserError, match="2 images, and `at` names 1 frames"):
        controlnet_images(net, ControlNetInput(frames=pictures(2), at=[1]), (1, 4, 6, 16, 16))


def test_a_controlnet_with_motion_goes_where_the_pipeline_goes(nets: list[Path]) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    pipe.load_controlnet(nets[0])
    pipe.to(torch.bfloat16)
    assert pipe.controlnets[0].dtype == torch.bfloat16
    out = pipe(
        "a", num_frames=2, controlnet_inputs=[ControlNetInput(frames=pictures(2))], generator=seeded(1), **SETTINGS
    )
    assert out.frames.isfinite().all()


def test_a_controlnet_of_no_strength_is_said(still: AnimateDiffPipeline, nets: list[Path], caplog: Any) -> None:
    still.load_controlnet(nets[0])
    for scale in (0.0, 0.5):
        caplog.clear()
        given = ControlNetInput(frames=pictures(2), scale=scale)
        still("a cat", num_frames=2, latents=LATENTS[:, :, :2], controlnet_inputs=[given], **SETTINGS)
        assert ("ControlNet 1 has no effect" in caplog.text) == (scale == 0)
    still.unload_controlnets()


def test_folders_that_are_no_controlnet_or_of_another_model(nets: list[Path], tmp_path: Path) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    (tmp_path / "empty").mkdir()
    for path, message in (
        (nets[0], "of another base model: cross_attention_dim is 32, of this model it is 128"),
        (tmp_path / "empty", "no config.json in this folder"),
        (tmp_path / "none", "no such file or folder"),
        (bundled_path() / "unet", "an image UNet .*, not a ControlNet .*; give it to `model`"),
        (GOLDEN / "v3" / "motion_module.ckpt", "not a ControlNet .*; give it to `motion_module`"),
    ):
        with pytest.raises(UserError, match=message):
            pipe.load_controlnet(path)
    assert not pipe.controlnets


@pytest.mark.parametrize("generation", ["sd1", "sd2", "sdxl"])
def test_single_files_in_every_grammar(generation: str, tmp_path: Path) -> None:
    unet = ldm_files.models(generation)["unet"]
    assert isinstance(unet, UNet2DConditionModel)
    folder = save_controlnet(tmp_path / "folder", unet, 3, (8, 8, 8, 16))
    net: Any = ControlNetModel.from_pretrained(folder)
    original = in_original_names(net)
    theirs = convert_controlnet_checkpoint(dict(original), dict(net.config))
    of_sdxl = {key for key in net.state_dict() if key.startswith("add_embedding.")}  # forgotten by that converter
    assert theirs.keys() == net.state_dict().keys() - of_sdxl, "the test's file is one that diffusers reads as well"
    save_file(original, tmp_path / "plain.safetensors")
    save_file(net.state_dict(), tmp_path / "diffusers.safetensors")
    torch.save({"state_dict": {f"control_model.{key}": value for key, value in original.items()}}, tmp_path / "old.pth")
    for name in ("plain.safetensors", "diffusers.safetensors", "old.pth"):
        check_controlnet(tmp_path / name)
        assert recognise(tmp_path / name).kind == "controlnet"
        loaded = load_controlnet(tmp_path / name, unet=unet, dtype=torch.float32)
        assert loaded.config["conditioning_embedding_out_channels"] == (8, 8, 8, 16)
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        for key, value in net.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value), key


def test_single_files_that_are_not_for_this_model(nets: list[Path], tmp_path: Path) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    state = ControlNetModel.from_pretrained(nets[0]).state_dict()
    save_file(state, tmp_path / "other.safetensors")
    partial = {"lora_controlnet": torch.zeros(1), "controlnet_down_blocks.0.weight": torch.zeros(4, 4, 1, 1)}
    save_file(partial, tmp_path / "partial.safetensors")
    (tmp_path / "text.pth").write_text("hello")
    for name, message in (
        ("other.safetensors", "a ControlNet of another base model than this one: controlnet: "),
        ("partial.safetensors", r"a Control-LoRA .*not a ControlNet \(has lora_controlnet\)"),
        ("text.pth", "text.pth: "),
    ):
        with pytest.raises(UserError, match=message):
            pipe.load_controlnet(tmp_path / name)
    assert not pipe.controlnets


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a ControlNet for the bundled model, and what it may follow."""
    monkeypatch.chdir(tmp_path)
    Path("edges").mkdir()
    for number, picture in enumerate(pictures(4)):
        picture.resize((64, 64)).save(f"edges/{number}.png")
    write_video(np.stack([np.asarray(p.resize((64, 64))) for p in pictures(6, shift=4)]), "walk.mp4", fps=6)
    Path("text.mp4").write_text("no video")
    return tmp_path


SMALL = ("--steps", "2", "--seed", "5", "--dtype", "float32")
NET = ("--controlnet", "net", "--controlnet-video", "edges")


def test_a_clip_that_follows_two_and_its_repeat(place: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    save_controlnet(place / "net", unet, 0, (8, 16, 16))
    more = ("--controlnet", "net", "--controlnet-video", "walk.mp4", "--controlnet-preprocess", "none")
    more += ("--controlnet-preprocess", "canny", "--controlnet-scale", "0.5", "--controlnet-end", "0.8")
    code, _, err = run("a fox", *SMALL, *NET, *more, "--out", "a.png")
    assert code == 0, err
    frames = read_video("a.png")[0]
    assert frames.shape == (4, 64, 64, 3), "as long as what the first one follows"
    request = json.loads(Path("a.png.json").read_text())["request"]
    assert request["controlnet"] == ["net", "net"] and request["controlnet_video"] == ["edges", "walk.mp4"]
    assert request["controlnet_scale"] == [0.5] and request["controlnet_preprocess"] == ["none", "canny"]
    assert run("--from", "a.png", "--out", "b.png")[0] == 0
    assert np.array_equal(read_video("b.png")[0], frames)
    assert run("--from", "a.png", "--controlnet-scale", "0", "--out", "off.png")[0] == 0
    assert run("a fox", *SMALL, "--num-frames", "4", "--out", "plain.png")[0] == 0
    off, plain = read_video("off.png")[0], read_video("plain.png")[0]
    assert np.array_equal(off, plain) and relative(off, frames) > 1e-2


def test_a_single_image_is_followed_by_every_frame(place: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    save_controlnet(place / "net", unet, 0, (8, 16, 16))
    Path("same").mkdir()
    for number in range(3):
        Path(f"same/{number}.png").write_bytes(Path("edges/0.png").read_bytes())
    clips = []
    for followed in ("edges/0.png", "same"):
        net = ("--controlnet", "net", "--controlnet-video", followed)
        code, _, err = run("a fox", *SMALL, *net, "--num-frames", "3", "--out", "a.png")
        assert code == 0, err
        clips.append(read_video("a.png")[0])
    assert clips[0].shape == (3, 64, 64, 3) and np.array_equal(*clips)
    moving = ("--controlnet", "net", "--controlnet-video", "walk.mp4")
    assert (
        run("a fox", *SMALL, "--controlnet", "net", "--controlnet-video", "edges/0.png", *moving, "--out", "b.mp4")[0]
        == 0
    )
    frames, fps = read_video("b.mp4")
    assert (len(frames), fps) == (6, 6), "length and rate are those of the one that moves"


def test_damaged_images_are_refused_before_anything_is_loaded(place: Path) -> None:
    Path("net").mkdir()
    Path("net/config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    Path("net/diffusion_pytorch_model.safetensors").write_bytes(b"")
    Path("edges/2.png").write_bytes(Path("edges/2.png").read_bytes()[:90])
    for arguments in (
        NET,
        (*NET, "--controlnet-spread", "0.5"),
        ("--video", "edges"),
        ("--video", "edges", "--video-by-number"),
    ):
        assert "2.png: cannot be read as an image (is damaged" in is_one_message(place, "a fox", *SMALL, *arguments)


def test_a_clip_with_pictures_at_single_frames(place: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(bundled_path(), subfolder="unet", torch_dtype=torch.float32)
    net = ControlNetModel.from_pretrained(save_controlnet(place / "folder", unet, 0, (8, 16, 16)))
    save_file(in_original_names(net), place / "net.safetensors")
    Path("keys").mkdir()
    for frame in (1, 9):
        pictures(1)[0].resize((64, 64)).save(f"keys/{frame:04d}.png")
    follows = ("--controlnet", "net.safetensors", "--controlnet-video", "keys", "--num-frames", "4")
    code, _, err = run("a fox", *SMALL, *follows, "--controlnet-spread", "0.5", "--out", "a.png")
    assert code == 0, err
    assert "keys: images for frames beyond the clip are left out" in err
    assert json.loads(Path("a.png.json").read_text())["request"]["controlnet_spread"] == [[0.5]]
    frames = read_video("a.png")[0]
    assert run("--from", "a.png", "--out", "b.png")[0] == 0
    assert np.array_equal(read_video("b.png")[0], frames)
    assert run("--from", "a.png", "--controlnet-spread", "0", "--out", "alone.png")[0] == 0
    assert relative(read_video("alone.png")[0], frames) > 1e-2
    (place / "keys" / "1.jpg").write_bytes(Path("keys/0001.png").read_bytes())
    for more, message in (
        (("--controlnet-spread", "0.5"), "0001.png and 1.jpg are both for frame 1; keep one"),
        (("--controlnet-spread", "x"), "controlnet_spread"),
        (("--controlnet-video", "edges", "--controlnet-spread", "0.5"), "2 x controlnet_video for 1 x controlnet"),
    ):
        assert message in is_one_message(place, "a fox", *SMALL, *follows, *more)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--controlnet", "edges"], "controlnet is given without controlnet_video"),
        (["--controlnet-video", "edges"], "controlnet_video is given without controlnet"),
        (["--controlnet", "edges", "--controlnet-video", "walk.mp4"], "edges: no config.json in this folder"),
        (["--controlnet", "gone", "--controlnet-video", "walk.mp4"], "gone: no such file or folder"),
        ([*NET, "--controlnet-scale", "1", "--controlnet-scale", "2"], "2 x controlnet_scale for 1 x controlnet"),
        ([*NET, "--controlnet-start", "0.5", "--controlnet-end", "0.2"], "controlnet_start=0.5 is after"),
        ([*NET, "--controlnet-end", "2"], "controlnet_end[0]=2"),
        ([*NET, "--controlnet-preprocess", "depth"], "unknown controlnet_preprocess[0] 'depth'"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(place: Path, arguments: list[str], message: str) -> None:
    assert message in is_one_message(place, "a fox", *SMALL, *arguments)


def test_what_is_followed_must_be_long_enough(place: Path) -> None:
    Path("net").mkdir()
    Path("net/config.json").write_text(json.dumps({"_class_name": "ControlNetModel"}))
    Path("net/diffusion_pytorch_model.safetensors").write_bytes(b"")
    for arguments, message in (
        ([*NET, "--num-frames", "5"], "edges: has 4 frames to give, but num_frames=5"),
        ([*NET, "--video", "walk.mp4"], "edges: has 4 frames to give, but the clip has 6"),
        (["--controlnet", "net", "--controlnet-video", "text.mp4"], "text.mp4: is a text file"),
    ):
        code, _, err = run("a fox", *SMALL, *arguments)
        assert code == 2 and message in err, err
