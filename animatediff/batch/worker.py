"""The worker: renders row after row and keeps its model; the same here, in a Ray actor, and in Ray Data's map."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animatediff.batch.cells import ID, value_of
from animatediff.batch.jobs import Job, job_of, suffix_of
from animatediff.batch.results import NOTE, seed_of, state_of
from animatediff.errors import OUT_OF_MEMORY, Cancelled, UserError, is_disk_full, is_out_of_memory
from animatediff.files import HERE, Roots
from animatediff.render.events import Cancel, OnEvent
from animatediff.render.read.merge import resolve
from animatediff.render.read.original import settings_of
from animatediff.render.resume import Resume
from animatediff.render.write import OneFile

logger = logging.getLogger(__name__)

RESUME = Resume()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one job."""

    file: str | None = None
    """Path of the result; None where there is none."""
    seed: int | None = None
    """The real one."""
    seconds: float = 0.0
    error: str | None = None
    """The reason why there is no result."""
    was_done: bool = False
    """Whether a result of these settings was there already."""
    ends_all: bool = False
    """Whether no other job would fare better: the disk is full."""


class RenderRow:
    """A callable that renders a row of settings and returns it with `file`, `seed` and `error`.

    What one row does wrong is its `error`; the next one is rendered. A result that is there with the same settings is
    not rendered again.
    """

    def __init__(
        self,
        options: Mapping[str, Any] | None = None,
        *,
        roots: Roots = HERE,
        renderer: Any = None,
        resume: Resume | None = RESUME,
    ) -> None:
        """options: settings of all rows, and `folder` and `format` of the results (`samples/batch`, `mp4`).

        resume: how the state of the clip at work is saved, for a worker that gets the same row to go on with.

        Nothing is loaded before the first row. Raises UserError for an unknown setting.
        """
        options = dict(options or {})
        self._folder = Path(options.pop("folder", None) or HERE.samples / "batch")
        self._suffix = suffix_of(options.pop("format", "mp4"))
        self._shared = resolve(settings_of(options), roots=roots)
        self._roots, self._renderer, self._resume = roots, renderer, resume

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Render one row: option names, `id`, `name`, `out`, as in a file of rows; None is nothing.

        Texts are read as cells of CSV: `1|2` are two entries, `a.safetensors:0.5` a file and its scale.
        """
        given = {str(key): plain for key, value in row.items() if (plain := _plain(value)) is not None}
        try:
            id = str(given.pop(ID, ""))
            read = {key: value_of(key, one, "|") if isinstance(one, str) else one for key, one in given.items()}
            settings = resolve(settings_of(read), roots=self._roots)
            jobs = job_of({**self._shared, **settings}, self._roots, id=id, suffix=self._suffix)
            if len(jobs) > 1:
                raise UserError(f"a row makes one clip here, and this one asks for {len(jobs)}; write a row for each")
            if state_of(self._folder, jobs[0]) == "foreign":
                raise UserError(foreign(self._folder / jobs[0].target))
            outcome = self.render(jobs[0])
        except UserError as error:
            outcome = Outcome(error=str(error))
        return {**row, "file": outcome.file, "seed": outcome.seed, "error": outcome.error}

    def render(self, job: Job, on_event: OnEvent | None = None, cancel: Cancel | None = None) -> Outcome:
        """Render one job into the folder. Raises Cancelled; any other error is the outcome's."""
        began = time.monotonic()
        path = self._folder / job.target
        try:
            state, request = state_of(self._folder, job), job.request
            if state == "done":
                return Outcome(file=str(path), seed=seed_of(path), was_done=True)
            if state in ("changed", "damaged") and request.seed == (-1,) and (drawn := seed_of(path)) >= 0:
                request = request.model_copy(update={"seed": (drawn,)})  # another setting is tried on the same clip
            note = {NOTE: {"id": job.id, "fingerprint": job.fingerprint}}
            to = OneFile(str(path), note=note, resume=self._resume)
            (done,) = self._rendering().render([request], to, on_event=on_event, cancel=cancel)
        except Cancelled:
            raise
        except Exception as error:
            if not isinstance(error, UserError):
                logger.debug("%s (%s) failed", job.place, job.id, exc_info=True)
            return Outcome(error=_reason(error), ends_all=is_disk_full(error), seconds=time.monotonic() - began)
        return Outcome(file=str(done.file), seed=done.request.seed[0], seconds=time.monotonic() - began)

    def ready(self) -> bool:
        """Answer, so that whoever made this worker knows that it is there."""
        return True

    def _rendering(self) -> Any:
        if self._renderer is None:
            from animatediff.render.renderer import Renderer  # seconds

            self._renderer = Renderer(roots=self._roots)
        return self._renderer


def foreign(path: Path) -> str:
    """The reason why a file is left alone."""
    return f"{path}: is there already, and no result of a batch; move it away, or choose another folder with `out`"


def _plain(value: Any) -> Any:
    """A value as Python has it: tables hold NumPy's numbers, and NaN or an empty text where there is nothing."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    empty = not value.strip() if isinstance(value, str) else isinstance(value, float) and value != value
    return None if empty else value


def _reason(error: Exception) -> str:
    if isinstance(error, UserError):
        return "; ".join(str(error).splitlines())
    if is_out_of_memory(error):
        return OUT_OF_MEMORY
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
