"""The folder of results: which jobs are done, who has it, and the lists of what was rendered and what failed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from animatediff.batch.jobs import Fault, Job
from animatediff.batch.lock import FolderLock
from animatediff.errors import UserError, holds_surrogates
from animatediff.files import check_results_folder, parse_json, read_text, write_errors, write_text
from animatediff.parse import load_json
from animatediff.render.read.result import sidecar_of
from animatediff.render.record import write_sidecar

logger = logging.getLogger(__name__)

RESULTS, FAILED = "results.jsonl", "failed.jsonl"
NOTE = "batch"
"""Key of the record inside and beside a result: the job's id and fingerprint."""

State = Literal["new", "done", "changed", "damaged", "foreign"]
"""`changed`: there is a result of other settings; `damaged`: one that is not whole; `foreign`: a file of others."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A line of `results.jsonl`."""

    id: str
    file: str
    """In the folder of results."""
    fingerprint: str
    seed: int
    bytes: int
    """Of the file, or of all files of a folder."""
    seconds: float


class ResultsFolder:
    """A context in which this process has the folder. Raises UserError where another has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        self._known: dict[str, Mapping[str, Any]] = {}

    def __enter__(self) -> ResultsFolder:
        check_results_folder(self.path)
        with write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._stack.enter_context(FolderLock(self.path))
        self._known = {line["file"]: line for line in _read_lines(self.path / RESULTS) if "file" in line}
        (self.path / FAILED).unlink(missing_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def state_of(self, job: Job) -> State:
        """How far a job is."""
        line = self._known.get(job.target)
        path = self.path / job.target
        if line is not None and line.get("bytes") == size_of(path):
            return "done" if line.get("fingerprint") == job.fingerprint else "changed"
        state = state_of(self.path, job)
        if state == "done":  # by a run that was killed before it could list it
            self.add(job, seed_of(path), seconds=0.0)
        return "damaged" if state == "foreign" and line is not None else state

    def add(self, job: Job, seed: int, *, seconds: float) -> None:
        """List a result that is there."""
        line = Result(
            id=job.id,
            file=job.target,
            fingerprint=job.fingerprint,
            seed=seed,
            bytes=size_of(self.path / job.target) or 0,
            seconds=round(seconds, 3),
        )
        self._known[job.target] = asdict(line)
        _append(self.path / RESULTS, asdict(line))

    def fail(self, fault: Fault, tries: int = 1) -> None:
        """List a job that could not be rendered."""
        _append(self.path / FAILED, {**asdict(fault), "tries": tries})

    def set_failed(self, faults: Sequence[tuple[Fault, int]]) -> None:
        """List these jobs, with the tries made of each, as what failed, in this order."""
        if faults:
            lines = [_line({**asdict(fault), "tries": tries}) for fault, tries in faults]
            write_text(self.path / FAILED, "".join(lines))


def state_of(folder: Path, job: Job) -> State:
    """How far a job is, by its result alone, which is read."""
    path = folder / job.target
    if size_of(path) is None:
        return "new"
    record = _record(path)
    note = record.get(NOTE)
    if not isinstance(note, Mapping):
        return "foreign"
    if note.get("fingerprint") != job.fingerprint:
        return "changed"
    if not _is_whole(path):
        return "damaged"
    if not sidecar_of(path).exists():  # the run was killed between the two
        write_sidecar(path, dict(record))
    return "done"


def seed_of(path: Path) -> int:
    """The seed that a result was made with."""
    request = _record(path).get("request")
    seeds = request.get("seed") if isinstance(request, Mapping) else None
    return int(seeds[0]) if isinstance(seeds, list) and seeds else -1


def size_of(path: Path) -> int | None:
    """Bytes of a file, or of all files of a folder; None where there is none, or an empty one."""
    try:
        if path.is_dir():
            return sum(entry.stat().st_size for entry in path.iterdir() if entry.is_file()) or None
        return path.stat().st_size or None
    except OSError:
        return None


def _record(path: Path) -> Mapping[str, Any]:
    """The record inside a result, or beside one that cannot be read; empty where there is none."""
    from animatediff.media.read import read_metadata

    try:
        if found := read_metadata(path):
            return found
    except (UserError, OSError):
        pass
    sidecar = sidecar_of(path)
    try:
        found = parse_json(read_text(sidecar), str(sidecar)) if sidecar.is_file() else {}
    except UserError:
        found = {}
    return found if isinstance(found, Mapping) else {}


def _is_whole(path: Path) -> bool:
    """Whether all frames that a result says it has can be read."""
    from animatediff.media.read import open_clip

    try:
        with open_clip(path) as clip:
            return sum(1 for _ in clip.frames) == clip.num_frames > 0
    except (UserError, OSError):
        return False


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file of ours; a line that a killed run left half-written is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                found = load_json(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found


def _line(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, ensure_ascii=False)
    return (json.dumps(values) if holds_surrogates(text) else text) + "\n"


def _append(path: Path, values: Mapping[str, Any]) -> None:
    """Add a line, behind a half-written one on a line of its own."""
    with write_errors(path), path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(_line(values).encode())
