"""From a filled form to a result on the page: the job, its progress, its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from animatediff.errors import OUT_OF_MEMORY, UserError, is_disk_full, is_out_of_memory
from animatediff.media.formats import FOLDER, FORMATS
from animatediff.render.request import AnimateRequest
from animatediff.render.write import OneFile, Rendered
from animatediff.ui import stage
from animatediff.ui.form import Form
from animatediff.ui.jobs import BusyError, Job, Jobs
from animatediff.ui.labels import worded
from animatediff.ui.library import gr
from animatediff.ui.views import downloadable, shape_of, viewable

logger = logging.getLogger(__name__)

EACH = 0.2
"""Seconds between two updates of a page at least."""


def formats() -> list[tuple[str, str]]:
    """(title, suffix) of the formats that a result may have; a folder has none."""
    suffixes = {kind: suffix for suffix, kind in reversed(FORMATS.items())}
    return [*((kind, suffixes[kind]) for kind in dict.fromkeys(FORMATS.values())), ("PNG frames", FOLDER)]


@dataclass
class Result:
    """Components around the stage that a run changes."""

    generate: Any
    cancel: Any
    stage: Any
    line: Any
    """One line: what went wrong."""
    facts: Any
    seed: Any
    """State: the seed that was used."""
    use_seed: Any
    download: Any
    notes: Any
    clips: Any
    """Choice of one of several clips."""
    files: Any
    """State: (file, seed, facts, whether it has sound) of each clip."""
    marked: Any
    """State: the options that show an error."""

    @property
    def all(self) -> list[Any]:
        return list(vars(self).values())


class Runs:
    """What the buttons Generate and Cancel do."""

    def __init__(self, form: Form, jobs: Jobs, result: Result, *, download: bool) -> None:
        self.form, self.jobs, self.result, self.download = form, jobs, result, download

    def generate(
        self, request: gr.Request, suffix: str, clips: Any, marked: list[str], *values: Any
    ) -> Iterator[dict[Any, Any]]:
        """Render what the form says; yields updates of the page."""
        r, owner = self.result, str(request.session_hash)
        if self.jobs.busy(owner):  # by a double click
            yield {r.line: gr.skip()}
            return
        yield {
            **self.form.forgotten(marked),
            r.marked: [],
            r.line: gr.HTML("", visible=False),
            r.generate: gr.Button(visible=False),
            r.cancel: gr.Button(visible=True, interactive=True),
            r.facts: "",
            r.notes: "",
            r.use_seed: gr.Button(visible=False),
            r.download: gr.DownloadButton(visible=False),
            r.clips: gr.Radio(visible=False),
            r.stage: stage.progress(None, None),
        }
        asked = None
        try:
            others = {"download": True} if self.download else {}
            asked = self.form.request(values, clips, **others)
            job = self.jobs.add(owner, asked, OneFile(suffix="" if suffix == FOLDER else suffix))
        except BusyError:
            yield {r.line: gr.skip()}
            return
        except Exception as error:
            yield self._failed(error, asked)
            return
        yield from self._watched(job)
        if job.state == "failed" and job.error is not None:
            yield self._failed(job.error, asked, job.notes)
        elif job.state == "cancelled":
            text = stage.message("Cancelled; nothing was written.", "note")
            yield {**self._ready(), r.stage: stage.empty(), r.line: gr.HTML(text, visible=True)}
        else:
            yield self._done(job)

    def cancel(self, request: gr.Request) -> dict[Any, Any]:
        """End the job of this page."""
        self.jobs.cancel(str(request.session_hash))
        return {self.result.cancel: gr.Button(interactive=False)}

    def choose(self, files: list[tuple[str, str, str, bool]], which: str) -> dict[Any, Any]:
        """Show one of several clips."""
        names = [str(number) for number in range(1, len(files) + 1)]
        return self._shown(*files[names.index(which)]) if which in names else {self.result.stage: gr.skip()}

    # -- updates -------------------------------------------------------------------------------------------------------

    def _watched(self, job: Job) -> Iterator[dict[Any, Any]]:
        version = -1
        while True:
            version = self.jobs.wait(job, version, timeout=2.0)
            if job.over:
                return
            if job.state == "waiting":
                html = stage.waiting(self.jobs.place(job))
            else:
                html = stage.progress(job.event, job.preview, cancelled=job.cancelled)
            yield {self.result.stage: html}
            time.sleep(EACH)

    def _ready(self) -> dict[Any, Any]:
        return {self.result.generate: gr.Button(visible=True), self.result.cancel: gr.Button(visible=False)}

    def _failed(self, error: BaseException, asked: AnimateRequest | None, notes: Sequence[str] = ()) -> dict[Any, Any]:
        beside, line, names = self.form.failure(explained(error), asked)
        return {
            **self._ready(),
            **beside,
            self.result.stage: stage.empty(),
            self.result.line: gr.HTML(stage.message(line, "error"), visible=True),
            self.result.notes: stage.notes([worded(note) for note in notes]),
            self.result.marked: names,
        }

    def _done(self, job: Job) -> dict[Any, Any]:
        files = [
            (str(done.file), str(done.request.seed[0]), _facts(done, job), done.request.audio) for done in job.results
        ]
        notes = [worded(note) for note in dict.fromkeys([*job.notes, *(n for d in job.results for n in d.notes)])]
        numbers = [str(number) for number in range(1, len(files) + 1)]
        return {
            **self._ready(),
            **self._shown(*files[0]),
            self.result.notes: stage.notes(notes),
            self.result.files: files,
            self.result.clips: gr.Radio(numbers, value="1", visible=len(files) > 1),
        }

    def _shown(self, file: str, seed: str, facts: str, sound: bool) -> dict[Any, Any]:
        path = Path(file)
        return {
            self.result.stage: played(path, sound=sound),
            self.result.facts: facts,
            self.result.seed: seed,
            self.result.use_seed: gr.Button(f"Use seed {seed}", visible=True),
            self.result.download: gr.DownloadButton(value=str(downloadable(path)), visible=True),
        }


def played(path: Path, *, sound: bool) -> str:
    """The stage with a clip of any format."""
    try:
        return stage.player(viewable(path), sound=sound)
    except (UserError, OSError) as error:
        return stage.message(str(error), "error")


def explained(error: BaseException) -> str:
    """What a user can do about an error, in one message that names settings in backquotes."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if is_disk_full(error):
        return f"{getattr(error, 'filename', None) or 'the result'}: the disk is full; free some space"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the disk'}: {error.strerror}"
    logger.error("an error that nobody expected", exc_info=error)
    return f"an error that nobody expected, {type(error).__name__}: {error}. The terminal shows where"


def _facts(done: Rendered, job: Job) -> str:
    request = done.request
    num_frames, width, height = shape_of(done.file)
    parts = [
        f"Seed <b>{request.seed[0]}</b>",
        f"{width} x {height}, {num_frames} frames",
        f"{request.steps} steps" + (f", {escape(request.scheduler)}" if request.scheduler else ""),
        stage.size_of(done.file),
        f"in {stage.duration(job.seconds)}",
        *([escape(job.event.memory)] if job.event is not None and job.event.memory else []),
    ]
    seam = "" if done.seam is None else f"Loop seam {done.seam:.2f}; 1 is seamless. "
    spans = "".join(f"<span>{part}</span>" for part in parts)
    return f'<p class="ad-facts">{spans}</p><p class="ad-file">{seam}{escape(str(done.file))}</p>'
