"""Rows as jobs: the request of each clip, the name of its result, and the fingerprint by which a result is known."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from animatediff.batch.cells import ID
from animatediff.batch.read import SHARED, Row, read_rows
from animatediff.errors import UserError, brief, unknown
from animatediff.files import HERE, Roots
from animatediff.limits import MAX_JOBS
from animatediff.media.formats import FOLDER, FORMATS, format_of
from animatediff.render.names import file_stem, numbered, slug
from animatediff.render.options import MODEL_OPTIONS
from animatediff.render.portable import portable
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.read.lookup import Lookup
from animatediff.render.read.merge import resolve
from animatediff.render.read.original import ALIASES, RENAMED, settings_of
from animatediff.render.read.place import without_what_is_not_its_own
from animatediff.render.read.yaml import each
from animatediff.render.request import AnimateRequest, build_request

logger = logging.getLogger(__name__)

OWN = (ID, "name", "out")
"""Keys that name a result; they belong to a row."""
NOT_ASKED = ("device", "cpu_offload", "compile", "decode_chunk_size")
"""Settings of the machine, which ask for no other frames: with others a result still counts as done."""
DIGITS = 16
MAX_RENAMED = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """One clip of a row."""

    id: str
    """Names the result; unique among the jobs of a file."""
    place: str
    """Of the row, such as `line 7`."""
    target: str
    """File or folder of the result, in the folder of results."""
    request: AnimateRequest
    fingerprint: str
    """Of all settings that decide the frames, and of the files that they name."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Setting -> its place in the row, such as `column 'steps'`."""

    @property
    def model(self) -> tuple[Any, ...]:
        """Equal for jobs that one model serves."""
        return tuple(getattr(self.request, name) for name in MODEL_OPTIONS)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A row that cannot be rendered, and why."""

    place: str
    id: str
    reason: str

    def __str__(self) -> str:
        named = f" ({self.id})" if self.id else ""
        return f"{self.place}{named}: {self.reason}"


@dataclass
class Jobs:
    """The jobs of a file, in its order, and what is wrong with the rows that are none."""

    source: str
    jobs: list[Job] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    roots: Roots = HERE
    """Where files are found, and folders that names in records are relative to."""


def read_jobs(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    separator: str = "|",
    format: str = "mp4",
    roots: Roots = HERE,
) -> Jobs:
    """Read the jobs of a file of rows: YAML, JSON, JSONL or CSV.

    settings: for rows that do not give their own; they win over those that the file gives for all rows.
    separator: between the entries of a list in a cell of CSV; format: of results whose row has no `out`, a suffix of
    `media.formats` without its dot, or `folder`.
    Files that rows name are looked for as those of a configuration (`Lookup`), and `download` counts in `settings`
    alone. Raises UserError for a file that cannot be read, an unknown column, and wrong settings of all rows; what is
    wrong with a row is one of the `faults`.
    """
    path, settings = Path(path), dict(settings or {})
    suffix = suffix_of(format)
    if not separator or separator.isspace():
        raise UserError(f"`separator` {separator!r}: expected a sign between the entries of a list, such as |")
    if own := next((key for key in OWN if key in settings), None):
        raise UserError(f"`{own}` names the result of one row; give it in the rows")
    of_file, rows = read_rows(path, separator)
    named = replace(roots, named=(*roots.named, path.parent))
    shared = {**_shared(of_file, settings, path, roots), **normal_prompts(resolve(settings, roots=roots))}
    jobs = _Collected(Jobs(source=str(path), roots=named), suffix)
    for row in rows:
        try:
            if row.fault:
                raise UserError(row.fault)
            jobs.add(row, shared, Lookup(str(path), [path.parent], roots))
        except UserError as error:
            jobs.refuse(row, str(error))
        count = len(jobs.found.jobs) + len(jobs.found.faults)
        MAX_JOBS.check(count, f"{path}: asks for {count:,} clips or more")
    jobs.say_renamed()
    if not (jobs.found.jobs or jobs.found.faults):
        raise UserError(f"{path}: holds no rows; expected one for each clip")
    return jobs.found


def suffix_of(format: str) -> str:
    """The suffix of a format by its name: `.mp4` of `mp4`, and nothing of `folder`. Raises UserError for others."""
    known = [suffix.removeprefix(".") for suffix in FORMATS]
    if format.removeprefix(".") in known:
        return f".{format.removeprefix('.')}"
    if format != FOLDER:
        raise unknown("format", format, [*known, FOLDER])
    return ""


def job_of(
    values: Mapping[str, Any], roots: Roots = HERE, *, id: str = "", suffix: str = ".mp4", place: str = ""
) -> list[Job]:
    """The jobs of the settings of one row, by the names of a request: one for each clip.

    id: of the row; without it and without `name` and `out` the result is named by its prompt and fingerprint. Raises
    UserError for settings that are none of a request or do not fit each other.
    """
    values = dict(values)
    out, title = values.pop("out", None), values.pop("name", None)
    clips = [
        request.clip(index)
        for run in each(values)
        for request in (build_request(run),)
        for index in range(request.num_clips)
    ]
    target = check_target(out) if out else f"{file_stem(str(title or id))}{suffix}" if title or id else ""
    found = []
    for index, request in enumerate(clips):
        if title:
            request = request.model_copy(update={"name": str(title)})
        fingerprint = fingerprint_of(request, roots)
        own = f"{slug(request.prompt[0]).lower()[:80]}-{fingerprint[:8]}"
        one = numbered(target, index, len(clips)) if target else f"{own}{suffix}"
        named = f"{id}-{index}" if id and len(clips) > 1 else id or PurePosixPath(one).with_suffix("").as_posix()
        found.append(Job(id=named, place=place, target=one, request=request, fingerprint=fingerprint))
    return found


def fingerprint_of(request: AnimateRequest, roots: Roots = HERE) -> str:
    """Of a request as it is asked for: its settings but those of the machine, and short hashes of its files."""
    stored = {name: value for name, value in request.stored().items() if name not in NOT_ASKED}
    asked = json.dumps(portable(stored, roots), sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:DIGITS]


def check_target(out: Any) -> str:
    """The name of a result in the folder of results. Raises UserError for one that leads out of it."""
    if not isinstance(out, str) or not out.strip() or "\0" in out:
        raise UserError(f"out={brief(out)}: is no name of a file")
    path = PurePosixPath(out.strip())
    if path.is_absolute() or re.match(r"[A-Za-z]:|~", out) or "\\" in out or ".." in path.parts:
        raise UserError(f"out={out!r}: results of rows go below the folder of results; give a relative name, with /")
    if not path.name or any(part.startswith(".") for part in path.parts):
        raise UserError(f"out={out!r}: names a hidden file, or no file")
    format_of(out)
    return path.as_posix()


class _Collected:
    """Jobs as they are read, with the names that are taken."""

    def __init__(self, found: Jobs, suffix: str) -> None:
        self.found, self._suffix = found, suffix
        self._renamed: dict[str, str] = {}
        """Id or name -> the file of its result, where that cannot bear it as it stands."""
        self._ids: dict[str, str] = {}
        self._targets: dict[str, str] = {}
        """Id, and target without its case, as some systems know none -> the place of the row that has it."""

    def add(self, row: Row, shared: Mapping[str, Any], lookup: Lookup) -> None:
        """Add the jobs of a row. Raises UserError for what is wrong with it."""
        id = _text(row.values.get(ID))
        given = {key: value for key, value in row.values.items() if key != ID}
        names = {**RENAMED, **ALIASES}
        places = {names.get(key, key): place for key, place in row.places.items()}
        try:
            values = settings_of(given)
            naming = {key: values.pop(key) for key in OWN if key in values}
            values = without_what_is_not_its_own(values, f"{self.found.source}, {row.place}", shared)
            merged = {**shared, **lookup.resolve(values), **naming}
            jobs = job_of(merged, self.found.roots, id=id, suffix=self._suffix, place=row.place)
        except UserError as error:
            raise UserError(located(str(error), {**places, **row.places})) from error
        if not (id or naming):
            jobs = [self._numbered(job) for job in jobs]
        for job in jobs:
            for what, taken, key in (("id", self._ids, job.id), ("result", self._targets, job.target.casefold())):
                if key in taken:
                    raise UserError(f"the {what} {job.id if what == 'id' else job.target!r} is taken by {taken[key]}")
        title = str(naming.get("name") or id)
        if title and "out" not in naming and file_stem(title) != title:
            self._renamed[title] = jobs[0].target
        for job in jobs:
            self._ids[job.id] = self._targets[job.target.casefold()] = row.place
            self.found.jobs.append(replace(job, places=places))

    def say_renamed(self) -> None:
        """Say which results have other names than their rows say: not all signs are taken into names of files."""
        if self._renamed:
            shown = [f"{title} -> {target}" for title, target in list(self._renamed.items())[:MAX_RENAMED]]
            more = ", ..." if len(self._renamed) > len(shown) else ""
            logger.info(
                "results are named without spaces and special signs: %s%s; results.jsonl lists each id with its file, "
                "and a column out names files itself",
                ", ".join(shown),
                more,
            )

    def refuse(self, row: Row, reason: str) -> None:
        id = row.values.get(ID)
        named = str(id).strip() if isinstance(id, str | int | float) else ""
        self.found.faults.append(Fault(place=row.place, id=named, reason=reason))

    def _numbered(self, job: Job) -> Job:
        """A job of settings that an earlier row has too, under a name of its own."""
        number, name = 1, job
        while name.id in self._ids or name.target.casefold() in self._targets:
            number += 1
            path = PurePosixPath(job.target)
            name = replace(job, id=f"{job.id}-{number}", target=f"{path.with_suffix('')}-{number}{path.suffix}")
        return name


def located(message: str, places: Mapping[str, str]) -> str:
    """A message about a row, each sentence with the place of the setting that it is about, where that is known.

    >>> located("steps=0: expected at least 1", {"steps": "column 'Steps'"})
    "column 'Steps': steps=0: expected at least 1"
    """
    return "; ".join(_located(sentence, places) for sentence in message.splitlines())


def _located(sentence: str, places: Mapping[str, str]) -> str:
    for found in re.finditer(r"^(\w+)|`(\w+)`|setting '(\w+)'", sentence):
        name = next(filter(None, found.groups()))
        if name in places:
            return f"{places[name]}: {sentence}"
    return sentence


def _shared(values: Mapping[str, Any], settings: Mapping[str, Any], path: Path, roots: Roots) -> dict[str, Any]:
    """Settings that a file gives for all rows, as far as a file decides them."""
    where = f"{path}, {SHARED}"
    if own := next((key for key in OWN if key in values), None):
        raise UserError(f"{where}: {own!r} names the result of one row; give it in the rows")
    found = without_what_is_not_its_own(settings_of(values, f"{where}: "), where, settings)
    return Lookup(where, [path.parent], roots).resolve(found)


def _text(value: Any) -> str:
    """An id as text; numbers are ids too. Raises UserError for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"id={brief(value)}: expected a text or a number")
    return str(value).strip()


def by_models(jobs: Sequence[Job]) -> Iterator[Job]:
    """The jobs with those of one model next to each other; in the order of the file otherwise."""
    groups: dict[Any, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.model, []).append(job)
    for group in groups.values():
        yield from group
