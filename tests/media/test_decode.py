"""Decoding gives exactly the frames asked for, whatever the codec and its order; clips are cut as drawn."""

from __future__ import annotations

import random
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from support.videos import HEIGHT, WIDTH, number_of, numbered_frame, numbered_video

from animatediff.media import write_video
from animatediff.media.decode import VideoFile
from animatediff.media.kinds import BadMedia
from animatediff.media.stills import read_image
from animatediff.training.data.clip import Draw, choose_frames, cut, draw, to_clip
from animatediff.training.data.config import DataConfig

MIDDLE = Draw(start=0.5, x=0.5, y=0.5, mirrored=False)

ENCODINGS: dict[str, dict[str, Any]] = {
    "h264-open-gop.mp4": {"codec": "libx264", "options": {"x264-params": "open-gop=1:bframes=5:keyint=12"}},
    "h264-one-key.mp4": {"codec": "libx264", "options": {"x264-params": "keyint=300"}},
    "h264.mkv": {"codec": "libx264", "options": {"x264-params": "keyint=7"}},
    "h264.avi": {"codec": "libx264", "options": {"x264-params": "keyint=10:bframes=3"}},
    "h264.ts": {"codec": "libx264", "options": {"x264-params": "keyint=10:bframes=3"}},
    "h265-open-gop.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=12"}},
    "vp8-hidden-frames.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "1M"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "crf": "20", "b": "0"}},
    "mpeg4.mp4": {"codec": "mpeg4", "options": {"b": "2M", "bf": "2"}},
    "every-frame-a-key.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "options": {}},
}  # fmt: skip


def encode(path: Path, codec: str, options: dict[str, str], pix_fmt: str = "yuv420p", times: Any = None) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.codec_context.gop_size = 12
        stream.codec_context.options = options
        for number in range(60):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24").reformat(format=pix_fmt)
            frame.pts = times(number) if times else number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ENCODINGS)
def test_exact_frames(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    with VideoFile(encode(tmp_path / name, **ENCODINGS[name])) as video:
        assert video.num_frames == 60
        for _ in range(6):
            stride = rng.choice([1, 2, 4])
            first = rng.randrange(60)
            indices = list(range(first, min(60, first + 6 * stride), stride))
            frames = video.read(indices)
            assert frames.dtype == np.uint8 and frames.shape == (len(indices), HEIGHT, WIDTH, 3)
            assert [number_of(frame) for frame in frames] == indices
        assert [number_of(frame) for frame in video.read([59, 0, 0, 31])] == [59, 0, 0, 31]


def test_exact_frames_of_a_varying_rate(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", {"x264-params": "bframes=3"}, times=lambda i: i * (i + 3) // 2)
    with VideoFile(path) as video:
        assert [number_of(frame) for frame in video.read([3, 20, 41, 59])] == [3, 20, 41, 59]


def test_only_frames_up_to_the_last_wanted_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(tmp_path / "a.mp4", "libx264", {"x264-params": "keyint=10:min-keyint=10:scenecut=0:bframes=2"})
    with VideoFile(path) as video:
        decoded = []
        container = video._container

        class Spy:
            def seek(self, *args: Any, **kwargs: Any) -> None:
                container.seek(*args, **kwargs)

            def decode(self, stream: Any) -> Any:
                for frame in container.decode(stream):
                    decoded.append(frame.pts)
                    yield frame

            def close(self) -> None:
                container.close()

        video._container = Spy()
        video.read([33, 35])
        assert len(decoded) == 6  # 30 to 35, of 60


def test_bytes_are_read_like_files(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4")
    with VideoFile(path.read_bytes()) as video:
        assert [number_of(frame) for frame in video.read([5, 23])] == [5, 23]


def test_colours_are_those_written(tmp_path: Path) -> None:
    colours = np.array([(220, 40, 30), (30, 200, 60), (40, 60, 210), (128, 128, 128)], np.uint8)
    frames = np.broadcast_to(np.repeat(colours, 24, 0)[None, None], (3, 48, 96, 3))
    path = write_video(np.ascontiguousarray(frames), tmp_path / "a.mp4", quality=95)
    with VideoFile(path) as video:
        found = video.read([1])[0][24, 12::24]
    assert np.abs(found.astype(int) - colours).max() <= 3


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3)])
def test_a_turned_video_is_read_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    """Telephones write how the player must turn the picture, clockwise, into the track header."""
    path = numbered_video(tmp_path / "a.mp4", 3)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes after the name
    assert struct.unpack(">9i", content[at : at + 36])[0] == 1 << 16
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    one = 1 << 16
    content[at : at + 36] = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    with VideoFile(path) as video:
        turned = video.read([2])[0]
    assert number_of(np.rot90(turned, turns)) == 2  # anticlockwise, back to how it lies in the file
    assert turned.shape == ((WIDTH, HEIGHT, 3) if turns % 2 else (HEIGHT, WIDTH, 3))


