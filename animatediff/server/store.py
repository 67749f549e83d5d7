"""Files of the jobs: `jobs/{id}/inputs/` with what a client sent, `jobs/{id}/{try}/` with what a worker makes.

Ids are made here; nothing of a client's is part of a path.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from animatediff.unfinished import Unfinished

ID = re.compile(r"video_[0-9a-f]{32}")
PREVIEW = "preview.jpg"


def new_id() -> str:
    """An id that nobody can guess."""
    return f"video_{secrets.token_hex(16)}"


class Store:
    """Folders of jobs below the data folder of a service."""

    def __init__(self, data: Path) -> None:
        self._jobs = data / "jobs"

    def make(self) -> None:
        """Make the folder, for this user alone."""
        self._jobs.mkdir(parents=True, exist_ok=True, mode=0o700)

    def folder(self, job: str) -> Path:
        """Everything of one job."""
        assert ID.fullmatch(job), "ids of jobs are made by new_id"
        return self._jobs / job

    def inputs(self, job: str) -> Path:
        """What the client sent."""
        return self.folder(job) / "inputs"

    def attempt(self, job: str, tries: int) -> Path:
        """What a worker makes in one try."""
        return self.folder(job) / str(tries)

    def remove(self, job: str) -> None:
        """Remove everything of a job."""
        shutil.rmtree(self.folder(job), ignore_errors=True)

    def sweep(self, known: Iterable[str]) -> int:
        """Remove folders of jobs that are not `known`, as a killed process leaves them; returns their number."""
        kept = set(known)
        gone = [path for path in self._jobs.iterdir() if path.name not in kept]
        for path in gone:
            shutil.rmtree(path, ignore_errors=True)
        return len(gone)

    def free_bytes(self) -> int:
        """Free space on the disk."""
        return shutil.disk_usage(self._jobs).free


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file, whole or not at all."""
    unfinished = Unfinished(path)
    try:
        unfinished.create()
        unfinished.path.write_bytes(content)
        unfinished.path.replace(path)
    finally:
        unfinished.remove()
