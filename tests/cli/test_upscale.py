"""`animatediff upscale`, and the same finish of clips that are rendered: files, records, and one message a mistake."""

from __future__ import annotations

import errno
import glob
import importlib.util
import json
import re
import shlex
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from support.commands import is_one_message, run
from support.fake_pipeline import FakePipeline, loading
from support.paths import ROOT
from support.sprite_clips import spinning_loop, sprite_clip
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import Cancelled
from animatediff.media import read_metadata, read_video, upscale, write_video
from animatediff.media.read import open_clip
from animatediff.media.seam import loop_seam
from animatediff.render import Event, Finish, Renderer, Target, build_request, upscale_files

needs_models = pytest.mark.skipif(
    importlib.util.find_spec("ncnn") is None or importlib.util.find_spec(upscale.PACKAGE) is None,
    reason="the extra `media` is not installed",
)
X2 = "realesr-animevideov3-x2"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    loading(monkeypatch, lambda *_: FakePipeline())
    return tmp_path


def finish(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["upscale", *arguments])
    return result.exit_code, result.stdout, result.stderr


# -- files made before ------------------------------------------------------------------------------------------------


@needs_models
def test_a_file_is_enlarged_and_interpolated_beside_itself(place: Path) -> None:
    frames = sprite_clip("right", 4)
    write_video(frames, "fox.mkv", fps=8)
    code, out, err = finish("fox.mkv", "--upscaler", X2, "--fps-out", "16")
    assert (code, err) == (0, "")
    assert out == "fox-upscaled-16fps.mkv  (8 frames, 128x128, 16 a second)\n"
    made, fps = read_video("fox-upscaled-16fps.mkv")
    assert (made.shape, fps) == ((8, 128, 128, 3), 16)
    upscaler = upscale.published_upscaler(X2)
    assert np.array_equal(made[::2], np.stack([upscaler(frame) for frame in frames])), "first enlarged, then between"
    record = json.loads(Path("fox-upscaled-16fps.mkv.json").read_text())
    assert record == read_metadata("fox-upscaled-16fps.mkv")
    assert record["made_from"]["file"] == "fox.mkv" and record["finish"] == {"upscaler": X2, "fps_out": 16.0}
    assert finish("fox.mkv", "--upscaler", X2, "--fps-out", "16", "-q")[1] == "fox-upscaled-16fps-2.mkv\n"


def test_several_files_and_every_kind(place: Path) -> None:
    frames = sprite_clip("right", 4)
    for name in ("a.mkv", "b.apng", "c"):
        write_video(frames, name, fps=8)
    code, out, _ = finish("a.mkv", "b.apng", "c", "--fps-out", "12", "--out", "made.apng", "-q")
    assert (code, out) == (0, "made-0.apng\nmade-1.apng\nmade-2.apng\n")
    one, *others = [read_video(f"made-{index}.apng")[0] for index in range(3)]
    assert len(one) == 6 and all(np.array_equal(one, other) for other in others)
    assert finish("a.mkv", "c", "--fps-out", "12", "-q")[1] == "a-12fps.mkv\nc-12fps\n"
    assert Path("c-12fps/00005.png").exists()


