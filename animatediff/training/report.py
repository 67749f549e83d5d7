"""Reports of a run: a progress bar or lines on the terminal with the time left, the metrics log, and trackers."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from animatediff.errors import printable
from animatediff.files import write_errors, write_text

METRICS_FILE = "curve.jsonl"
SECONDS_BETWEEN_LINES = 10.0
"""Least time between two lines without a terminal; the last step always has one."""


class MetricsLog:
    """Metrics of a run in a file of JSON, one object a line, one line a logged step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Go on after `step`: lines of later steps, left by a part of the run that was lost, are taken out."""
        self.path = folder / METRICS_FILE
        if self.path.is_file():
            lines = self.path.read_text("utf-8").splitlines()
            kept = [line for line in lines if step and _step(line) <= step]
            if len(kept) != len(lines):
                write_text(self.path, "".join(f"{line}\n" for line in kept))

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        with write_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: _short(value) for key, value in row.items()}) + "\n")


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):  # the line that a crash has cut off
        return float("inf")


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


class ProgressReporter:
    """Progress on stderr: a bar where it is a terminal, plain lines otherwise, nothing if `quiet`.

    A terminal that was closed, or a pipe that nobody reads any more, ends the reports and not the run.
    """

    def __init__(self, steps: int, step: int, *, quiet: bool = False) -> None:
        """steps: those of the whole run; step: the one it goes on after."""
        self.steps, self.quiet = steps, quiet
        self._first, self._began = step, time.perf_counter()
        self._last_line = 0.0
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            self._bar = self._make_bar(step)

    def _make_bar(self, step: int) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        bar = Progress(*columns, console=Console(stderr=True))
        self._task = bar.add_task("", total=self.steps, completed=step)
        bar.start()
        return bar

    def advance(self, step: int) -> None:
        """Move the bar to `step`."""
        if self._bar is not None:
            with self._as_long_as_shown():
                self._bar.update(self._task, completed=step)

    def metrics(self, row: Mapping[str, Any]) -> None:
        """Show the metrics of a step, and how long the rest will take."""
        step = row["step"]
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in row.items() if _shown(name, value))
        text += f", {self.left(step)} left"
        if self._bar is not None:
            with self._as_long_as_shown():
                self._bar.update(self._task, completed=step, description=text)
            return
        now = time.perf_counter()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step == self.steps:
            self._last_line = now
            self.message(f"step {step} of {self.steps}: {text}")

    def left(self, step: int) -> str:
        """Time to completion, by the speed since this process began."""
        done = max(1, step - self._first)
        seconds = (time.perf_counter() - self._began) / done * (self.steps - step)
        return str(timedelta(seconds=round(seconds)))

    def message(self, text: str) -> None:
        """Print a line of its own."""
        with self._as_long_as_shown():
            if self._bar is not None:
                self._bar.console.print(printable(text), highlight=False, markup=False)
            elif not self.quiet:
                print(printable(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._as_long_as_shown():
            if self._bar is not None:
                self._bar.stop()
        self._bar = None

    @contextmanager
    def _as_long_as_shown(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._bar, self.quiet = None, True


def _shown(name: str, value: Any) -> bool:
    return isinstance(value, float) and name in ("loss", "validation_loss", "learning_rate", "samples_per_second")


class Reporter:
    """The reports of one process of a run: its progress, the metrics log in the main process, and the trackers."""

    def __init__(self, progress: ProgressReporter, metrics_log: MetricsLog | None, accelerator: Any) -> None:
        """accelerator: knows the trackers that the configuration's `log` asks for."""
        self.progress, self.metrics_log, self.accelerator = progress, metrics_log, accelerator

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the metrics of a step (`row["step"]`) everywhere."""
        if self.metrics_log is not None:
            self.metrics_log.add(row)
        self.progress.metrics(row)
        metrics = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(metrics, step=row["step"])

    def advance(self, step: int) -> None:
        """Show that `step` is done."""
        self.progress.advance(step)

    def message(self, text: str) -> None:
        """Print a line on the terminal."""
        self.progress.message(text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self.progress.close()
