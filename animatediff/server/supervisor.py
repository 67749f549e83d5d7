"""Starts the workers and watches them: the job of one that is gone goes back into the queue."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

from animatediff.server.metrics import Metrics
from animatediff.server.queue import QUEUED, Job, Queue
from animatediff.server.sent import Sent
from animatediff.server.settings import Settings
from animatediff.server.store import Store

logger = logging.getLogger("animatediff.server")

TICK_S = 0.2
SHORT_S, FIRST_PAUSE_S, MAX_PAUSE_S = 20.0, 0.1, 30.0
"""A worker that lived no longer is started again after a pause, which doubles."""
STOP_S = 15.0
MEMORY_HINT = "often the memory is not enough: take fewer frames (`num_frames`), or a smaller `width` and `height`"


@dataclass
class _Slot:
    device: str | None
    number: int
    process: subprocess.Popen[str] | None = None
    starts: int = 0
    started: float = 0.0
    not_before: float = 0.0
    pause: float = FIRST_PAUSE_S

    @property
    def worker(self) -> str:
        """Name of the worker that is, or was last, in this place."""
        return f"{os.getpid()}-{self.number}-{self.starts}"


@dataclass
class Supervisor:
    """Thread of the server beside its routes."""

    settings: Settings
    queue: Queue
    store: Store
    metrics: Metrics
    counts: dict[str, int] = field(default_factory=dict)
    """Jobs by status, as of the last tick."""

    def __post_init__(self) -> None:
        self._slots = [_Slot(device, number) for number, device in enumerate(self.settings.devices)]
        self._stop = threading.Event()
        self._swept = 0.0
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    @property
    def workers(self) -> int:
        """Workers that run."""
        return sum(slot.process is not None and slot.process.poll() is None for slot in self._slots)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run."""
        return [slot.process.pid for slot in self._slots if slot.process is not None and slot.process.poll() is None]

    def start(self) -> None:
        """Take up what an earlier server left, and start the workers."""
        for job in self.queue.running():
            self._lost(job, "the server was ended while it rendered this")
        self.counts = self.queue.counts()
        self._thread.start()

    def stop(self) -> None:
        """End the workers; their jobs are put back and do not lose a try."""
        self._stop.set()
        self._thread.join()
        running = [slot.process for slot in self._slots if slot.process is not None and slot.process.poll() is None]
        for process in running:
            with suppress(OSError, ValueError):
                assert process.stdin is not None
                process.stdin.write("stop\n")
                process.stdin.flush()
        deadline = time.monotonic() + STOP_S
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for job in self.queue.running():
            self.queue.put_back(job)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                self._tick()
            except Exception:  # a full disk, a busy table: the next tick tries again
                logger.exception("the supervisor goes on after an error")
                self._stop.wait(1.0)
            self._stop.wait(TICK_S)

    def _tick(self) -> None:
        for slot in self._slots:
            self._look_at(slot)
        self._look_at_leases()
        for job in self.queue.newly_ended():
            self.metrics.tell(job)
        self.counts = self.queue.counts()
        if time.monotonic() > self._swept + self.settings.sweep_s:
            self._swept = time.monotonic()
            for job in self.queue.expired():
                self.queue.delete(job.id)
                self.store.remove(job.id)

    def _look_at(self, slot: _Slot) -> None:
        now = time.monotonic()
        process = slot.process
        if process is not None and process.poll() is not None:
            reason = _ending(process.returncode)
            logger.warning("worker %s: %s", slot.worker, reason)
            for job in self.queue.running(slot.worker):
                self._lost(job, f"the worker {reason} while it rendered this")
            slot.process = None
            self.metrics.worker_deaths.inc()
            slot.pause = min(slot.pause * 2, MAX_PAUSE_S) if now - slot.started < SHORT_S else FIRST_PAUSE_S
            slot.not_before = now + slot.pause
        if slot.process is None and now >= slot.not_before:
            slot.starts, slot.started = slot.starts + 1, now
            slot.process = self._started(slot)

    def _started(self, slot: _Slot) -> subprocess.Popen[str]:
        settings = self.settings
        setup = {
            "name": slot.worker,
            "data": str(settings.data.absolute()),
            "models": [str(path) for path in settings.roots.models],
            "device": slot.device,
            "lease_s": settings.lease_s,
            "job_minutes": settings.job_minutes,
            "keep_s": settings.keep_hours * 3600,
            "renderer": settings.renderer,
            "preload": ["animatediff.pipelines"] if settings.renderer == Settings.renderer else [],
        }
        own = [path for path in (os.environ.get("PYTHONPATH"), *sys.path) if path]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(
                dict.fromkeys(os.path.abspath(part) for path in own for part in path.split(os.pathsep))
            ),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        }
        environment.pop("ANIMATEDIFF_TOKEN", None)
        return subprocess.Popen(
            [sys.executable, "-m", "animatediff.server.worker", json.dumps(setup)],
            stdin=subprocess.PIPE,
            cwd=settings.data,
            env=environment,
            text=True,
        )

    def _look_at_leases(self) -> None:
        """End workers that gave no sign of life."""
        now = time.time()
        for job in self.queue.running():
            if job.lease_until is None or job.lease_until > now:
                continue
            slot = next((slot for slot in self._slots if slot.worker == job.worker and slot.process is not None), None)
            if slot is not None and slot.process is not None:
                slot.process.kill()  # the next tick sees it gone
            else:
                self._lost(job, "the worker gave no sign of life")

    def _lost(self, job: Job, reason: str) -> None:
        hint = Sent.of(job.asked).renamed(MEMORY_HINT)
        status = self.queue.lost(job, f"{reason}; {hint}", self.settings.keep_hours * 3600)
        if status == QUEUED:
            logger.warning("%s: %s; it is tried again", job.id, reason)
        elif status is not None:
            logger.error("%s: %s; given up after %d tries", job.id, reason, job.tries)


def _ending(code: int) -> str:
    """The end of a process in words."""
    if code >= 0:
        return f"process ended with code {code}"
    with suppress(ValueError):
        return f"process was ended by {signal.Signals(-code).name}"
    return f"process was ended by signal {-code}"