def test_it_converts_and_keeps_transparency_and_sound(place: Path) -> None:
    clear = np.dstack([sprite_clip("right", 2)[0], np.arange(64 * 64).reshape(64, 64) % 256]).astype(np.uint8)
    Path("frames").mkdir()
    for index in range(3):
        Image.fromarray(np.roll(clear, index, 1)).save(f"frames/{index:05d}.png")
    for out in ("a.mkv", "b.mov", "c.webm"):
        assert finish("frames", "--out", out)[0] == 0
        with open_clip(out, alpha=True) as clip:
            assert clip.clear and clip.num_frames == 3
            assert np.abs(next(clip.frames)[..., 3].astype(int) - clear[..., 3]).mean() < {"a.mkv": 0.1}.get(out, 25)
    with av.open("sung.mp4", "w") as file:
        video, voice = file.add_stream("libx264", rate=8), file.add_stream("aac", rate=48_000)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"  # type: ignore[attr-defined]
        for frame in sprite_clip("right", 4):
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))  # type: ignore[attr-defined]
        tone = (np.sin(np.arange(24_000) / 20)[None] * 0.3).astype(np.float32).repeat(2, 0)
        sound = av.AudioFrame.from_ndarray(tone, format="fltp", layout="stereo")
        sound.sample_rate = 48_000
        file.mux([*voice.encode(sound), *voice.encode(None), *video.encode(None)])  # type: ignore[attr-defined]
    for out in ("d.mp4", "d.mkv", "d.mov", "d.webm"):
        code, _, err = finish("sung.mp4", "--fps-out", "16", "--out", out)
        assert (code, err) == (0, "")
        with av.open(out) as file:
            assert len(file.streams.audio) == 1 and len(list(file.decode(file.streams.video[0]))) == 8
    code, _, err = finish("sung.mp4", "--fps-out", "16", "--out", "d.gif")
    assert code == 0 and "sung.mp4: its sound is left out, d.gif holds none" in err


def test_a_loop_stays_closed(place: Path) -> None:
    write_video(spinning_loop(24), "turn.apng", fps=8)
    code, out, _ = finish("turn.apng", "--fps-out", "24", "--closed-loop", "--out", "closed.mkv")
    assert code == 0 and "72 frames, 64x64, 24 a second; loop seam " in out
    closed = read_video("closed.mkv")[0]
    assert loop_seam(closed) < 1.2
    assert f"loop seam {loop_seam(closed):.2f}" in out
    request = {"prompt": ["a car"], "closed_loop": True}
    write_video(spinning_loop(24), "said.apng", fps=8, metadata={"request": request})
    assert "loop seam" in finish("said.apng", "--fps-out", "24", "--out", "said.mkv")[1], "its record says so"
    assert np.array_equal(read_video("said.mkv")[0], closed)


# -- clips that are rendered ------------------------------------------------------------------------------------------


def test_a_rendered_clip_is_finished_and_repeats(place: Path) -> None:
    assert run("a fox", "--seed", "1", "--out", "plain.apng")[0] == 0
    assert run("a fox", "--seed", "1", "--fps-out", "20", "--out", "fast.apng")[0] == 0
    plain, fps = read_video("plain.apng")
    fast, fps_out = read_video("fast.apng")
    assert fps_out == 20 and len(fast) == round(len(plain) * 20 / fps)
    assert read_metadata("fast.apng")["request"]["fps_out"] == 20
    assert run("--from", "fast.apng", "--out", "again.apng")[0] == 0
    assert np.array_equal(read_video("again.apng")[0], fast)
    # the same by hand, and what is made by hand is rendered and finished again by its record
    assert finish("plain.apng", "--fps-out", "20", "--out", "hand.apng")[0] == 0
    assert np.array_equal(read_video("hand.apng")[0], fast)
    assert run("--from", "hand.apng", "--out", "third.apng")[0] == 0
    assert np.array_equal(read_video("third.apng")[0], fast)
    assert finish("hand.apng", "--fps-out", "40", "--out", "twice.apng")[0] == 0
    twice = read_metadata("twice.apng")
    assert "request" not in twice, "one request cannot say it"
    assert twice["made_from"]["record"]["request"]["fps_out"] == 20


@needs_models
def test_frames_without_a_file_are_finished_too(place: Path) -> None:
    request = build_request({"prompt": "a fox", "seed": 1, "upscaler": X2, "fps_out": 16, "fps": 8})
    phases = []

    def on_event(event: Event) -> None:
        phases.append((event.phase, event.step))

    renderer = Renderer(load=lambda *_: FakePipeline())
    (clip,) = [clip.array() for clip in renderer.clips([request], on_event=on_event)]
    plain = build_request({"prompt": "a fox", "seed": 1, "fps": 8})
    (before,) = [clip.array() for clip in renderer.clips([plain])]
    assert clip.shape == (2 * len(before), 2 * before.shape[1], 2 * before.shape[2], 3)
    upscaler = upscale.published_upscaler(X2)
    assert np.array_equal(clip[::2], np.stack([upscaler(frame) for frame in before]))
    assert ("finish", len(before)) in phases


