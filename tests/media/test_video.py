"""What is written can be read back: count, size, rate, picture, metadata; and nothing half written stays."""

from __future__ import annotations

import errno
import os
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff.errors import UserError
from animatediff.media import VideoWriter, check_writable, make_grid, read_metadata, read_video, write_video
from animatediff.media.spool import ticks

METADATA = {"animatediff": "0", "request": {"prompt": ["ein Füchslein, “rennt” 🦊"], "seed": [2**64 - 1]}}
LOSSY = ("mp4", "webm", "gif", "webp")
ALL = (*LOSSY, "apng", "png", "")


def clip(num_frames: int = 9, height: int = 48, width: int = 64) -> np.ndarray:
    """A soft gradient with a square that moves over it, no two frames alike."""
    y, x = np.mgrid[:height, :width]
    frames = np.stack([np.stack([x * 3, y * 4, 128 + (x + y) // 2], -1) for _ in range(num_frames)]).astype(np.uint8)
    for i, frame in enumerate(frames):
        frame[10:22, 3 + 3 * i : 15 + 3 * i] = (220, 40, 30)
    return frames


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2))


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize("fps", [8, 24, Fraction(30000, 1001)])
def test_round_trip(tmp_path: Path, suffix: str, fps: float) -> None:
    frames = clip()
    path = write_video(frames, tmp_path / ("clip." + suffix if suffix else "clip"), fps=fps, metadata=METADATA)
    back, rate = read_video(path)
    assert back.shape == frames.shape
    assert rate == pytest.approx(float(fps), rel=0.02)
    if suffix in LOSSY:
        assert min(psnr(a, b) for a, b in zip(frames, back, strict=True)) > 28  # the next frame would score 23
    else:
        assert np.array_equal(back, frames)
    assert read_metadata(path) == METADATA
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_webp_lossless_at_quality_100(tmp_path: Path) -> None:
    frames = clip()
    assert np.array_equal(read_video(write_video(frames, tmp_path / "a.webp", quality=100))[0], frames)


@pytest.mark.parametrize("suffix", LOSSY[:2])
def test_quality_is_what_it_says(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 64, (4, 64, 64, 1), dtype=np.uint8) + clip(4, 64, 64) // 2
    low, high = (write_video(noise, tmp_path / f"{q}.{suffix}", quality=q) for q in (20, 95))
    assert low.stat().st_size < 0.5 * high.stat().st_size
    assert psnr(read_video(low)[0], noise) + 3 < psnr(read_video(high)[0], noise)


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
@pytest.mark.parametrize("num_frames", [1, 2, 33])
def test_exact_duration(tmp_path: Path, suffix: str, num_frames: int) -> None:
    import av

    path = write_video(clip(num_frames, 32, 160), tmp_path / f"clip.{suffix}", fps=8)
    with av.open(str(path)) as container:
        assert container.duration == num_frames * 125_000
        assert container.streams.video[0].average_rate == 8


@pytest.mark.parametrize("suffix", ["mp4", "webm"])
def test_the_same_frames_make_the_same_file(tmp_path: Path, suffix: str) -> None:
    """Whatever memory holds, and however many processors there are; x264 differs most at widths such as this one."""
    rng = np.random.default_rng(0)
    frames = (clip(16, 128, 192) // 2 + rng.integers(0, 4, (16, 128, 192, 3))).astype(np.uint8)
    files = set()
    for _ in range(8):
        litter = [np.full(rng.integers(1000, 300_000), rng.integers(255), np.uint8) for _ in range(30)]
        del litter
        files.add(write_video(frames, tmp_path / f"clip.{suffix}", metadata=METADATA).read_bytes())
    if hasattr(os, "sched_setaffinity"):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            files.add(write_video(frames, tmp_path / f"clip.{suffix}", metadata=METADATA).read_bytes())
        finally:
            os.sched_setaffinity(0, before)
    assert len(files) == 1


def test_frames_as_pipelines_return_them(tmp_path: Path) -> None:
    import torch

    frames = clip(3)
    unit = frames.astype(np.float32) / 255
    of_clip = {
        "pil": [Image.fromarray(frame) for frame in frames],
        "np": unit,
        "pt": torch.from_numpy(unit).permute(0, 3, 1, 2),
        "half": list(torch.from_numpy(unit).permute(0, 3, 1, 2).to(torch.float64)),
        "bytes": torch.from_numpy(frames).permute(0, 3, 1, 2),
        "chunks": (part for part in (frames[:2], frames[2:])),
    }
    for name, given in of_clip.items():
        assert np.array_equal(read_video(write_video(given, tmp_path / f"{name}.apng"))[0], frames), name


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([[Image.new("RGB", (8, 8))]], r"`out.frames\[0\]`"),
        (np.zeros((1, 2, 8, 8, 3), np.float32), r"`out.frames\[0\]`"),
        (np.zeros((8, 8, 3), np.float32), "frames are images"),
        (np.full((2, 8, 8, 3), 200.0), "values from 0 to 1"),
        (np.full((2, 8, 8, 3), np.nan), "not finite"),
        (np.zeros((2, 8, 8, 3), np.int64), "got int64"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"got ndarray \(8, 8, 4\)"),
        ([None], "got NoneType"),
        ("fox.png", "got str"),
    ],
)
def test_what_is_no_frames_is_refused(tmp_path: Path, frames: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_video(frames, tmp_path / "a.apng")
    assert not list(tmp_path.iterdir())


def test_mp4_plays_everywhere(tmp_path: Path) -> None:
    import av

    path = write_video(clip(), tmp_path / "clip.mp4", metadata=METADATA)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # faststart


@pytest.mark.parametrize("suffix", ["mp4", "webm", "gif", "webp", "apng"])
def test_odd_sizes(tmp_path: Path, suffix: str) -> None:
    frames = clip(3, 47, 63)
    back = read_video(write_video(frames, tmp_path / f"odd.{suffix}"))[0]
    assert back.shape[1:] == ((48, 64, 3) if suffix == "mp4" else (47, 63, 3))
    assert psnr(back[:, :47, :63], frames) > 28


def test_colours_survive(tmp_path: Path) -> None:
    for suffix in ("mp4", "webm"):
        for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128)):
            frames = np.full((2, 32, 32, 3), colour, np.uint8)
            back = read_video(write_video(frames, tmp_path / f"c.{suffix}", quality=95))[0]
            assert np.abs(back.astype(int) - frames).max() <= 4, (suffix, colour, back[0, 0, 0])


