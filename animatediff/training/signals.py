"""SIGTERM, SIGINT and SIGHUP as requests to stop: the run saves at the end of its step and leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

STOPPING = ("SIGTERM", "SIGINT", "SIGHUP")
"""Signals that end a run in order; SIGHUP, of a terminal that was closed, is not on every system."""


class StopRequest:
    """A context in which the first such signal is noted in `number`; a second one acts as it would without.

    But for SIGHUP, which both the shell and the system send when a terminal closes: further ones do nothing, and where
    it is ignored (`nohup`) it stays so. The others count also where they were ignored, as a shell has SIGINT in what it
    starts in the background: only who means this very run sends them to it.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no handlers
            for number in (getattr(signal, name) for name in STOPPING if hasattr(signal, name)):
                if number != getattr(signal, "SIGHUP", None) or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        self._restore(but=getattr(signal, "SIGHUP", None))

    def _restore(self, but: int | None = None) -> None:
        for number in [number for number in self._before if number != but]:
            signal.signal(number, self._before.pop(number))
