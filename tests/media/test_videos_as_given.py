"""Videos and animations as people have them: bits, matrices, HDR, orientation, and which frame is shown when."""

from __future__ import annotations

import logging
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.media import CORNERS, encoded, frames_of, plain, timed
from support.videos import number_of, numbered_frame

from animatediff.media import read_video, write_video
from animatediff.media.decode import VideoFile
from animatediff.media.source import open_source
from animatediff.media.timing import steady


def middle(path: Path) -> list[int]:
    return frames_of(path)[0][8, 20].tolist()


@pytest.mark.parametrize(
    ("values", "layout", "level"),
    [
        ((32_896,), "gray16le", 128), ((65_535,), "gray16le", 255), ((257 * 77,), "gray16le", 77),
        ((64 + 438, 512, 512), "yuv420p10le", 128), ((940, 512, 512), "yuv420p10le", 255),
        ((64, 512, 512), "yuv444p10le", 0), ((256 + 1752, 2048, 2048), "yuv420p12le", 128),
        ((16, 128, 128), "yuv420p", 0), ((235, 128, 128), "yuv420p", 255),
    ],
)  # fmt: skip
def test_bits_of_videos(tmp_path: Path, values: tuple[int, ...], layout: str, level: int) -> None:
    found = middle(encoded(tmp_path / "a.mkv", [plain(values, layout)]))
    assert np.abs(np.array(found) - level).max() <= 1, found


@pytest.mark.parametrize(
    ("values", "tags", "width", "colour"),
    [
        ((63, 102, 240), {"colorspace": 1, "color_range": 1}, 64, (255, 0, 0)),
        ((81, 90, 240), {"colorspace": 6, "color_range": 1}, 64, (255, 0, 0)),
        ((81, 90, 240), {"colorspace": 2}, 64, (255, 0, 0)),  # untagged: small is BT.601
        ((63, 102, 240), {"colorspace": 2}, 1280, (255, 0, 0)),  # and large is BT.709
        ((76, 85, 255), {"colorspace": 6, "color_range": 2}, 64, (255, 0, 0)),
        ((128, 128, 128), {"colorspace": 1, "color_range": 2}, 64, (128, 128, 128)),
        ((126, 128, 128), {"colorspace": 1, "color_range": 1}, 64, (128, 128, 128)),
    ],
)
def test_ranges_and_matrices(tmp_path: Path, values: Any, tags: dict[str, int], width: int, colour: Any) -> None:
    frame = plain(values, "yuv444p", width, 16)
    frame.colorspace, frame.color_range = tags["colorspace"], tags.get("color_range", 0)
    found = middle(encoded(tmp_path / "a.mkv", [frame], **tags))
    assert np.abs(np.array(found) - colour).max() <= 3, found


def pq(nits: float) -> float:
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def srgb(light: float) -> float:
    return 255 * (1.055 * light ** (1 / 2.4) - 0.055)


def hdr(path: Path, signals: list[float], transfer: int) -> list[np.ndarray]:
    tags = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    frames = []
    for number, signal in enumerate(signals):
        frame = plain((round(64 + 876 * signal), 512, 512), "yuv444p10le")
        frame.pts, frame.time_base = number, Fraction(1, 8)
        for key, value in tags.items():
            setattr(frame, key, value)
        frames.append(frame)
    return frames_of(encoded(path, frames, **tags))


def test_high_dynamic_range_is_brought_to_standard_range_and_said(tmp_path: Path, caplog: Any) -> None:
    levels = [
        int(frame[8, 20, 0])
        for frame in hdr(tmp_path / "a.mkv", [pq(n) for n in (0, 10, 50, 203, 600, 1000, 4000)], 16)
    ]
    for level, nits in zip(levels[1:3], (10, 50), strict=True):
        assert abs(level - srgb(nits / 203)) <= 3, "up to half of white light stays what it is"
    assert levels == sorted(levels) and levels[0] == 0 and 180 < levels[3] < 235 < levels[4] < 255
    assert levels[5] == levels[6] == 255
    caplog.set_level(logging.WARNING)
    open_source(tmp_path / "a.mkv")
    assert "a.mkv: is in high dynamic range (HDR)" in caplog.text
    hlg = [int(frame[8, 20, 0]) for frame in hdr(tmp_path / "b.mkv", [0, 0.25, 0.5, 0.75, 1], 18)]
    assert hlg == sorted(hlg) and hlg[0] == 0 and 180 < hlg[3] < 235 and hlg[4] == 255  # 0.75 is diffuse white


MATRICES = {
    "0": (1, 0, 0, 1), "90": (0, 1, -1, 0), "180": (-1, 0, 0, -1), "270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1), "upside down": (1, 0, 0, -1), "transposed": (0, 1, 1, 0), "transversed": (0, -1, -1, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MATRICES)
def test_rotation_and_mirroring(tmp_path: Path, name: str) -> None:
    """Where a player shows a stored corner: x' = a x + c y, y' = b x + d y."""
    path = write_video(np.stack([CORNERS] * 3), tmp_path / "a.mp4", quality=95)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in MATRICES[name])
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    a, b, c, d = MATRICES[name]
    expected = np.zeros((32, 16, 3) if not a else (16, 32, 3), np.uint8)
    height, width = expected.shape[:2]
    ys, xs = np.mgrid[:16, :32]
    shown_x, shown_y = a * xs + c * ys, b * xs + d * ys
    expected[shown_y - shown_y.min(), shown_x - shown_x.min()] = CORNERS
    for frames in (read_video(path)[0], open_source(path).read(3, width, height)):
        assert frames.shape == (3, *expected.shape)
        for corner in (np.s_[:6, :6], np.s_[:6, -6:], np.s_[-6:, :6], np.s_[-6:, -6:]):
            assert np.abs(frames[1][corner].astype(int).mean((0, 1)) - expected[corner].mean((0, 1))).max() < 25