def test_gif_is_its_own_and_does_not_flicker(tmp_path: Path) -> None:
    path = write_video(clip(), tmp_path / "clip.gif", fps=8, metadata={"text": "x" * 1000})
    back, _ = read_video(path)
    still = back[:, 30:]  # the square never gets there
    assert (still == still[0]).all()
    with Image.open(path) as picture:
        lengths = []
        for i in range(picture.n_frames):
            picture.seek(i)
            lengths.append(picture.info["duration"])
        assert picture.info["loop"] == 0
    assert sum(lengths) == 1120  # 9 frames at 8 fps are 1.125 s; GIF counts hundredths
    assert read_metadata(path) == {"text": "x" * 1000}


def test_the_palette_of_a_long_gif_is_made_from_frames_along_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from animatediff.media import gif

    frames = np.repeat(clip(16), 2, axis=0)
    whole = write_video(frames, tmp_path / "a.gif").read_bytes()
    monkeypatch.setattr(gif, "PALETTE_FRAMES", 32)
    assert write_video(frames, tmp_path / "b.gif").read_bytes() == whole
    monkeypatch.setattr(gif, "PALETTE_FRAMES", 4)
    back = read_video(write_video(frames, tmp_path / "c.gif"))[0]
    assert back.shape == frames.shape and psnr(back, frames) > psnr(read_video(tmp_path / "a.gif")[0], frames) - 3


def test_gif_of_few_colours_is_nearly_exact(tmp_path: Path) -> None:
    frames = np.zeros((4, 40, 40, 3), np.uint8) + np.array([10, 200, 30], np.uint8)
    for i in range(4):
        frames[i, 5:15, 5 + 5 * i : 15 + 5 * i] = (250, 3, 77 + i)
    assert psnr(read_video(write_video(frames, tmp_path / "a.gif"))[0], frames) > 40


@pytest.mark.parametrize("suffix", ["gif", "apng", "mp4"])
def test_still_clips_keep_their_frames(tmp_path: Path, suffix: str) -> None:
    frames = np.repeat(clip(1), 7, axis=0)
    assert len(read_video(write_video(frames, tmp_path / f"still.{suffix}"))[0]) == 7


def test_webp_with_repeated_frames_keeps_the_time(tmp_path: Path) -> None:
    frames = clip(4)[[0, 0, 1, 2, 2, 2, 3]]
    back, fps = read_video(write_video(frames, tmp_path / "a.webp", quality=100, fps=8))
    assert fps == 8
    assert np.array_equal(back, frames)


