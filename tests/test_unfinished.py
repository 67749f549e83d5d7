"""What a killed run leaves half-written: found and removed by the next one; what a living one writes is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from animatediff import unfinished
from animatediff.files import AtomicFile, write_text
from animatediff.weights.storage.files import read_header, save_tensors

BEGIN = """
import sys, time
from pathlib import Path
from animatediff.files import AtomicFile, AtomicFolder
from animatediff.unfinished import Unfinished
folder = Path(sys.argv[1])
with AtomicFile(folder / "fox: ü.mp4") as file, AtomicFolder(folder / "frames") as frames:
    file.temporary.write_bytes(b"half")
    (frames.temporary / "00000.png").write_bytes(b"half")
    weights = Unfinished(folder / "lora.safetensors")
    weights.create()
    print("begun", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _new_process() -> Iterator[None]:
    unfinished._looked_through.clear()
    yield
    unfinished._looked_through.clear()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has three things half-written in `tmp_path`."""
    process = subprocess.Popen([sys.executable, "-c", BEGIN, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    yield process
    process.kill()
    process.communicate()


def test_what_a_killed_process_left_is_removed_by_the_next_writer(
    writer: subprocess.Popen[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".notes.part").write_text("a user's own")
    (tmp_path / ".cache.12345678.partial").write_text("a user's own")
    assert len(list(tmp_path.iterdir())) == 5
    with caplog.at_level("INFO"):
        write_text(tmp_path / "other.txt", "text")
        assert len(list(tmp_path.iterdir())) == 6, "the process lives"
        unfinished._looked_through.clear()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        write_text(tmp_path / "other.txt", "text")
    assert {path.name for path in tmp_path.iterdir()} == {".notes.part", ".cache.12345678.partial", "other.txt"}
    assert caplog.text.count("left half-written by a run that was killed") == 3
    assert "frames: removed .frames." in caplog.text


def test_weight_files_clear_as_well(writer: subprocess.Popen[bytes], tmp_path: Path) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    save_tensors(tmp_path / "a.safetensors", {"x": torch.arange(3.0)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_lock_tells_of_a_living_writer_that_has_no_number_here(tmp_path: Path) -> None:
    """As of another container in a shared folder."""
    if unfinished.fcntl is None:
        pytest.skip("this system has no such locks")
    path = tmp_path / ".fox.mp4.99999999-0123abcd.part"
    path.write_bytes(b"half")
    lock = unfinished.locked(path)
    assert lock is not None
    write_text(tmp_path / "a.txt", "")
    assert path.exists()
    os.close(lock)
    unfinished._looked_through.clear()
    write_text(tmp_path / "a.txt", "")
    assert not path.exists()


def test_names_of_earlier_versions_go_once_they_are_a_day_old(tmp_path: Path) -> None:
    old, new = tmp_path / ".fox.mp4.0123abcd.part", tmp_path / ".car.mp4.0123abcd.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    write_text(tmp_path / "a.txt", "")
    assert not old.exists() and new.exists()


def test_long_names_leave_room_for_the_hidden_one(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 120 + ".txt")
    write_text(path, "text")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nothing_stays_of_a_body_that_fails(tmp_path: Path) -> None:
    def write() -> None:
        with AtomicFile(tmp_path / "a" / "b.txt") as file:
            file.temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write()
    assert not list(tmp_path.iterdir())


def test_pickles_of_equal_tensors_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.ckpt", "b.ckpt"):
        save_tensors(tmp_path / name, {"x": torch.arange(3.0)}, {"family": "v2"})
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()
    assert set(read_header(tmp_path / "a.ckpt").tensors) == {"x"}
