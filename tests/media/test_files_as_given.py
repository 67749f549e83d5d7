"""Files and folders as people have them: streams, wrong names, damage, litter; the content decides."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from support.media import CORNERS, encoded
from support.videos import number_of, numbered_frame

from animatediff.errors import UserError
from animatediff.media import read_metadata, read_video, write_video
from animatediff.media.images import open_image
from animatediff.media.source import open_source
from animatediff.media.stills import read_image


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.h264", "libx264"),
        ("a.hevc", "libx265"),
        ("a.ivf", "libvpx-vp9"),
        ("a.mjpeg", "mjpeg"),
        ("a.y4m", "wrapped_avframe"),
    ],
)
def test_streams_without_a_container(tmp_path: Path, name: str, codec: str) -> None:
    layout = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    frames = [av.VideoFrame.from_ndarray(numbered_frame(n), format="rgb24").reformat(format=layout) for n in range(9)]
    options = {"options": {"x265-params": "log-level=none"}} if codec == "libx265" else {}
    if name == "a.y4m":
        body = b"".join(b"FRAME\n" + frame.to_ndarray().tobytes() for frame in frames)
        (tmp_path / name).write_bytes(b"YUV4MPEG2 W96 H48 F8:1 Ip A1:1 C420jpeg\n" + body)
    else:
        encoded(tmp_path / name, frames, codec, **options)
    read, fps = read_video(tmp_path / name)
    assert [number_of(frame) for frame in read] == list(range(9))
    assert fps == (25 if name == "a.mjpeg" else 8)
    source = open_source(tmp_path / name, start=3 / fps)
    assert [number_of(frame) for frame in source.read(6, 96, 48)] == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("true", "false"),
    [
        (".mp4", ".gif"),
        (".gif", ".mp4"),
        (".webp", ".mp4"),
        (".mp4", ".png"),
        (".webm", ".jpg"),
        (".png", ".webp"),
        (".mp4", ""),
    ],
)
def test_the_content_says_what_a_file_is_not_its_name(tmp_path: Path, true: str, false: str) -> None:
    clip = np.stack([numbered_frame(number) for number in range(5)])
    path = write_video(clip, tmp_path / f"a.{true}", fps=8, metadata={"seed": 3}).rename(tmp_path / f"b.{false}")
    assert [number_of(frame) for frame in read_video(path)[0]] == list(range(5))
    assert read_metadata(path) == {"seed": 3}
    assert [number_of(frame) for frame in open_source(path).read(5, 96, 48)] == list(range(5))


def test_images_of_the_wrong_name(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg")[0, 0].tolist() == [10, 20, 30]
    assert read_image((tmp_path / "a.jpg").read_bytes())[0, 0].tolist() == [10, 20, 30]


def test_single_frames(tmp_path: Path) -> None:
    Image.fromarray(numbered_frame(7)).save(tmp_path / "a.gif", save_all=True, duration=100)
    write_video(numbered_frame(7)[None], tmp_path / "b.mp4")
    (tmp_path / "folder").mkdir()
    Image.fromarray(numbered_frame(7)).save(tmp_path / "folder" / "x.jpg")
    for given in (tmp_path / "a.gif", tmp_path / "b.mp4", tmp_path / "folder", Image.fromarray(numbered_frame(7))):
        with pytest.raises(UserError, match="holds a single frame, expected a video; for one image there is `image`"):
            open_source(given)
        held = open_source(given, hold=True)
        assert held.held and [number_of(frame) for frame in held.read(3, 96, 48)] == [7, 7, 7]
        if isinstance(given, Path):
            assert read_video(given)[0].shape == (1, 48, 96, 3)


def test_an_apng_with_an_image_for_other_programs(tmp_path: Path) -> None:
    images = [Image.fromarray(numbered_frame(number)) for number in range(4)]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], default_image=True, duration=100)
    assert [number_of(frame) for frame in read_video(tmp_path / "a.png")[0]] == [1, 2, 3]


def test_heic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"  # as many are named
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for read in (open_image, read_video, open_source):
        with pytest.raises(UserError, match=r"a\.jpg: .*is a HEIC photo; `pip install pillow-heif`"):
            read(path)
    monkeypatch.undo()
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(CORNERS)).save(path, quality=95)
    assert np.abs(np.asarray(open_image(path)).astype(int)[2:6, 2:6] - (255, 0, 0)).max() < 40


@pytest.mark.parametrize("name", ["a: b.mp4", "ä%03d 100%.mp4", "file:x.webm", "a:b.gif", "a%d.png", "c:d.h264"])
def test_names_with_colons_umlauts_and_percent_signs(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frames = np.stack([numbered_frame(number) for number in range(3)])
    if name.endswith("h264"):
        shown = [av.VideoFrame.from_ndarray(f, format="rgb24").reformat(format="yuv420p") for f in frames]
        encoded(tmp_path / "x.h264", shown, "libx264").rename(name)
    else:
        write_video(frames, name)
    assert [number_of(frame) for frame in read_video(name)[0]] == [0, 1, 2]
    assert [number_of(frame) for frame in open_source(name).read(3, 96, 48)] == [0, 1, 2]


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shots"
    folder.mkdir()
    for number, name in enumerate(("Shot1.PNG", "shot2.jpg", "shot10.Webp")):
        Image.fromarray(numbered_frame(number)).save(folder / name)
    return folder


def test_order_of_names_and_litter(folder: Path, caplog: Any) -> None:
    for name in ("._shot2.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (folder / name).write_bytes(b"\0\x05\x16\x07 no image")
    (folder / "__MACOSX").mkdir()
    for frames in (read_video(folder)[0], open_source(folder).read(3, 96, 48)):
        assert [number_of(frame) for frame in frames] == [0, 1, 2]
    note = "3 images are read; left out, as no images: ._shot2.jpg, .DS_Store, "
    assert caplog.text.count(note) == 2, "once by read_video, once by open_source"
    with pytest.raises(UserError, match=r"AppleDouble.*without `\._`"):
        open_image(folder / "._shot2.jpg")


def test_sizes_that_differ(folder: Path, caplog: Any) -> None:
    Image.new("RGB", (40, 40)).save(folder / "shot3.bmp")
    assert open_source(folder).read(4, 96, 48).shape == (4, 48, 96, 3)
    assert "images of 2 sizes (40 x 40, 96 x 48); each is brought to the clip's" in caplog.text
    with pytest.raises(UserError, match=r"shot3\.bmp: not of the size of the first frame \(96x48 and 40x40\)"):
        read_video(folder)


def test_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    for call in (read_video, open_source):
        with pytest.raises(UserError, match=r"empty: no images in this folder.*it holds a folder inside"):
            call(tmp_path / "empty")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.tif", "x.bmp", "x.avif"])
def test_damaged_images_in_folders_are_found_before_they_are_read(folder: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name)
    source = open_source(folder)
    source.check()
    whole = (folder / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:20], b""):
        (folder / name).write_bytes(content)
        source.check(3)  # it is the fourth
        for call in (source.check, lambda: source.read(4, 96, 48)):
            with pytest.raises(UserError, match=rf"shots: {name}: cannot be read as an image \(is "):
                call()


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.apng", "a.mp4", "a.webm", "a.avif", "a.mkv", "a.avi"])
def test_damaged_animations_and_videos(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 96, 3), dtype=np.uint8)
    if name == "a.avif":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=100)
    elif name in ("a.mkv", "a.avi"):
        codec, layout = ("png", "rgb24") if name == "a.avi" else ("ffv1", "bgr0")
        shown = [av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=layout) for frame in frames]
        encoded(tmp_path / name, shown, codec)
    else:
        write_video(frames, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[: len(whole) // 20], whole[:30]):
        (tmp_path / name).write_bytes(content)
        for call in (read_video, open_source):
            with pytest.raises(UserError, match=name):
                call(tmp_path / name)
