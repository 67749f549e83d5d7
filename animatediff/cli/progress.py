"""A progress bar on a terminal, and the words of the library's log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from animatediff.render.render import OnProgress, RenderProgress


@contextmanager
def messages(quiet: bool) -> Iterator[None]:
    """Show the library's notes and warnings on stderr, each once; with `quiet`, warnings alone."""
    log = logging.getLogger("animatediff")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
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
def progress_bar(quiet: bool) -> Iterator[OnProgress | None]:
    """A callback that draws a bar with the time to completion on stderr; None with `quiet` or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    words = {"load": "loading", "encode": "encoding", "denoise": "rendering", "decode": "decoding"}
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("loading", total=None)
        phase = ""

        def show(event: RenderProgress) -> None:
            nonlocal phase
            name = words.get(event.phase, event.phase)
            if event.num_clips > 1 and event.phase != "load":
                name = f"clip {event.clip + 1} of {event.num_clips}, {name}"
            if name != phase:  # each phase has a speed of its own
                bar.reset(task, description=name, total=event.total if event.phase != "load" else None)
                phase = name
            bar.update(task, completed=event.step)

        yield show
