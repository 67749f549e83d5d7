"""What ran out, memory or the disk, is recognised whoever reports it, and said in one text at every door."""

from __future__ import annotations

import errno
import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest
import safetensors
import torch

from animatediff.batch.worker import _reason
from animatediff.cli.errors import reporting
from animatediff.errors import OUT_OF_MEMORY, UserError, is_disk_full, is_out_of_memory, renamed

NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def raised_from(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: 99 bytes"),
    ],
)
def test_out_of_memory(error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_out_of_memory(error) and not is_disk_full(error)
    assert _reason(error) == OUT_OF_MEMORY, "animatediff batch"
    with pytest.raises(Exception, match="2"), reporting({"num_frames": "--num-frames"}):
        raise error
    said = renamed(OUT_OF_MEMORY, {"num_frames": "--num-frames"})
    assert capsys.readouterr().err == f"animatediff: {said}\n"
    if find_spec("gradio"):
        from animatediff.ui.run import explained

        assert explained(error) == OUT_OF_MEMORY


def full_sqlite() -> sqlite3.Error:
    with sqlite3.connect(":memory:") as table:
        table.execute("CREATE TABLE a (b TEXT)")
        table.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.Error) as full:
            table.execute("INSERT INTO a VALUES (?)", ("x" * 100_000,))
        return full.value


@pytest.mark.parametrize(
    "error",
    [
        NO_SPACE,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        raised_from(UserError("x.mp4: cannot be written"), NO_SPACE),
        raised_from(RuntimeError("of a library"), raised_from(UserError("x.mp4: cannot be written"), NO_SPACE)),
        safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        full_sqlite(),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: ..."),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_disk_full(error) and not is_out_of_memory(error)
    if not isinstance(error, UserError):
        with pytest.raises(Exception, match="2"), reporting():
            raise error
        assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        UserError("disk is full.mp4: no such file"),
        OSError(errno.EACCES, "Permission denied", "disk is full"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        None,
    ],
)
def test_neither(error: Exception | None) -> None:
    assert not is_disk_full(error)
    assert error is None or not is_out_of_memory(error)
