"""A progress bar on a terminal, and the words of the library's log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from animatediff.render.events import Event, OnEvent


PHASES = {
    "load": "loading",
    "download": "downloading",
    "encode": "encoding",
    "denoise": "rendering",
    "decode": "decoding",
    "finish": "finishing",
    "write": "writing",
}


class _Flags(logging.Formatter):
    """Messages with settings in backquotes under the names of their flags."""

    def format(self, record: logging.LogRecord) -> str:
        from animatediff.errors import printable, renamed
        from animatediff.limits import FLAGS as LIMIT_FLAGS
        from animatediff.render.options import ARGUMENT_FLAGS, FLAGS

        return printable(renamed(super().format(record), LIMIT_FLAGS | ARGUMENT_FLAGS | FLAGS))


@contextmanager
def messages(quiet: bool) -> Iterator[None]:
    """Show the library's notes and warnings on stderr, each once; with `quiet`, warnings alone."""
    log = logging.getLogger("animatediff")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Flags("%(message)s"))
    seen: set[str] = set()

    def once(entry: logging.LogRecord) -> bool:
        text = entry.getMessage()
        new = text not in seen
        seen.add(text)
        return new

    handler.addFilter(once)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[OnEvent | None]:
    """A callback that draws a bar with the time to completion on stderr; None with `quiet` or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(PHASES["load"], total=None, left="")
        phase = ""

        def show(event: Event) -> None:
            nonlocal phase
            if event.note:  # the log shows it
                return
            name = PHASES.get(event.phase, event.phase)
            if event.num_clips > 1 and event.phase not in ("load", "download"):
                name = f"clip {event.clip + 1} of {event.num_clips}, {name}"
            if name != phase:
                bar.reset(task, description=name)
                phase = name
            bar.update(task, completed=event.step, total=event.total, left=time_left(event.time_left))

        yield show


def time_left(seconds: float | None) -> str:
    """How long a phase still takes, for the end of a bar.

    >>> time_left(3725.2), time_left(None)
    ('1:02:05 left', '')
    """
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} left"