def test_quality_alone_encodes_anew(place: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    write_video(noise, "a.mp4", fps=8, quality=90)
    before = Path("a.mp4").read_bytes()
    code, out, err = finish("a.mp4", "--quality", "20")
    assert (code, out, err) == (0, "a-copy.mp4  (8 frames, 64x64, 8 a second)\n", "")
    assert Path("a-copy.mp4").stat().st_size < len(before) / 2 and Path("a.mp4").read_bytes() == before
    assert finish("a.mp4", "--quality", "80")[1].startswith("a-copy-2.mp4"), "given, though it is the default"
    write_video(noise, "b.mkv", fps=8)
    code, out, err = finish("b.mkv", "--quality", "20", "--loop", "3")
    assert code == 0 and "quality" in err and "loop" in err, "neither has an effect on it"


def test_a_file_that_is_named_is_replaced(place: Path) -> None:
    """The same at every command: what --out names is replaced, which is said; a name that is chosen is free."""
    write_video(sprite_clip("right", 4), "a.mkv", fps=8)
    said = "b.mp4: was there already, and is replaced"
    assert said not in finish("a.mkv", "--out", "b.mp4")[2]
    assert said in finish("a.mkv", "--out", "b.mp4")[2]
    assert said not in finish("a.mkv", "--out", "b.mp4", "--quiet")[2]
    assert said in run("a fox", "--seed", "1", "--out", "b.mp4")[2]
    assert said not in run("a fox", "--seed", "1", "--out", "b.mp4", "--quiet")[2]
    Path("c-1.gif").touch()
    err = run("a fox", "a fox", "--seed", "1", "--out", "c.gif")[2]
    assert err.count("there already") == 1 and "c-1.gif: was there already" in err
    assert "there already" not in run("a fox")[2] + run("a fox")[2]


def test_cancelling_leaves_nothing(place: Path) -> None:
    write_video(sprite_clip("right", 8), "a.mkv", fps=8)
    seen: list[str] = []
    with pytest.raises(Cancelled):
        upscale_files(
            ["a.mkv"], Finish(fps_out=24), Target(out="b.mp4"),
            on_event=lambda event: seen.append(event.phase), cancel=lambda: len(seen) > 3,
        )  # fmt: skip
    assert sorted(path.name for path in place.iterdir()) == ["a.mkv"]


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no video is given"),
        (("a.mkv",), "nothing to do: give --upscaler, --fps-out, --quality, or --out in another format"),
        (("a.mkv", "--upscaler", "realesr-animevideov3x2"), "did you mean 'realesr-animevideov3-x2'?"),
        (("a.mkv", "--upscaler", "none.pth"), "none.pth: no such file, nor one of this name in models/upscale_models"),
        (("a.mkv", "--upscaler", "folder"), "is a folder, expected the weight file"),
        (("a.mkv", "--upscaler", "bad.pth"), "weights (.safetensors, .ckpt, .pt, .pth or .bin)"),
        (("a.mkv", "--upscaler", "text.mp4"), "weights are in .safetensors, .ckpt, .pt, .pth or .bin"),
        (("no.mp4", "--fps-out", "24"), "no.mp4: no such file"),
        (("text.mp4", "--fps-out", "24"), "text.mp4: "),
        (("cut.mkv", "--fps-out", "24"), "cut.mkv: "),
        (("folder", "--fps-out", "24"), "no images in this folder"),
        (("a.mkv", "--fps-out", "1e9"), "expected more than 0 and at most 240"),
        (("a.mkv", "--fps-out", "nan"), "fps_out"),
        (("a.mkv", "--fps-out", "0"), "fps_out"),
        (("a.mkv", "--fps-out", "0.0001"), "a frame in more than a quarter of an hour"),
        (("a.mkv", "--fps-out", "240", "--max-frames", "100"), "would have 240 frames at 240 a second (--fps-out)"),
        (("a.mkv", "--out", "a.mkv"), "is the file itself"),
        (("a.mkv", "--out", "b.avi"), "cannot write '.avi'"),
        (("a.mkv", "--out", "b.mp4", "--codec", "h256"), "did you mean 'h265'?"),
        (("a.mkv", "--out", "b.gif", "--codec", "h265"), ".gif has no codec to choose"),
        (("a.mkv", "--out", "b.mp4", "--max-size", "1"), "--max-size is for gif and webp"),
        (("a.mkv", "--out", "b.gif", "--max-size", "-1"), "max_size"),
        (("a.mkv", "--out", "b.mp4", "--quality", "101"), "quality"),
        (("a.mkv", "--out", "text.mp4/b.mp4"), "text.mp4"),
    ],
)  # fmt: skip
def test_mistakes_are_one_message_and_leave_nothing(place: Path, arguments: tuple[str, ...], words: str) -> None:
    write_video(sprite_clip("right", 8), "a.mkv", fps=8)
    Path("text.mp4").write_text("no video")
    Path("cut.mkv").write_bytes(Path("a.mkv").read_bytes()[:3000])
    Path("bad.pth").write_bytes(bytes(range(200, 250)) * 9)
    Path("folder").mkdir()
    before = sorted(path.name for path in place.rglob("*"))
    code, out, err = finish(*arguments)
    assert (code, out) == (2, ""), err
    assert words in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(path.name for path in place.rglob("*")) == before


