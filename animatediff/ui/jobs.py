"""The queue of renders: one at a time in a thread of its own, so that a closed page loses no result."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from animatediff.errors import Cancelled, UserError
from animatediff.render.events import Event
from animatediff.render.request import AnimateRequest
from animatediff.render.write import OneFile, Rendered

logger = logging.getLogger(__name__)

MAX_WAITING = 32
"""Renders that may wait at once."""

State = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """One render: what is asked for, how far it is, and what came of it."""

    owner: str
    """The page that asked for it."""
    request: AnimateRequest
    to: OneFile
    state: State = "waiting"
    event: Event | None = None
    """The last one with a step."""
    preview: Any = None
    """The last preview, uint8 (h, w, 3)."""
    notes: list[str] = field(default_factory=list)
    results: list[Rendered] = field(default_factory=list)
    error: BaseException | None = None
    cancelled: bool = False
    started: float = 0.0
    seconds: float = 0.0
    version: int = 0
    """Counts the changes."""

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")


class BusyError(UserError):
    """Raised for a second job of one page."""


class Jobs:
    """Jobs in the order in which they were asked for."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer
        self._waiting: deque[Job] = deque()
        self._at_work: Job | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, owner: str, request: AnimateRequest, to: OneFile) -> Job:
        """Take a job. Raises BusyError where this page has one, UserError where too many wait."""
        job = Job(owner, request, to)
        with self._changed:
            if self._of(owner) is not None:
                raise BusyError("this page is rendering already; wait for it or press “Cancel”")
            if len(self._waiting) >= MAX_WAITING:
                raise UserError(f"{MAX_WAITING} renders are waiting, which is as many as fit; try again later")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="animatediff-renders", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def busy(self, owner: str) -> bool:
        """Whether a page has a job."""
        with self._changed:
            return self._of(owner) is not None

    def place(self, job: Job) -> int:
        """How many are rendered before it."""
        with self._changed:
            ahead = list(self._waiting).index(job) if job in self._waiting else 0
            return ahead + (self._at_work is not None and self._at_work is not job)

    def cancel(self, owner: str) -> bool:
        """End the job of a page, at work or waiting. Returns whether there is one."""
        with self._changed:
            job = self._of(owner)
            if job is None:
                return False
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "cancelled"
            job.version += 1
            self._changed.notify_all()
        return True

    def wait(self, job: Job, seen: int, timeout: float) -> int:
        """Wait until a job has changed since version `seen`, `timeout` seconds at most; returns the version."""
        with self._changed:
            self._changed.wait_for(lambda: job.version != seen, timeout)
            return job.version

    def close(self, timeout: float = 20.0) -> None:
        """Cancel all jobs, and wait until the one at work has left nothing half-written behind."""
        with self._changed:
            for job in (self._at_work, *self._waiting):
                if job is not None:
                    job.cancelled = True
            self._waiting.clear()
            self._changed.wait_for(lambda: self._at_work is None, timeout)

    def _of(self, owner: str) -> Job | None:
        own = (job for job in (self._at_work, *self._waiting) if job is not None and job.owner == owner)
        return next(own, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                job = self._at_work = self._waiting.popleft()
                job.started = time.monotonic()
                job.state = "running"
                self._changed_now(job)
                for other in self._waiting:  # their places have changed
                    other.version += 1
            state, error, results = self._rendered(job)
            with self._changed:
                self._at_work = None
                job.error, job.results, job.seconds = error, results, time.monotonic() - job.started
                job.state = state
                self._changed_now(job)

    def _rendered(self, job: Job) -> tuple[State, BaseException | None, list[Rendered]]:
        try:
            done = self._renderer.render(
                [job.request],
                job.to,
                on_event=lambda event: self._tell(job, event),
                cancel=lambda: job.cancelled,
                preview=True,
            )
        except Cancelled:
            return "cancelled", None, []
        except Exception as error:
            if not isinstance(error, UserError):
                logger.exception("a render failed")
            return "failed", error, []
        return "done", None, done

    def _tell(self, job: Job, event: Event) -> None:
        with self._changed:
            if not event.note:
                job.event = event
                job.preview = job.preview if event.preview is None else event.preview
            elif event.note not in job.notes:
                job.notes.append(event.note)
            self._changed_now(job)

    def _changed_now(self, job: Job) -> None:
        job.version += 1
        self._changed.notify_all()
