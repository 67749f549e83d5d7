"""Renders that resume: the same files from a command that was stopped, whatever it writes, and nothing left behind."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.pipelines import pipeline
from support.stops import Stopped, counted

from animatediff.errors import UserError
from animatediff.render import AnimateRequest, OneFile, Rendered, Renderer, Resume, RunFolder, build_request

ALWAYS = Resume(save_every=0.0)
CLIP: dict[str, Any] = {
    "prompt": "a fox", "seed": 1, "num_frames": 2, "width": 16, "height": 16, "steps": 2, "guidance_scale": 1.0,
    "decode_chunk_size": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(**values: Any) -> AnimateRequest:
    return build_request({**CLIP, **values})


def render(
    requests: AnimateRequest | list[AnimateRequest], to: OneFile | RunFolder, stop_at: int | None = None
) -> tuple[list[Rendered], int]:
    """The files, none where it was stopped, and calls of the models."""
    requests = requests if isinstance(requests, list) else [requests]
    with counted(pipeline(), stop_at) as calls:
        try:
            return Renderer.of(pipeline()).render(requests, to), calls.count
        except Stopped:
            return [], calls.count


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@pytest.mark.parametrize("stop_at", [2, 3, 4])
@pytest.mark.parametrize("out", ["fox.mp4", "fox.webp", "frames"])
def test_a_clip_goes_on_and_its_file_is_the_same(
    place: Path, out: str, stop_at: int, caplog: pytest.LogCaptureFixture
) -> None:
    render(ask(), OneFile(f"whole/{out}"))
    assert not render(ask(), OneFile(f"stopped/{out}", resume=ALWAYS), stop_at)[0]
    assert not (place / "stopped" / out).exists()
    with caplog.at_level(logging.INFO, "animatediff"):
        (done,), calls = render(ask(), OneFile(f"stopped/{out}", resume=ALWAYS))
    assert calls == 4 - stop_at + 1
    where = {2: "step 2 of 2", 3: "with decoding, at chunk 1", 4: "with decoding, at chunk 2"}
    (line,) = [line for line in caplog.messages if "goes on" in line]
    assert where[stop_at] in line and line.startswith(f"stopped/{out}: ")
    whole, stopped = place / "whole", place / "stopped"
    assert files(whole) == files(stopped)
    for name in files(whole):
        if (whole / name).is_file():
            assert (whole / name).read_bytes() == (stopped / name).read_bytes(), name
    assert done.file == Path("stopped", out)


def test_a_seed_that_was_drawn_stays(place: Path) -> None:
    assert not render(ask(seed=-1), OneFile("fox.mp4", resume=ALWAYS), 3)[0]
    (done,), calls = render(ask(seed=-1), OneFile("fox.mp4", resume=ALWAYS))
    assert calls == 2
    (whole,), _ = render(ask(seed=done.request.seed), OneFile("whole.mp4"))
    assert whole.file.read_bytes() == done.file.read_bytes()
    (other,), _ = render(ask(seed=-1), OneFile("fox.mp4", resume=ALWAYS))
    assert other.request.seed != done.request.seed


@pytest.mark.parametrize("named", [True, False])
def test_clips_that_are_written_stay(place: Path, named: bool, caplog: pytest.LogCaptureFixture) -> None:
    request = ask(prompt=["a fox", "a cat", "a dog"], seed=-1, fps=None)
    to = OneFile("fox.mp4" if named else None, resume=ALWAYS)
    assert not render(request, to, 6)[0]
    first = place / ("fox-0.mp4" if named else "samples/a-fox.mp4")
    before = first.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "animatediff"):
        done, calls = render(request, to)
    assert calls == 4 - 1 + 4
    assert any("goes on at clip 2 of 3" in line for line in caplog.messages)
    assert first.stat().st_mtime_ns == before
    assert done[0].file.absolute() == first
    assert [one.request.prompt for one in done] == [("a fox",), ("a cat",), ("a dog",)]
    assert len({one.request.seed for one in done}) == 3
    for number, one in enumerate(done):
        assert one.request.fps == 8.0
        (whole,), _ = render(one.request, OneFile(f"whole-{number}.mp4"))
        assert whole.file.read_bytes() == one.file.read_bytes()
    assert not list(place.rglob(".*"))


def test_a_clip_whose_file_was_changed_is_made_again(place: Path) -> None:
    request = ask(prompt=["a fox", "a cat"])
    assert not render(request, OneFile("fox.mp4", resume=ALWAYS), 6)[0]
    whole = Path("fox-0.mp4").read_bytes()
    Path("fox-0.mp4").write_bytes(b"something else")
    _, calls = render(request, OneFile("fox.mp4", resume=ALWAYS))
    assert calls > 4
    assert Path("fox-0.mp4").read_bytes() == whole


def test_a_folder_of_runs_goes_on(place: Path) -> None:
    """Of clips that are done, only the frames are decoded again: the grid wants all of them."""
    requests = [ask(), ask(prompt="a cat", seed=2)]
    whole, _ = render(requests, RunFolder("runs", Path("whole")))
    assert not render(requests, RunFolder("runs", Path("stopped"), ALWAYS), 6)[0]
    done, calls = render(requests, RunFolder("runs", Path("stopped"), ALWAYS))
    assert calls == 2 + 4 - 1
    for one, other in zip(whole, done, strict=True):
        assert one.file.read_bytes() == other.file.read_bytes()
    assert whole[0].grid and done[0].grid and whole[0].grid.read_bytes() == done[0].grid.read_bytes()
    assert not list(place.rglob("*.resume"))


def test_short_clips_write_no_state(place: Path) -> None:
    assert not render(ask(), OneFile("fox.mp4", resume=Resume()), 4)[0]
    assert files(place) == []


def test_beginning_anew_is_said_by_the_option(place: Path) -> None:
    assert not render(ask(), OneFile("fox.mp4", resume=ALWAYS), 3)[0]
    (_,), calls = render(ask(), OneFile("fox.mp4", resume=Resume(save_every=1e6, anew=True)))
    assert calls == 4
    assert files(place) == ["fox.mp4", "fox.mp4.json"]
    with pytest.raises(UserError, match="save_every must be at least 0"):
        Resume(save_every=-1)


def test_a_state_of_another_request_is_said_and_left_alone(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not render(ask(), OneFile("fox.mp4", resume=ALWAYS), 3)[0]
    (state,) = place.glob(".fox.mp4.*.resume")
    with caplog.at_level(logging.INFO, "animatediff"):
        (_,), calls = render(ask(steps=3, seed=2), OneFile("fox.mp4", resume=ALWAYS))
    assert calls == 5
    (line,) = [line for line in caplog.messages if "another request" in line]
    assert "(another `seed`, `steps`)" in line and state.name in line
    (_,), calls = render(ask(), OneFile("fox.mp4", resume=ALWAYS))
    assert calls == 2
    assert not state.exists()


def test_a_damaged_file_about_the_command_is_said(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not render(ask(), OneFile("fox.mp4", resume=ALWAYS), 3)[0]
    (state,) = place.glob(".fox.mp4.*.resume/render.safetensors")
    state.write_bytes(state.read_bytes()[:-9])
    (_,), calls = render(ask(), OneFile("fox.mp4", resume=ALWAYS))
    assert calls == 4
    assert any("its saved state is damaged (" in line for line in caplog.messages)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes as POSIX does")
def test_killed_processes_go_on() -> None:
    """SIGKILL at random moments, of processes of their own, with the bundled model."""
    command = [sys.executable, "benchmarks/resume.py", "--kills", "2", "--case", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 results equal to the bit" in done.stdout