def test_a_full_disk_is_one_message(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from animatediff.media.encode import CodecEncoder

    def full(self: object, frame: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_video(sprite_clip("right", 4), "a.mkv", fps=8)
    monkeypatch.setattr(CodecEncoder, "add", full)
    code, out, err = finish("a.mkv", "--fps-out", "24")
    assert (code, out) == (2, "") and "the disk is full" in err
    assert [path.name for path in place.iterdir()] == ["a.mkv"]


def test_mistakes_of_a_rendered_clip_come_before_the_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    loading(monkeypatch, never)
    for arguments, words in (
        (("--upscaler", "realesrgan"), "did you mean 'realesrgan-x4plus'?"),
        (("--fps-out", "500"), "at most 240"),
        (("--codec", "ffv1", "--out", "a.mp4"), ".mkv hold it"),
        (("--max-size", "3", "--out", "a.mp4"), "--max-size is for gif and webp"),
    ):
        assert words in is_one_message(place, "a fox", *arguments)


# -- documentation ----------------------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """The commands in the table of recipes of docs/media.md."""
    text = (ROOT / "docs" / "media.md").read_text("utf-8")
    return re.findall(r"^\|[^|]*\| `(animatediff [^`]*)`", text, re.MULTILINE)


@needs_models
def test_recipes_of_the_docs_run_as_they_stand(place: Path) -> None:
    clip = sprite_clip("right", 3)
    for name in ("fox.mp4", "fox.mkv", "fox.gif"):
        write_video(clip, name, fps=8)
    write_video(spinning_loop(6), "loop.mp4", fps=8)
    found = recipes()
    assert len(found) > 8
    for recipe in found:
        words = [path for word in shlex.split(recipe)[1:] for path in (sorted(glob.glob(word)) or [word])]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{recipe}: {result.output}"
        if "frames" in words[-1]:  # with transparency, for the command after it
            for path in Path("frames").glob("*.png"):
                Image.open(path).convert("RGBA").save(path)
    made = {"fox.gif", "fox.mov", "frames", "fox.webm", "fox-upscaled.mp4", "fox-24fps.mp4", "loop-24fps.mp4"}
    assert made <= {path.name for path in place.iterdir()}
    assert Path("fox.gif").stat().st_size < 2_000_000
