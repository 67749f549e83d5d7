"""A video whose movement is taken, as an option: its length and rate, its part, and what is said of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import is_one_message, run

from animatediff.media import write_video
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import build_request
from animatediff.render.defaults import with_defaults
from animatediff.render.dry_run import check_clips
from animatediff.render.inputs import input_arguments, look_into


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_video(np.random.default_rng(0).integers(0, 255, (12, 32, 64, 3), dtype=np.uint8), "mover.mp4", fps=12)
    Image.new("RGB", (48, 48), (200, 40, 40)).save("image.png")
    return tmp_path


def completed(**settings: Any) -> tuple[Any, dict[str, Any]]:
    """The request with every value filled in, and the arguments of its call that hold images and videos."""
    request = build_request({"prompt": "a fox", "motion_from": "mover.mp4", **settings})
    inputs, pipe = look_into(request), AnimateDiffPipeline.from_bundled()
    check_clips(pipe, request, inputs)
    full = with_defaults(request, inputs, pipe)
    return full, input_arguments(full, inputs, None)[0]


def test_the_clip_has_its_length_rate_and_shape(place: Path) -> None:
    full, arguments = completed()
    assert (full.num_frames, full.fps) == (12, 12)
    assert full.width > 1.5 * full.height and full.strength is None
    assert arguments["motion_from"].shape == (12, full.height, full.width, 3) and "video" not in arguments


def test_part_and_rate_are_those_of_videos(place: Path) -> None:
    full, arguments = completed(video_fps=6, video_start=0.5, num_frames=2)
    assert (full.num_frames, full.fps, len(arguments["motion_from"])) == (2, 6, 2)


def test_an_image_has_the_shape(place: Path) -> None:
    full, _ = completed(image="image.png", image_mode="latents")
    assert full.num_frames == 12 and full.width == full.height


def test_mistakes_are_one_message(place: Path) -> None:
    ask = ("a fox", "--motion-from")
    short = is_one_message(place, *ask, "mover.mp4", "--num-frames", "16")
    assert "mover.mp4: has 12 frames to give, but num_frames=16" in short
    assert "holds a single frame" in is_one_message(place, *ask, "image.png")
    assert "no such file" in is_one_message(place, *ask, "other.mp4")
    assert "no motion modules stand in 'middle'" in is_one_message(
        place, *ask, "mover.mp4", "--motion-from-blocks", "middle"
    )


def test_the_plan_names_it(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        code, out, _ = run("a fox", "--motion-from", "mover.mp4", "--plan")
    assert code == 0 and "12 frames" in out
