"""`animatediff evaluate`: the table, the JSON, the sprite world, and one message for each mistake."""

from __future__ import annotations

import io
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from support.moving import filmed, texture
from typer.testing import CliRunner

from animatediff.cli.evaluate import _table
from animatediff.cli.main import app
from animatediff.evaluation import evaluate_file
from animatediff.media import write_video
from animatediff.sprites import world
from animatediff.sprites.classifier import Classification, classifier_path, classify_clip, load_classifier
from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS, combinations


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lossless file of a camera that pans right and rolls."""
    frames = filmed(texture(448), 96, 64, 4, pan=2.0, roll=0.8)
    return write_video(frames, tmp_path_factory.mktemp("clips") / "clip.png", fps=8)


def test_table(clip: Path) -> None:
    code, out, err = run(clip)
    assert (code, err) == (0, "")
    for text in ("clip.png", "4 frames, 96x64", "PanRight", "RollingClockwise", "+2.0", "confi-"):
        assert text in out, text
    assert "*" not in out


def test_table_fits_a_terminal_of_80_columns(clip: Path) -> None:
    console = Console(width=80, file=io.StringIO())
    report = evaluate_file(clip)
    console.print(_table([report]))
    lines = console.file.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    figures = next(line.split()[-9:] for line in lines if f"{report.measurement.loop_seam:.2f}" in line)
    assert figures[0].startswith("+2.0") and figures[-1] == f"{report.measurement.loop_seam:.2f}"  # none is cut off
    for text in ("pan", "tilt", "zoom", "roll", "motion", "own", "seam", "PanRight", "RollingClockwise"):
        assert text in "\n".join(lines)


def test_json(clip: Path) -> None:
    code, out, err = run(clip, clip, "--json")
    assert (code, err) == (0, "")
    first, second = json.loads(out)
    assert first == second
    assert (first["path"], first["num_frames"], first["width"], first["height"]) == (str(clip), 4, 96, 64)
    assert first["fps"] == 8
    assert [move["name"] for move in first["moves"]] == ["PanRight", "RollingClockwise"]
    assert first["camera"]["pan"] == pytest.approx(2.0, abs=0.06)
    assert first["pan_percent"] == pytest.approx(100 * first["camera"]["pan"] / 96)
    assert len(first["steps"]) == 3 and first["steps"][0]["roll"] == pytest.approx(0.8, abs=0.11)
    assert {"motion", "own_motion", "warp_error", "frame_difference", "loop_seam"} <= first.keys()
    assert "sprites" not in first


@pytest.mark.parametrize("name", ["one.mp4", "one.gif", "one.png", "frames"])
def test_one_frame(tmp_path: Path, name: str) -> None:
    path = write_video(np.zeros((1, 64, 64, 3), np.uint8), tmp_path / name, fps=8)
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err == f"animatediff: {path}: 1 frame: measuring motion takes at least 2\n"


@pytest.mark.parametrize("name", ["text.mp4", "text.webm", "text.gif", "text.webp", "text.png", "text.apng"])
def test_no_video(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for content in (b"these are words", b"", b"\x89PNG\r\n\x1a\n and no picture"):
        path.write_bytes(content)
        code, out, err = run(path)
        assert (code, out) == (2, "")
        assert err.startswith(f"animatediff: {path}: cannot be read as a video") and err.count("\n") == 1


@pytest.mark.parametrize("name", ["clip.mp4", "clip.gif", "clip.webp", "clip.png"])
def test_half_a_file(tmp_path: Path, name: str) -> None:
    path = write_video(filmed(texture(448), 64, 64, 4, pan=1.0), tmp_path / name, fps=8)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    code, out, err = run(path)
    assert (code, out) == (2, "")
    assert err.startswith(f"animatediff: {path}: ") and err.count("\n") == 1


def test_missing_file_and_folders_without_frames(tmp_path: Path) -> None:
    assert run(tmp_path / "none.mp4") == (2, "", f"animatediff: {tmp_path / 'none.mp4'}: no such file\n")
    code, _, err = run(tmp_path)
    assert code == 2 and "no numbered frames" in err and err.count("\n") == 1
    folder = write_video(np.zeros((2, 8, 8, 3), np.uint8), tmp_path / "frames", fps=8)
    write_video(np.zeros((1, 8, 9, 3), np.uint8), tmp_path / "other.png", fps=8)
    (tmp_path / "other.png").replace(folder / "00001.png")
    code, _, err = run(folder)
    assert code == 2 and err.endswith("00001.png: not of the size of the first frame (8x8 and 9x8)\n")
    (folder / "00001.png").write_text("words")
    code, _, err = run(folder)
    assert code == 2 and "00001.png: cannot be read as an image" in err and err.count("\n") == 1


def test_the_good_files_are_measured_beside_bad_ones(clip: Path, tmp_path: Path) -> None:
    code, out, err = run(tmp_path / "a.mp4", clip, tmp_path / "b.mp4", "--json")
    assert code == 2
    assert [report["path"] for report in json.loads(out)] == [str(clip)]
    assert "a.mp4: no such file" in err and "b.mp4: no such file" in err


def test_without_opencv(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    code, out, err = run(clip, clip)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1 and "OpenCV" in err and "pip install 'animatediff[train]'" in err


def test_unknown_world(clip: Path) -> None:
    code, _, err = run(clip, "--world", "sprite")
    assert (code, err) == (2, "animatediff: unknown --world 'sprite'; did you mean 'sprites'? known are sprites\n")


def test_world_wants_square_frames(clip: Path) -> None:
    code, _, err = run(clip, "--world", "sprites")
    assert code == 2
    assert err == f"animatediff: {clip}: clips of the sprite world are square, 64x64, and this one is 96x64\n"


def world_clips(motions: tuple[str, ...], seed: int) -> list[tuple[tuple[str, str, str], np.ndarray]]:
    """Real clips of combinations that training never shows: uint8 (16, 64, 64, 3)."""
    rng, moments = random.Random(seed), [i / 15 for i in range(16)]
    clips = []
    for motion in motions:
        combination = rng.choice([c for c in combinations(held_out=True) if c[2] == motion])
        frames = world.render(world.scene_of(world.poses(combination, rng, moments)))
        clips.append((combination, (frames.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)))
    return clips


@pytest.mark.parametrize(("suffix", "motions"), [("mp4", MOTIONS), ("gif", ("down", "spinning"))])
def test_sprites_are_recognised_in_files(tmp_path: Path, suffix: str, motions: tuple[str, ...]) -> None:
    made = world_clips(motions, seed=77)
    files = [write_video(frames, tmp_path / f"{i}.{suffix}", fps=8) for i, (_, frames) in enumerate(made)]
    code, out, err = run(*files, "--world", "sprites", "--json")
    assert (code, err) == (0, "")
    for (combination, _), report in zip(made, json.loads(out), strict=True):
        seen = report["sprites"]
        assert (seen["obj"], seen["background"], seen["motion"]) == combination


def test_enlarged_clips_and_the_table_of_the_world(tmp_path: Path) -> None:
    ((combination, frames),) = world_clips(("growing",), seed=5)
    file = write_video(frames.repeat(4, 1).repeat(4, 2), tmp_path / "large.webp", fps=8)
    code, out, _ = run(file, "--world", "sprites")
    assert code == 0
    for text in (*combination, "growth", "it may be an object's"):
        assert text in out


def test_the_reader_is_right_on_real_clips() -> None:
    """Every frame read alone gives object, place and size; the clips give background and motion."""
    classifier = load_classifier()
    made = [clip for seed in range(6) for clip in world_clips(MOTIONS, seed=1000 + seed)]
    right = 0
    for (obj, background, motion), frames in made:
        reading = classify_clip(classifier, torch.from_numpy(frames).permute(0, 3, 1, 2) / 255)
        right += reading.obj == obj
        assert (reading.background, reading.motion) == (background, motion)
        assert reading.moved(motion)
    assert right == len(made) == 48


def test_what_a_trajectory_is_called() -> None:
    def named(travel: tuple[float, float] = (0.0, 0.0), growth: float = 1.0, turn: float = 0.0) -> str:
        return Classification(obj=OBJECTS[0], background=BACKGROUNDS[0], travel=travel, growth=growth, turn=turn).motion

    assert named() == "still"
    assert named(travel=(20, 3)) == "right" and named(travel=(-20, 3)) == "left"
    assert named(travel=(2, 15)) == "down" and named(travel=(2, -15)) == "up"
    assert named(growth=1.6) == "growing" and named(growth=0.6) == "shrinking"
    assert named(turn=300) == "spinning"
    assert named(turn=300, travel=(5, 0)) == "spinning"  # what shows most
    assert named(travel=(3, 0)) == "unclear"  # too little to move, too much to rest
    assert named(turn=-300) == "unclear"  # the world knows no such motion


def test_the_reader_is_small() -> None:
    assert classifier_path().stat().st_size < 1e6
