"""Formats for editors, archives and small files: each is read back as it was written, within what it can hold."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.sprite_clips import psnr, sprite_clip

from animatediff.errors import UserError
from animatediff.media import VideoWriter, gif, read_metadata, read_video, shrink, write_video
from animatediff.media.formats import check_sides
from animatediff.media.read import open_clip

METADATA = {"request": {"prompt": ["a fox"]}}


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """uint8 (8, 128, 128, 3)."""
    return sprite_clip("right", 8).repeat(2, 1).repeat(2, 2)


@pytest.fixture(scope="module")
def clear(clip: np.ndarray) -> np.ndarray:
    """The same in a disc with a soft edge: uint8 (8, 128, 128, 4)."""
    radius = np.hypot(*np.mgrid[-64:64, -64:64])
    alpha = ((60 - radius) / 8).clip(0, 1)[None, :, :, None].repeat(len(clip), 0)
    return np.concatenate([clip, (alpha * 255).round().astype(np.uint8)], -1)


@pytest.mark.parametrize(
    ("name", "codec", "encoder", "least"),
    [
        ("a.mkv", None, "ffv1", 70), ("a.mkv", "h265", "hevc", 30), ("a.mov", None, "prores", 45),
        ("a.mov", "h264", "h264", 30), ("a.mp4", "h265", "hevc", 30), ("a.mp4", "av1", "libdav1d", 30),
        ("a.webm", "av1", "libdav1d", 30),
    ],
)  # fmt: skip
def test_codecs(
    name: str,
    codec: str | None,
    encoder: str,
    least: float,
    clip: np.ndarray,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_video(clip, tmp_path / name, fps=12, codec=codec, metadata=METADATA)
    with av.open(str(path)) as file:
        assert file.streams.video[0].codec_context.name == encoder
    frames, fps = read_video(path)
    assert (frames.shape, fps) == (clip.shape, 12)
    assert psnr(frames, clip) > least
    assert read_metadata(path) == METADATA
    assert capfd.readouterr().err == "", "encoders keep their words to themselves"
    if encoder == "ffv1":
        assert np.array_equal(frames, clip)
    if encoder == "prores":
        assert np.abs(frames.astype(int) - clip).max() <= 6, "10 bits in YUV, lightly quantised"


@pytest.mark.parametrize("name", ["a.mkv", "a.mov", "a.webm", "a.webp", "a.apng", "a.gif", "frames"])
def test_transparency_is_kept(name: str, clear: np.ndarray, tmp_path: Path) -> None:
    with VideoWriter(tmp_path / name, fps=12, quality=100, metadata=METADATA) as writer:
        writer.write(clear)
    with open_clip(writer.path, alpha=True) as file:
        assert file.clear
        frames = np.stack(list(file.frames))
    assert frames.shape == clear.shape and read_metadata(writer.path) == METADATA
    seen = clear[..., 3] > 128
    if name in ("a.mkv", "a.apng", "frames"):
        assert np.array_equal(frames, clear)
    elif name == "a.webp":  # which leaves out colours that nobody sees
        assert np.array_equal(frames[..., 3], clear[..., 3])
        assert np.array_equal(frames[frames[..., 3] > 0], clear[clear[..., 3] > 0])
    elif name == "a.gif":
        assert np.array_equal(frames[..., 3] > 0, clear[..., 3] >= 128)
        assert np.abs(frames[seen][:, :3].astype(int) - clear[seen][:, :3]).mean() < 4
    else:
        near = 2 if name == "a.mov" else 12
        assert np.abs(frames[..., 3].astype(int) - clear[..., 3]).max() <= near
        assert np.abs(frames[seen][:, :3].astype(int) - clear[seen][:, :3]).mean() < near / 2
    on_white = read_video(writer.path)[0]
    assert on_white.shape[-1] == 3 and (on_white[:, 0, 0] > 250).all()


def test_a_format_without_transparency_says_so(
    clear: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with VideoWriter(tmp_path / "a.mp4") as writer:
        writer.write(clear[:4])
        writer.write(clear[4:])
    assert [line.count("holds no transparency, so frames are on white") for line in caplog.messages] == [1]
    assert (read_video(writer.path)[0][:, 0, 0] > 240).all()
    with open_clip(writer.path, alpha=True) as file:
        assert not file.clear


@pytest.mark.parametrize(
    ("name", "codec", "words"),
    [
        ("a.gif", "h265", r"\.gif has no codec to choose; \.mp4 and \.mov and \.mkv hold it"),
        ("a.mp4", "prores", r"\.mp4 has h264, h265, av1; \.mov hold it"),
        ("a.mp4", "h266", "did you mean 'h26"),
        ("frames", "ffv1", "a folder of PNG has no codec"),
    ],
)
def test_codecs_that_a_format_does_not_have(name: str, codec: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        VideoWriter(tmp_path / name, codec=codec)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_this_build_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"libx264"})
    with pytest.raises(UserError, match="built without libx265"):
        VideoWriter(tmp_path / "a.mp4", codec="h265")


# -- below a size -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "with_gifsicle"), [("gif", True), ("gif", False), ("webp", False)])
def test_a_largest_size_is_kept_by_giving_up_no_more_than_it_takes(
    suffix: str, with_gifsicle: bool, clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    if with_gifsicle and gif.gifsicle() is None:
        pytest.skip("gifsicle is not installed everywhere")
    if not with_gifsicle:
        monkeypatch.setattr(gif, "gifsicle", lambda: None)
    clip = clip[:, ::2, ::2]
    noise = np.random.default_rng(0).integers(-20, 20, clip.shape)
    frames = (clip.astype(int) + noise).clip(0, 255).astype(np.uint8)
    whole = write_video(frames, tmp_path / f"a.{suffix}", fps=12, metadata=METADATA).stat().st_size
    before: tuple[int, ...] = frames.shape
    for share in (1.0, 0.6, 0.15):
        caplog.clear()
        path = write_video(frames, tmp_path / f"b.{suffix}", fps=12, max_size=whole * share / 1e6, metadata=METADATA)
        made, fps = read_video(path)
        assert path.stat().st_size <= whole * share and read_metadata(path) == METADATA
        assert made.shape[0] <= before[0] and made.shape[1] <= before[1], "less and less"
        assert abs(len(made) / fps - 8 / 12) < 3 / 12, "it keeps its speed"
        assert [line.startswith("to be below ") for line in caplog.messages] == [True] * (share < 1)
        before = made.shape
    with pytest.raises(UserError, match=r"`max_size` 0\.0001 MB: the smallest that this clip can be made has 0\."):
        write_video(frames, tmp_path / f"c.{suffix}", fps=12, max_size=0.0001)
    assert not (tmp_path / f"c.{suffix}").exists()


def test_the_order_of_what_is_given_up() -> None:
    for steps in (shrink.GIF, shrink.WEBP):
        first = steps[0]
        assert not str(first), "first nothing"
        for one, other in pairwise(steps):
            assert other.colors <= one.colors and other.lossy >= one.lossy and other.every >= one.every
            assert other.scale <= one.scale and (other.quality or 0) <= (one.quality or 100)


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_that_are_none(size: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected more than 0 megabytes"):
        VideoWriter(tmp_path / "a.gif", max_size=size)
    with pytest.raises(UserError, match="`max_size` is for gif and webp; `quality` makes others smaller"):
        VideoWriter(tmp_path / "a.mp4", max_size=1)


@pytest.mark.skipif(shutil.which("gifsicle") is None, reason="gifsicle is not installed")
def test_gifsicle_leaves_frames_times_and_text_as_they_are(
    clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.concatenate([clip, clip[-1:], clip[-1:]])  # without a change at the end
    smaller = write_video(frames, tmp_path / "a.gif", fps=12, loop=3, metadata=METADATA)
    monkeypatch.setattr(gif, "gifsicle", lambda: None)
    plain = write_video(frames, tmp_path / "b.gif", fps=12, loop=3, metadata=METADATA)
    assert smaller.stat().st_size < plain.stat().st_size
    assert np.array_equal(read_video(smaller)[0], read_video(plain)[0])
    assert read_metadata(smaller) == METADATA
    with Image.open(smaller) as one, Image.open(plain) as other:
        assert one.n_frames == other.n_frames == 10 and one.info["loop"] == other.info["loop"] == 2
        for index in range(10):
            one.seek(index)
            other.seek(index)
            assert one.info["duration"] == other.info["duration"]


def test_a_gifsicle_that_fails_costs_nothing(
    clip: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for program in ("/bin/false", str(tmp_path / "none")):
        monkeypatch.setattr(gif, "gifsicle", lambda program=program: program)
        path = write_video(clip, tmp_path / "a.gif")
        assert read_video(path)[0].shape == clip.shape
        assert "gifsicle cannot make the GIF smaller" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("codec", "size", "message"),
    [
        ("h264", (16384, 8), ""),
        ("h264", (16392, 8), "a.mp4: h264 holds frames of at most 16384 x 16384, not of 16392 x 8"),
        ("av1", (64, 8712), "at most 16384 x 8704"),
        ("h265", (64, 8), "at least 16 pixels a side"),
        ("webp", (8, 16384), "at most 16383 x 16383"),
        ("ffv1", (8, 100_000), ""),
        ("folder", (8, 100_000), ""),
    ],
)
def test_sizes_that_a_codec_does_not_hold(codec: str, size: tuple[int, int], message: str) -> None:
    with nullcontext() if not message else pytest.raises(UserError, match=message):
        check_sides("a.mp4", codec, *size)
    if codec == "h264":
        with nullcontext() if not message else pytest.raises(av.FFmpegError):
            context: Any = av.CodecContext.create("libx264", "w")
            context.width, context.height = size
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 8)
            context.open()
