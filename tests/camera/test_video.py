"""The path of the camera in a video: measured on drawn scenes whose camera is known, and followed by a clip."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import run
from support.paths import GOLDEN

from animatediff.camera import CameraPath, Move, camera_path, is_video, path_of_video
from animatediff.camera.path import path_of_moves
from animatediff.camera.plane import LARGEST, plane_views
from animatediff.errors import UserError
from animatediff.media import write_video
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import to_bytes
from animatediff.render import build_request
from animatediff.render.defaults import with_defaults
from animatediff.render.inputs import input_arguments, look_into
from animatediff.sprites import world

CASE = GOLDEN / "cameractrl"
MOVES = ("pan-left", "pan-right", "tilt-up", "tilt-down", "roll-clockwise", "roll-anticlockwise", "zoom-in", "zoom-out")


def frames_of(*names: str) -> tuple[np.ndarray, CameraPath]:
    """A drawn scene at rest (16, 64, 64, 3) as a camera with these moves sees it, and the camera's path."""
    path = path_of_moves([Move(name, 0.7 * LARGEST[name]) for name in names], 16)
    scene, _ = world.clips(1, 77, [("fox", "green", "still")])
    return to_bytes(world.render(scene, view=plane_views(path, world.SIZE, world.SIZE))).numpy(), path


def angles(path: CameraPath) -> torch.Tensor:
    """Degrees that the camera is turned right, up and clockwise by in the end."""
    right, up, ahead = path.to_world[-1, :3, :3].unbind(-1)
    yaw = torch.atan2(ahead[0], ahead[2])
    pitch = torch.asin(-ahead[1])
    return torch.rad2deg(torch.stack([yaw, pitch, torch.atan2(right[1], up[1])]))


@pytest.mark.parametrize("name", MOVES)
def test_each_move_of_a_drawn_scene_is_found(name: str) -> None:
    frames, wanted = frames_of(name)
    found = path_of_video(frames)
    assert len(found) == 16 and found.aspect == 1
    assert torch.allclose(angles(found), angles(wanted), atol=2.5), "degrees; turns of 12 to 25"
    if name.startswith("zoom"):  # of a scene 4 lengths away, 1.4 lengths
        assert found.positions[-1, 2] == pytest.approx(wanted.positions[-1, 2].item(), rel=0.35)
    assert found.positions[-1, :2].abs().max() < 0.1


def test_two_moves_at_once() -> None:
    frames, wanted = frames_of("pan-left", "roll-clockwise")
    assert torch.allclose(angles(path_of_video(frames)), angles(wanted), atol=4)


def test_turns_of_a_whole_round_add_up() -> None:
    """Turns are of the camera, not of a flat scene: many small ones go all the way round."""
    wide = (np.random.default_rng(1).random((10, 134, 3)) * 255).astype(np.uint8)
    wide = np.asarray(Image.fromarray(wide).resize((3216, 240), Image.Resampling.BICUBIC))
    frames = [wide[:, 40 * i : 40 * i + 240] for i in range(40)]
    path = path_of_video(frames)
    turned = torch.rad2deg(torch.atan2(path.directions[:, 0], path.directions[:, 2])).numpy()
    whole = np.unwrap(turned, period=360)[-1]
    step = np.degrees(np.arctan(40 / 240 / 0.844111024))  # the lens of named moves: half of 240 px at 30.6 degrees
    assert whole == pytest.approx(39 * step, rel=0.03) and whole > 400


def test_a_cut_is_said_and_the_camera_stands_there(caplog: pytest.LogCaptureFixture) -> None:
    before, _ = frames_of("pan-left")
    noise = (np.random.default_rng(3).random((16, 16, 3)) * 255).astype(np.uint8)
    after = np.asarray(Image.fromarray(noise).resize((64, 64)))
    with caplog.at_level(logging.WARNING):
        path = path_of_video([*before[:8], *[after] * 4], name="two.mp4")
    assert "two.mp4: cut before frame 8;" in caplog.text
    assert torch.equal(path.to_world[8], path.to_world[7])


def test_what_moves_before_a_camera_at_rest_is_doubted(caplog: pytest.LogCaptureFixture) -> None:
    scene, _ = world.clips(1, 77, [("fox", "green", "right")])
    with caplog.at_level(logging.WARNING):
        path_of_video(to_bytes(world.render(scene)).numpy(), name="fox.mp4")
    assert "fox.mp4: the edges of its frames show little of the movement" in caplog.text


def test_a_video_of_any_shape_and_a_folder(tmp_path: Path) -> None:
    frames, wanted = frames_of("zoom-in")
    file, folder = tmp_path / "walk.mp4", tmp_path / "walk"
    write_video(frames, file, fps=8)
    folder.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).resize((128, 64)).save(folder / f"{index:03}.png")
    assert is_video(file) and is_video(folder) and not is_video(tmp_path / "poses.txt")
    of_file, of_folder = camera_path(str(file)), camera_path(folder, 6)
    assert (len(of_file), of_file.aspect, len(of_folder), of_folder.aspect) == (16, 1, 6, 2)
    assert of_file.positions[-1, 2] == pytest.approx(wanted.positions[-1, 2].item(), rel=0.4)
    assert of_folder.in_pixels(64, 128)[0, :2].tolist() == pytest.approx([64 * 0.844111024] * 2, rel=1e-3), (
        "square pixels"
    )
    part = path_of_video(file, start=1.0)
    assert len(part) == 8
    with pytest.raises(UserError, match=r"walk\.mp4: has 16 frames to give, but the clip has 20"):
        camera_path(str(file), 20)


