"""The process of a command: a terminal of any encoding, signals that end it, other libraries' notes left out."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from types import FrameType
from typing import Any

from animatediff.cli.show import show

SIGNAL_BASE = 128
"""A process that ends by signal N has exit code 128 + N, as shells count."""
ENDING = ("SIGTERM", "SIGHUP")
"""Signals that ask a process to end; SIGINT is Python's KeyboardInterrupt."""


def prepare() -> None:
    """Make the process of a command ready: what it prints can be printed, and it ends in order when it is told to."""
    # Of its many notes none is for those who render; whoever wants them sets the variable.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # not everything that stands in for a terminal has it
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def ending() -> Iterator[None]:
    """Leave the body at SIGTERM or SIGHUP, so that half-written files go and the cursor comes back; exit code 128 + N.

    A second one ends the process at once. Signals that are ignored (`nohup`) stay so.
    """
    before: dict[int, Any] = {}

    def restore() -> None:
        while before:
            signal.signal(*before.popitem())

    def leave(number: int, frame: FrameType | None) -> None:
        restore()
        with suppress(OSError, ValueError):  # the terminal may be what has gone
            show(f"animatediff: stopped by {signal.Signals(number).name}", file=sys.stderr)
        raise SystemExit(SIGNAL_BASE + number)

    if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
        for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        restore()