def test_apng_is_a_valid_file_for_others(tmp_path: Path) -> None:
    path = write_video(clip(5), tmp_path / "a.png", fps=Fraction(25, 2), loop=3)
    with Image.open(path) as picture:
        assert (picture.n_frames, picture.info["loop"], picture.info["duration"]) == (5, 3, 80.0)
    data = path.read_bytes()
    assert struct.unpack(">HH", data[data.index(b"fcTL") + 24 :][:4]) == (2, 25)


def test_chunks_and_single_frames_give_the_same_file(tmp_path: Path) -> None:
    frames = clip(7)
    whole = write_video(frames, tmp_path / "a.mp4").read_bytes()
    chunked = write_video((frames[i : i + 3] for i in range(0, 7, 3)), tmp_path / "b.mp4").read_bytes()
    assert whole == chunked


@pytest.mark.parametrize(
    ("suffix", "fps", "count"), [("gif", 60, 20), ("gif", 120, 10), ("webp", 120, 18), ("png", 240, 9)]
)
def test_frames_shorter_than_browsers_play_are_left_out_and_said(
    tmp_path: Path, suffix: str, fps: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """24 frames at 60 a second last 0.4 s, as 20 frames of 20 ms do."""
    path = write_video(clip(24, 24, 90), tmp_path / f"a.{suffix}", fps=fps)
    assert f"a.{suffix}: browsers play frames of 10 ms" in caplog.text and f"of {fps} frames a second" in caplog.text
    with Image.open(path) as picture:
        lengths = []
        for index in range(picture.n_frames):
            picture.seek(index)
            picture.load()
            lengths.append(picture.info["duration"])
    assert len(lengths) == count and min(lengths) > 10 and abs(sum(lengths) - 24_000 / fps) < 20
    caplog.clear()
    for name, rate in (("b.gif", 50), ("b.mp4", 60), ("b", 240)):
        assert len(read_video(write_video(clip(24, 24, 90), tmp_path / name, fps=rate))[0]) == 24
    assert "browsers" not in caplog.text


def test_ticks_never_drift() -> None:
    for fps in (8, 12, 23.976, 30, 60):
        lengths = ticks(1000, Fraction(fps), 100)
        assert abs(sum(lengths) - 1000 * 100 / fps) <= 0.5


@pytest.mark.parametrize("suffix", ALL)
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device"), RuntimeError("x")]
)
def test_nothing_stays_of_a_failure(tmp_path: Path, suffix: str, error: BaseException) -> None:
    def frames():
        yield clip(3)
        raise error

    with pytest.raises((BaseException,)):
        write_video(frames(), tmp_path / "new" / ("clip." + suffix if suffix else "clip"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ALL)
def test_disk_full(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up in the middle of a clip: one message, and nothing is left."""
    writer = VideoWriter(tmp_path / "out" / ("clip." + suffix if suffix else "clip"))

    def full(frame: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        with writer:
            writer.write(clip(2))
            monkeypatch.setattr(writer._encoder, "add", full)
            writer.write(clip(1))

    with pytest.raises(UserError, match="disk is full"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_outlives_a_failure(tmp_path: Path) -> None:
    path = write_video(clip(2), tmp_path / "a.gif")
    before = path.read_bytes()

    def broken() -> None:
        with VideoWriter(path) as writer:
            writer.write(clip(1))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        broken()
    assert path.read_bytes() == before


def test_without_overwrite_names_are_counted_up(tmp_path: Path) -> None:
    names = [write_video(clip(1), tmp_path / "a.gif", overwrite=False).name for _ in range(3)]
    assert names == ["a.gif", "a-2.gif", "a-3.gif"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "a.mp4", tmp_path / "file" / "deep" / "frames"):
        for call in (lambda: write_video(clip(1), place), lambda: check_writable(place)):  # noqa: B023
            with pytest.raises(UserError, match="cannot be written"):
                call()
    check_writable(tmp_path / "new" / "a.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UserError, match=r"did you mean '\.mp4'\? known are "):
        write_video(clip(1), tmp_path / "a.mp3")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds other files"):
        write_video(clip(1), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frames"):
        write_video(iter(()), tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_reading_what_is_no_video(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.gif", "a.txt"):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UserError, match=name):
            read_video(tmp_path / name)
        with pytest.raises(UserError, match=name):
            read_metadata(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_video(tmp_path / "missing.mp4")


def test_grid() -> None:
    clips = [np.full((2 + i, 8, 8, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    grid = make_grid(clips, columns=4, padding=2)
    assert grid.shape == (6, 22, 42, 3)
    assert (grid[5, 2:10, 2:10] == 40).all()  # the shortest clip holds its last frame
    assert (grid[0, 12:20, 2:10] == 200).all()
    assert (grid[:, 12:, 12:] == 0).all()