def test_a_folder_beside_it_needs_no_slash(walk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fold").mkdir()
    for index, frame in enumerate(frames_of("roll-clockwise")[0][:4]):
        Image.fromarray(frame).save(tmp_path / "fold" / f"{index}.png")
    (tmp_path / "zoom-in").mkdir()  # the name of a move is the move
    assert is_video("fold") and not is_video("zoom-in")
    for given in ("fold", Path("fold")):
        path = camera_path(given)
        assert len(path) == 4 and "anticlockwise" in str(path), "the camera turns the other way than what is seen"


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_text("poses")
    with pytest.raises(UserError, match=r"no\.mp4: .*text"):
        camera_path(str(tmp_path / "no.mp4"))
    with pytest.raises(UserError, match="no such file"):
        camera_path(str(tmp_path / "none.mp4"), 16)
    with pytest.raises(UserError, match="camera: holds a single frame"):
        path_of_video([np.zeros((64, 64, 3), np.uint8)])
    frames, _ = frames_of("zoom-in")
    for wrong, message in (
        ({"fps": 0}, "`fps` must be more than 0 frames a second, got 0"),
        ({"start": -1.0}, "`start` must be at least 0 seconds, got -1"),
        ({"aspect": -1.0}, "`aspect`=-1: expected .*times the height"),
        ({"num_frames": -2}, "`num_frames` must be at least 1, got -2"),
    ):
        with pytest.raises(UserError, match=message):
            path_of_video(frames, **wrong)


def test_frames_from_memory_of_any_kind() -> None:
    frames, _ = frames_of("pan-left")
    grey = [Image.fromarray(frame).convert("L") for frame in frames]
    wanted = angles(path_of_video(frames))
    kinds = (
        list(frames),
        [frame / 255 for frame in frames],
        [torch.from_numpy(frame).permute(2, 0, 1) for frame in frames],
        [Image.fromarray(frame) for frame in frames],
    )
    assert all(torch.equal(angles(path_of_video(kind)), wanted) for kind in kinds)
    assert torch.allclose(angles(path_of_video(grey)), wanted, atol=0.5)
    assert torch.allclose(angles(path_of_video([grey[0].resize((96, 96)), *grey[1:]])), wanted, atol=2.5)


def test_a_video_of_one_colour_is_said_to_show_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        path = path_of_video(np.full((4, 64, 64, 3), 90, np.uint8), name="fog.mp4")
    assert "fog.mp4: its frames show nothing to see a movement by" in caplog.text
    assert torch.equal(path.to_world, torch.eye(4, dtype=torch.float64).expand(4, 4, 4))


# -- as an option ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 16 frames, 8 a second, in which the camera goes forward."""
    file = tmp_path_factory.mktemp("walk") / "walk.mp4"
    write_video(frames_of("zoom-in")[0], file, fps=8)
    return file


def test_the_clip_takes_length_and_rate_and_not_the_shape(walk: Path) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    for settings, frames, rate in (
        ({}, 16, 8),
        ({"video_fps": 4, "video_start": 0.5}, 6, 4),
        ({"num_frames": 5}, 5, 8),
    ):
        given = {"prompt": "a fox", "camera": str(walk), "camera_control": "c.ckpt", "width": 64, "height": 32}
        request = build_request({**given, **settings})
        inputs = look_into(request)
        full = with_defaults(request, inputs, pipe)
        assert (full.num_frames, full.fps, full.width, full.height) == (frames, rate, 64, 32)
        path = input_arguments(full, inputs, None)[0]["camera"]
        assert len(path) == frames and path.aspect == 1 and path.positions[-1, 2] > 0.2
        assert input_arguments(full, inputs, None)[0]["camera"] is path, "measured once for all clips"


def test_a_clip_follows_it(walk: Path, tmp_path: Path) -> None:
    """By the command line, with files of published layout: the video's path is said and drawn."""
    model = ("--model", str(CASE / "sd"), "--motion-module", str(CASE / "v3_sd15_mm.ckpt"))
    small = ("--width", "64", "--height", "64", "--steps", "1", "--num-frames", "4", "--out", str(tmp_path / "a.gif"))
    follows = ("--camera-control", str(CASE / "CameraCtrl.ckpt"), "--camera", str(walk))
    code, _, err = run("a room", *model, *small, *follows)
    assert code == 0, err
    assert "path of the camera: 4 poses" in err and "forward" in err
    assert (tmp_path / "a.camera.png").exists()
    code, _, err = run("a room", *model, *small, *follows, "--num-frames", "40", "--plan")
    assert code != 0 and "has 16 frames to give, but num_frames=40" in err