@pytest.mark.parametrize(
    ("aspect", "width"), [(Fraction(2), 128), (Fraction(16, 15), 68), (Fraction(1, 2), 32), (Fraction(1), 64)]
)
def test_pixels_are_square(tmp_path: Path, aspect: Fraction, width: int) -> None:
    frames = [plain((128, 128, 128), "yuv420p") for _ in range(2)]
    path = encoded(tmp_path / "a.mp4", frames, "libx264", sample_aspect_ratio=Fraction(aspect))
    assert read_video(path)[0].shape == (2, 16, width, 3)
    assert open_source(path).size == (width, 16)


def test_interlaced_video_is_said(tmp_path: Path, caplog: Any) -> None:
    frames = [plain((128, 128, 128), "yuv420p", 64, 64) for _ in range(3)]
    read_video(encoded(tmp_path / "a.mp4", frames, "libx264", options={"x264-params": "tff=1"}))
    assert "a.mp4: is interlaced" in caplog.text


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_the_frame_shown_at_a_time_comes_at_that_time(tmp_path: Path, name: str) -> None:
    times = [0, 33, 66, 500, 533, 1500, 1533, 1566]
    path = timed(tmp_path / name, times, "libvpx-vp9" if name == "a.webm" else "libx264")
    source = open_source(path)
    frames, fps = read_video(path)
    assert fps == source.fps and len(frames) == len(source.indices) <= 64
    given = source.read(len(frames), 96, 48)
    for time in (0.01, 0.25, 0.51, 0.6, 1.2, 1.51, 1.58):
        shown = sum(at / 1000 <= time for at in times) - 1
        assert number_of(frames[int(time * fps)]) == number_of(given[int(time * fps)]) == shown, time
    assert {number_of(frame) for frame in frames} == set(range(8))
    assert list(open_source(path, fps=4).indices)[:6] == [0, 2, 3, 4, 4, 4]
    assert list(open_source(path, start=1.5).indices)[:1] == [5]


def test_times_that_waver_are_one_rate(tmp_path: Path) -> None:
    path = timed(tmp_path / "a.mp4", [0, 35, 65, 101, 134, 165, 200, 232, 267, 300])
    frames, fps = read_video(path)
    assert [number_of(frame) for frame in frames] == list(range(10)) and abs(fps - 30) < 1
    path = timed(tmp_path / "b.mp4", [5000 + 125 * number for number in range(6)])
    assert open_source(path, start=0.25).indices == (2, 3, 4, 5), "times count from the first frame"


def test_a_video_whose_beginning_is_cut_away(tmp_path: Path) -> None:
    """By an edit list, as editors and telephones do."""
    path = timed(tmp_path / "a.mp4", [125 * number for number in range(12)])
    content = bytearray(path.read_bytes())
    at = content.index(b"elst") + 12
    length, begin = struct.unpack_from(">Ii", content, at)
    with VideoFile(path) as video:
        scale = video._stream.time_base.denominator
    struct.pack_into(">Ii", content, at, length - 5 * 1000 // 8, begin + 5 * scale // 8)
    path.write_bytes(content)
    frames, fps = read_video(path)
    assert [number_of(frame) for frame in frames] == list(range(5, 12)) and abs(fps - 8) < 1.5


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_animations_keep_their_own_times(tmp_path: Path, name: str) -> None:
    lengths = [100, 100, 300, 100, 200]
    images = [Image.fromarray(numbered_frame(number)) for number in range(5)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=lengths)
    frames, fps = read_video(tmp_path / name)
    assert fps == 10 and [number_of(frame) for frame in frames] == [0, 1, 2, 2, 2, 3, 4, 4]
    assert open_source(tmp_path / name).indices == (0, 1, 2, 2, 2, 3, 4, 4)
    assert open_source(tmp_path / name, fps=5).indices == (0, 2, 2, 4)
    assert open_source(tmp_path / name, fps=5, start=0.2).indices == (2, 2, 4)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.avif"])
def test_a_pause_does_not_become_thousands_of_frames(tmp_path: Path, name: str, caplog: Any) -> None:
    images = [Image.fromarray(numbered_frame(number)) for number in range(12)]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=[20, 20, *[10_000] * 10])
    frames, fps = read_video(tmp_path / name)
    assert len(frames) == 12 and abs(fps - 12 / 100.04) < 1e-3
    assert [number_of(frame) for frame in frames] == [0, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]
    assert f"{name}: its frames are shown unequally long; taken at 0.12 a second, 1 of 12 are left out" in caplog.text
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=[*[50] * 11, 2000])
    assert open_source(tmp_path / name).fps == 20


def test_steady() -> None:
    assert steady([0, 0.1, 0.2], 0.3, 10).indices == (0, 1, 2)
    assert steady([0, 0.1, 0.3], 0.4, 10).indices == (0, 1, 1, 2)
    assert steady([0, 0.1, 0.2], 0.5, 10).indices == (0, 1, 2, 2, 2)
    long = steady([index * 0.01 for index in range(1000)] + [3600], 3600.04, 100)
    assert len(long.indices) == 4004 and long.num_left_out > 900
    assert steady([0], 0.125, 8).indices == (0,)