BAD = {
    "text": (b"just some words\n" * 50, "is a text file"),
    "html": (b"<!DOCTYPE html><html>sign in</html>", "is a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "empty": (b"", r"is empty \(0 bytes\)"),
    "noise": (np.random.default_rng(0).bytes(4000), "cannot be"),
    "playlist": (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "is a text file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_video_is_called_what_it_is(tmp_path: Path, what: str) -> None:
    content, message = BAD[what]
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(BadMedia, match=message):
            VideoFile(source)


def test_damaged_videos(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "a.mp4", 60)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(BadMedia, match=r"ends early: [0-9]+ of 60 frames are there"):
        VideoFile(path)
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    with pytest.raises(BadMedia, match=r"cannot be (read|decoded)"), VideoFile(path) as video:
        video.read([0, 59])


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadMedia, match="holds no video"):
        VideoFile(tmp_path / "a.mp4")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadMedia, match="no such file"):
        VideoFile(tmp_path / "a.mp4")


def test_pictures(tmp_path: Path) -> None:
    red = Image.new("RGBA", (8, 6), (255, 0, 0, 0))
    red.putpixel((0, 0), (255, 0, 0, 255))
    red.save(tmp_path / "a.png")
    picture = read_image(tmp_path / "a.png")
    assert picture.shape == (6, 8, 3) and picture[0, 0].tolist() == [255, 0, 0] and picture[1, 1].tolist() == [255] * 3
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by the camera
    Image.new("RGB", (8, 6)).save(tmp_path / "b.jpg", exif=exif)
    assert read_image((tmp_path / "b.jpg").read_bytes()).shape == (8, 6, 3)
    (tmp_path / "c.png").write_bytes(b"<html>no</html>")
    with pytest.raises(BadMedia, match="web page"):
        read_image(tmp_path / "c.png")


def test_choice_of_frames() -> None:
    assert choose_frames(100, 4, 8, 0.0) == [0, 8, 16, 24]
    assert choose_frames(100, 4, 8, 1.0) == [75, 83, 91, 99]
    assert choose_frames(10, 4, 8, 0.0) == [0, 3, 6, 9]  # too short for the stride: the largest that fits
    assert choose_frames(4, 4, 8, 0.9) == [0, 1, 2, 3]
    assert choose_frames(7, 1, 4, 0.999) == [6]
    assert {choose_frames(7, 1, 4, i / 70)[0] for i in range(70)} == set(range(7))
    with pytest.raises(BadMedia, match="has 3 frames, 4 are needed"):
        choose_frames(3, 4, 1, 0.0)


def test_draws_hang_on_their_arguments_alone() -> None:
    config = DataConfig(path="x", flip=True, seed=3)
    draws = {draw(config, epoch, index, "a") for epoch in range(4) for index in range(50)}
    assert len(draws) == 200 and 60 < sum(d.mirrored for d in draws) < 140
    assert draw(config, 2, 7, "a") == draw(config, 2, 7, "b") != draw(config.model_copy(update={"seed": 4}), 2, 7, "a")
    cached = config.model_copy(update={"cache": "folder", "cache_variants": 3})
    assert len({draw(cached, epoch, 7, "a") for epoch in range(60)}) == 3


def test_crop_pad_and_stretch() -> None:
    """A white picture of 40 x 80 with a black left and a grey right quarter."""
    frames = np.full((2, 40, 80, 3), 255, np.uint8)
    frames[:, :, :20], frames[:, :, 60:] = 0, 128
    config = DataConfig(path="x", num_frames=2, height=40, width=40)
    crop = to_clip(frames, config, MIDDLE)
    assert crop.shape == (2, 3, 40, 40) and crop.dtype == torch.float32 and bool((crop == 1).all())
    left = to_clip(frames, config, Draw(0, 0.0, 0.0, False))
    assert bool((left[..., :20] == -1).all()) and bool((left[..., 20:] == 1).all())
    mirrored = to_clip(frames, config, Draw(0, 0.0, 0.0, True))
    assert torch.equal(mirrored, left.flip(-1))
    pad = to_clip(frames, config.model_copy(update={"resize": "pad"}), MIDDLE)
    assert bool((pad[:, :, :10] == -1).all()) and bool((pad[:, :, 30:] == -1).all()) and pad[0, 0, 20, 20] == 1
    stretch = to_clip(frames, config.model_copy(update={"resize": "stretch"}), MIDDLE)
    assert stretch[0, 0, 20, 5] == -1 and stretch[0, 0, 20, 20] == 1 and abs(stretch[0, 0, 20, 35]) < 0.01


def test_cut_is_the_largest_part_of_that_shape() -> None:
    frames = np.zeros((1, 90, 160, 3), np.uint8)
    for height, width in ((64, 64), (256, 512), (512, 256)):
        part = cut(frames, height, width, MIDDLE)
        h, w = part.shape[1:3]
        assert abs(w / h - width / height) < 0.02 and (h == 90 or w == 160)
