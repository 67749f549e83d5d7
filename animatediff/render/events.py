"""Events of a render job: how far it is, how long it takes, its notes; and whether it is cancelled."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from animatediff.errors import Cancelled
from animatediff.logs import Escape

if TYPE_CHECKING:
    import numpy as np

Phase = Literal["load", "download", "encode", "denoise", "decode", "finish", "write"]
"""`load` (parts of the model), `download` (bytes), `encode` (frames of a video), `denoise` (steps), `decode` (frames),
`finish` (frames upscaled or interpolated) and `write` (frames)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Event:
    """A step that has been made, and where it stands in the whole job; or a note, which repeats the last step."""

    phase: str
    """One of `Phase`."""
    step: int
    """Steps of the phase made, up to `total`."""
    total: int
    clip: int
    """From 0."""
    num_clips: int
    time_left: float | None = None
    """Seconds to the end of the phase at its speed so far; None before its first step."""
    note: str = ""
    """A choice made for the user, or a warning."""
    preview: np.ndarray | None = None
    """The clip as it is after this step, uint8 (h, w, 3), small; where it is asked for."""
    memory: str = ""
    """What the clip needs in memory of what there is, from its first step on."""


OnEvent = Callable[[Event], None]
Cancel = Callable[[], bool]


class TimeLeft:
    """Seconds to the end of a phase, from the speed at which its steps came so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase: object = None
        self._step, self._last = 0, clock()
        self._from = (0, self._last)
        """The step, and its time, from which the speed is measured."""

    def after(self, phase: object, step: int, total: int) -> float | None:
        """`step` of `total` steps of `phase` are made now; None where no speed is known yet."""
        now = self._clock()
        if phase != self._phase or step < self._step:
            self._phase, self._from = phase, (0, self._last if step else now)
        elif self._from[0] == 0 and self._step:
            # what comes before the first step, such as encoding the prompts, says nothing about the others
            self._from = (self._step, self._last)
        self._step, self._last = step, now
        made = step - self._from[0]
        return (now - self._from[1]) / made * (total - step) if made > 0 else None


class Reporter:
    """The listeners of one job: tells them its steps and notes, and ends it where it is cancelled."""

    def __init__(
        self,
        on_event: OnEvent | None = None,
        cancel: Cancel | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clip, self.num_clips = 0, 1
        self.notes: list[str] = []
        """Of the clip at work; those before the first clip are its own."""
        self.memory = ""
        """What the clip at work needs in memory, in words."""
        self._on_event, self._cancel = on_event, cancel
        self._time_left = TimeLeft(clock)
        self._last: tuple[str, int, int] = ("load", 0, 1)
        self._telling = False

    def cancelled(self) -> bool:
        """Whether the job is to end."""
        return self._cancel is not None and self._cancel()

    def check(self) -> None:
        """Raise Cancelled if the job is to end."""
        if self.cancelled():
            phase, step, total = self._last
            raise Cancelled(f"cancelled after {phase} {step} of {total}")

    def tell(self, phase: str, step: int, total: int, preview: np.ndarray | None = None) -> None:
        """A step of a phase has been made."""
        self._last = (phase, step, total)
        self._send(time_left=self._time_left.after((phase, self.clip), step, total), preview=preview)

    def step(self, phase: str, step: int, total: int, preview: np.ndarray | None = None) -> None:
        """`tell`, then `check`."""
        self.tell(phase, step, total, preview)
        self.check()

    def on(self, phase: Phase) -> Callable[[int, int], None]:
        """`step` of one phase: (step, total)."""
        return partial(self.step, phase)

    def note(self, text: str) -> None:
        """Tell a choice made for the user, or a warning."""
        self.notes.append(text)
        self._send(note=text)

    def next_clip(self) -> None:
        """The clip at work is done."""
        self.clip, self.notes, self.memory = self.clip + 1, [], ""

    def _send(self, time_left: float | None = None, note: str = "", preview: np.ndarray | None = None) -> None:
        if self._on_event is None or self._telling:  # a listener that logs is not told of its own words
            return
        phase, step, total = self._last
        self._telling = True
        try:
            self._on_event(
                Event(
                    phase=phase,
                    step=step,
                    total=total,
                    clip=self.clip,
                    num_clips=self.num_clips,
                    time_left=time_left,
                    note=note,
                    preview=preview,
                    memory=self.memory,
                )
            )
        finally:
            self._telling = False


# -- notes from the log ------------------------------------------------------------------------------------------------

_at_work: ContextVar[Reporter | None] = ContextVar("animatediff_job", default=None)
_silent: ContextVar[bool] = ContextVar("animatediff_silent", default=False)
_LOG = "animatediff"


class _Relay(logging.Handler):
    """Hands notes and warnings of the library's log to the job in whose context they are written."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(logging.INFO)
        self.before = log.level
        self._threshold = log.getEffectiveLevel()
        self._others: list[logging.Handler] = []
        at: logging.Logger | None = log
        while at is not None:
            self._others += [handler for handler in at.handlers if not isinstance(handler, Escape)]  # shows nothing
            at = at.parent if at.propagate else None
        for other in self._others:  # the log shows what it showed before
            other.filters.insert(0, self._shown)  # first, so that filters that count see what is shown alone

    def _shown(self, record: logging.LogRecord) -> bool:
        if _silent.get() and record.name.split(".")[0] == _LOG:
            return False
        return record.levelno >= self._threshold or record.name.split(".")[0] != _LOG

    def emit(self, record: logging.LogRecord) -> None:
        if _silent.get():
            return
        last = logging.lastResort
        if not self._others and last is not None and record.levelno >= max(last.level, self._threshold):
            last.handle(record)  # as logging does where nobody has set it up
        if (reporter := _at_work.get()) is not None:
            reporter.note(record.getMessage())

    def close(self) -> None:
        for other in self._others:
            other.removeFilter(self._shown)
        super().close()


_lock = threading.Lock()
_relay: _Relay | None = None
_jobs = 0


@contextmanager
def noted(reporter: Reporter) -> Iterator[None]:
    """Hand the log's notes of this context (a thread, a task) to `reporter`; the log's own output stays the same.

    Not to be held across a `yield`: a generator runs in the context of its caller.
    """
    token = _at_work.set(reporter)
    try:
        _listen(1)
        try:
            yield
        finally:
            _listen(-1)
    finally:
        _at_work.reset(token)


@contextmanager
def silent() -> Iterator[None]:
    """Keep the library's log of this context quiet, inside of `noted`: what it says is said again later."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def _listen(change: int) -> None:
    """Put the relay into the log with the first job, and take it out with the last."""
    global _jobs, _relay
    log = logging.getLogger(_LOG)
    with _lock:
        _jobs += change
        if _jobs and _relay is None:
            _relay = _Relay(log)
            log.addHandler(_relay)
            if log.getEffectiveLevel() > logging.INFO:
                log.setLevel(logging.INFO)
        elif not _jobs and _relay is not None:
            log.removeHandler(_relay)
            log.setLevel(_relay.before)
            _relay.close()
            _relay = None
