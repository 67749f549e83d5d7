"""Files of a clip: where they lie, what they are called, and the host's text in each of them."""

from __future__ import annotations

import base64
import io
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from animatediff_webui import output
from animatediff_webui.output import check_formats, final_frames, next_number, reply, write_clip
from animatediff_webui.settings import Settings
from PIL import Image

from animatediff.errors import UserError
from animatediff.media import read_video

TEXT = "ein Hügel\nSteps: 4"


def clip(num_frames: int = 4) -> list[Image.Image]:
    return [Image.fromarray(np.full((16, 16, 3), 40 * index, np.uint8)) for index in range(num_frames)]


def test_every_format_is_written_under_one_name_with_the_text_inside(tmp_path: Path) -> None:
    settings = Settings(format=("GIF", "MP4", "WEBP", "WEBM", "PNG", "TXT"), fps=5, loop_number=2, request_id="job7")
    files = write_clip(clip(), settings, samples=tmp_path, seed=9, text=TEXT)
    folder = tmp_path / "AnimateDiff" / date.today().isoformat()
    assert sorted(path.name for path in folder.iterdir()) == [
        "00000-9-job7", *(f"00000-9-job7.{suffix}" for suffix in ("gif", "mp4", "txt", "webm", "webp"))
    ]  # fmt: skip
    assert [path.name for path in files[:4]] == [f"{index:05}.png" for index in range(4)]
    base = folder / "00000-9-job7"
    assert base.with_name(f"{base.name}.txt").read_text(encoding="utf-8") == TEXT
    with Image.open(base / "00002.png") as image:
        assert image.info["parameters"] == TEXT  # type: ignore[attr-defined]
        assert image.getpixel((0, 0)) == (80, 80, 80)
    with Image.open(f"{base}.gif") as image:
        assert image.info["comment"].decode() == TEXT
        assert (image.n_frames, image.info["duration"]) == (4, 200)  # type: ignore[attr-defined]
    with Image.open(f"{base}.webp") as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]
        assert (comment[:8], comment[8:].decode("utf-16-be")) == (b"UNICODE\0", TEXT)
        assert image.info["loop"] == 2
    for suffix in ("mp4", "webm"):
        frames, fps = read_video(f"{base}.{suffix}")
        assert (len(frames), fps) == (4, 5)
        assert abs(int(frames[2, 8, 8, 0]) - 80) < 6


def test_numbers_go_on(tmp_path: Path) -> None:
    settings = Settings(format=("TXT",))
    names = [write_clip(clip(), settings, samples=tmp_path, seed=seed, text="")[0].name for seed in (7, 8)]
    assert names == ["00000-7.txt", "00001-8.txt"]
    folder = tmp_path / "AnimateDiff" / date.today().isoformat()
    (folder / "00041-3").mkdir()
    (folder / "notes.txt").touch()
    assert next_number(folder) == 42


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "AnimateDiff").touch()
    with pytest.raises(UserError, match=r"AnimateDiff.*cannot be written"):
        write_clip(clip(), Settings(), samples=tmp_path, seed=9, text=TEXT)


def levels(frames: list[np.ndarray]) -> list[int]:
    return [int(frame[0, 0, 0]) for frame in frames]


def test_a_runs_a_short_clip_back_and_interpolation_adds_frames() -> None:
    assert levels(final_frames(clip(), Settings(closed_loop="A"))) == [0, 40, 80, 120, 80, 40]
    assert levels(final_frames(clip(), Settings(closed_loop="A", batch_size=3))) == [0, 40, 80, 120]
    assert levels(final_frames(clip(), Settings(closed_loop="R+P"))) == [0, 40, 80, 120]
    more = final_frames(clip(), Settings(interp="FILM", interp_x=3))
    assert len(more) == 12
    assert levels(more)[::3] == [0, 40, 80, 120]


def test_replies_hold_animations_as_text_and_frames_where_they_are_asked_for(tmp_path: Path) -> None:
    files = write_clip(clip(), Settings(format=("GIF", "PNG", "TXT")), samples=tmp_path, seed=9, text=TEXT)
    frames = clip()
    (only,) = reply(frames, files, Settings(format=("GIF", "PNG", "TXT")))
    assert Image.open(io.BytesIO(base64.b64decode(only))).format == "GIF"
    assert reply(frames, files, Settings(format=("GIF", "Frame")))[1:] == frames
    assert reply(frames, files[:4], Settings(format=("PNG",))) == frames


def test_formats_that_cannot_be_written_are_said_before_a_clip_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    check_formats(Settings(format=("MP4", "WEBM", "GIF")))
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    check_formats(Settings(format=("GIF", "WEBP", "PNG", "TXT", "Frame")))
    with pytest.raises(UserError, match=r"Save format \(format\): MP4 and WEBM cannot be written without PyAV"):
        check_formats(Settings(format=("MP4", "GIF", "WEBM")))
