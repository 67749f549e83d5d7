"""Signals that end a run, and terminals that are gone before it ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from animatediff.training.report import ProgressReporter
from animatediff.training.signals import StopRequest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """Of SIGHUP, counted; whatever started the tests may have it ignored, as nohup does."""
    received: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: received.append(number))
    yield received
    signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_is_a_request_to_stop_however_often_it_is_told(own_handler: list[int]) -> None:
    with StopRequest() as stop:
        assert stop.number is None
        for _ in range(3):  # by the shell and by the system
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == signal.SIGHUP
    assert own_handler == []
    os.kill(os.getpid(), signal.SIGHUP)
    assert own_handler == [signal.SIGHUP], "the handler of before is back"


def test_closing_the_terminal_after_ctrl_c_does_not_end_the_save(own_handler: list[int]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before, "a second one acts"
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number == signal.SIGINT
    assert own_handler == []


def test_ignored_signals_stay_so(own_handler: list[int]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.number is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_reports_that_nobody_reads_any_more_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    ours, theirs = os.openpty() if kind == "terminal" else os.pipe()
    ended = False
    with suppress(OSError), open(theirs, "w") as stream:  # closing it writes what is left
        monkeypatch.setattr(sys, "stderr", stream)
        progress = ProgressReporter(4, 0)
        progress.message("goes on")
        seen = b""
        while b"goes on" not in seen:
            seen += os.read(ours, 10_000)
        os.close(ours)
        for step in range(1, 5):
            progress.advance(step)
            progress.message("rendering")
            progress.metrics({"step": step, "loss": 1.0})
        assert progress.quiet
        progress.close()
        ended = True
    assert ended
