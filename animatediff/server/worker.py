"""The process that renders, one a device: claims a job, renders it with a `Renderer` that it keeps, tells how it went.

It ends when its standard input is closed: at once where the server was killed, in order after the line `stop`.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from animatediff.errors import Cancelled, UserError, is_out_of_memory
from animatediff.files import Roots
from animatediff.render.events import Event
from animatediff.render.options import PATH_FIELDS
from animatediff.render.request import build_request
from animatediff.server.errors import DISK_FULL, is_full
from animatediff.server.queue import Job, Queue
from animatediff.server.sent import Sent
from animatediff.server.store import PREVIEW, Store, write_whole
from animatediff.server.uploads import REFERENCES, without_numbers

logger = logging.getLogger("animatediff.server.worker")

IDLE_S = 0.15
"""Seconds between two looks at an empty queue."""
BEAT_S = 0.4
"""Seconds between two writes of progress."""
MAX_NOTES = 50
SHARES = {
    "load": (0, 4),
    "download": (0, 4),
    "encode": (4, 8),
    "denoise": (8, 85),
    "decode": (85, 95),
    "finish": (85, 95),
    "write": (95, 99),
}
"""Percent at which a phase begins and ends."""


class Progress:
    """The state of one job, told to the table by a thread of its own, which also hears that the job was cancelled."""

    def __init__(
        self,
        queue: Queue,
        claim: Job,
        folder: Path,
        deadline: float,
        stopping: threading.Event,
        shown: Callable[[str], str],
    ) -> None:
        """deadline: of `time.monotonic`; shown: a text as a client may see it."""
        self._queue, self._claim, self._folder, self._deadline = queue, claim, folder, deadline
        self._sent = Sent.of(claim.asked)
        self._stopping, self._shown = stopping, shown
        self.state: dict[str, Any] = {"percent": 0, "phase": "load", "step": 0, "total": 1, "notes": [], "preview": 0}
        self.state["memory"] = None
        self.lost = self.late = False
        self._preview: Any = None
        self._changed, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def on_event(self, event: Event) -> None:
        """Keep an event of the renderer until the next beat."""
        with self._changed:
            if event.note:
                note = self._sent.renamed(self._shown(event.note))[:1000]
                if len(self.state["notes"]) < MAX_NOTES and note not in self.state["notes"]:
                    self.state["notes"].append(note)
                return
            begin, end = SHARES.get(event.phase, (0, 99))
            percent = int(begin + (end - begin) * event.step / max(1, event.total))
            self.state |= {
                "phase": event.phase,
                "step": event.step,
                "total": event.total,
                "time_left": event.time_left,
                "percent": max(self.state["percent"], percent),
                "memory": event.memory or self.state["memory"],
            }
            if event.preview is not None:
                self._preview = event.preview

    def cancelled(self) -> bool:
        """Whether the job is to end: deleted, out of time, or the worker is told to stop."""
        self.late = self.late or time.monotonic() > self._deadline
        return self.lost or self.late or self._stopping.is_set()

    def _beat(self) -> None:
        while not self._end.wait(BEAT_S):
            with suppress(Exception):  # a busy table or a full disk: the next beat tries again, the lease is longer
                self._tell()

    def _tell(self) -> None:
        with self._changed:
            state, preview, self._preview = dict(self.state), self._preview, None
        if preview is not None:
            from PIL import Image

            content = io.BytesIO()
            Image.fromarray(preview).save(content, format="JPEG", quality=80)
            with suppress(OSError, UserError):  # of a job that was deleted, the folder is gone: the beat says so
                write_whole(self._folder / PREVIEW, content.getvalue())
                with self._changed:
                    self.state["preview"] += 1
                    state["preview"] = self.state["preview"]
        if not self._queue.beat(self._claim, state):
            self.lost = True


class Worker:
    """Renders jobs one after the other."""

    def __init__(self, setup: dict[str, Any], stopping: threading.Event) -> None:
        self._setup, self._stopping = setup, stopping
        self._data = Path(setup["data"])
        self._store = Store(self._data)
        self._queue = Queue(self._data / "queue.sqlite3", lease_s=setup["lease_s"])
        models = tuple(map(Path, setup["models"]))
        self._roots = Roots(models=models, samples=self._data / "samples", files=())
        module, _, name = setup["renderer"].partition(":")
        self._renderer = getattr(import_module(module), name)(roots=self._roots)
        for needed in setup["preload"]:  # seconds, before the first job rather than in it
            import_module(needed)

    def run(self) -> None:
        """Work until the server says stop."""
        while not self._stopping.is_set():
            if (job := self._queue.claim(self._setup["name"])) is None:
                self._stopping.wait(IDLE_S)
                continue
            self._one(job)

    def _one(self, job: Job) -> None:
        logger.info("%s: try %d", job.id, job.tries)
        folder = self._store.attempt(job.id, job.tries)
        deadline = time.monotonic() + self._setup["job_minutes"] * 60
        progress = Progress(self._queue, job, folder, deadline, self._stopping, partial(self._without_folders, job))
        broken = False
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with progress:
                result = self._render(job, folder, progress)
            done = self._queue.complete(job, result, progress.state | {"percent": 100}, self._setup["keep_s"])
            if not done:
                self._clean(job, folder)
            progress.lost = not done
            logger.info("%s: %s", job.id, "completed" if done else self._why_left(job, progress))
        except Cancelled:
            self._clean(job, folder, ended=progress.late)
            if progress.late:
                minutes = self._setup["job_minutes"]
                self._fail(job, "timed_out", f"took more than the {minutes:g} minutes that this server gives a job")
            logger.info("%s: %s", job.id, self._why_left(job, progress))
        except BaseException as error:
            self._clean(job, folder)
            code, message, param = self._described(error, job)
            broken = code in ("internal_error", "out_of_memory")
            logger.log(logging.ERROR if broken else logging.INFO, "%s: %s: %s", job.id, code, message, exc_info=broken)
            self._fail(job, code, message, param)
        if broken:  # what is left of the device is unknown: the supervisor starts another
            sys.exit(1)

    def _render(self, job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
        from animatediff.render.resume import Resume
        from animatediff.render.write import OneFile

        values = dict(job.options)
        if self._setup["device"] is not None:
            values["device"] = self._setup["device"]
        request = build_request(values)
        file = str(folder / f"result.{job.asked.get('output_format', 'mp4')}")
        to = OneFile(file, resume=Resume(folder=self._store.folder(job.id)))  # which the next try finds
        (done,) = self._renderer.render(
            [request], to, on_event=progress.on_event, cancel=progress.cancelled, preview=True
        )
        from animatediff.server.stills import write_stills

        made, (num_frames, width, height) = done.request, write_stills(done.file, folder)
        return {
            "folder": str(job.tries),
            "file": done.file.name,
            "seed": made.seed[0],
            "num_frames": num_frames,
            "fps": made.fps_out or made.fps,
            "seconds": f"{made.num_frames / made.fps:g}",
            "width": width,
            "height": height,
            "seam": done.seam,
        }

    def _fail(self, job: Job, code: str, message: str, param: str | None = None) -> None:
        """Tell a failure, as soon as the table takes it: a full disk may have room again in a moment."""
        for pause in (0.0, 0.2, 1.0, 3.0):
            time.sleep(pause)
            with suppress(Exception):
                self._queue.fail(job, code, message, self._setup["keep_s"], param)
                return
        logger.error("%s: cannot be marked as failed (%s); the supervisor will find it", job.id, message)
        sys.exit(1)

    def _why_left(self, job: Job, progress: Progress) -> str:
        """Why a job was not rendered to its end, for the log."""
        if progress.late:
            return f"given up after {self._setup['job_minutes']:g} minutes"
        if not progress.lost:
            return "the server stops; the job goes back into the queue"
        found = self._queue.get(job.id)
        return "deleted, and cancelled" if found is None else f"is no longer this worker's: it is {found.status} again"

    def _clean(self, job: Job, folder: Path, *, ended: bool = True) -> None:
        """Remove what a try left; unless the job has `ended`, its saved state is for the next one."""
        import shutil

        shutil.rmtree(folder, ignore_errors=True)
        if ended:
            for state in self._store.folder(job.id).glob(".*.resume"):
                shutil.rmtree(state, ignore_errors=True)
        if self._queue.get(job.id) is None:
            self._store.remove(job.id)

    def _described(self, error: BaseException, job: Job) -> tuple[str, str, str | None]:
        """Code, message and field of an error, without the folders of this machine."""
        sent = Sent.of(job.asked)
        if is_full(error):
            return "disk_full", DISK_FULL, None
        if is_out_of_memory(error):
            return "out_of_memory", sent.out_of_memory, None
        if isinstance(error, UserError):
            text = self._without_folders(job, str(error))
            reply = sent.refused(UserError(text))
            return "invalid_request", str(reply), _of_file(text, job, sent) or reply.param
        return "internal_error", f"an error of the server ({type(error).__name__}); its log says more", None

    def _without_folders(self, job: Job, text: str) -> str:
        """A text without the folders of this machine; files that were sent go by their field."""
        from animatediff.bundled import bundled_path, set_path

        text = text.replace(str(set_path()), "bundled")
        folders = [str(self._store.inputs(job.id)), str(self._store.folder(job.id)), str(self._data)]
        folders += [str(path) for path in self._setup["models"]] + [str(bundled_path().parent)]
        for folder in folders:
            text = text.replace(f"{folder}/", "").replace(folder, "")
        return without_numbers(text)


def _of_file(text: str, job: Job, sent: Sent) -> str | None:
    """The field of the file that a message begins with."""
    name = text.partition(": ")[0]
    if name in REFERENCES:
        return name
    for option, value in job.options.items():
        if option in PATH_FIELDS and name and f'{name}"' in json.dumps(value):
            return sent.name(option)
    return None


def _listen(stopping: threading.Event) -> None:
    """End with the server: in order after `stop`, at once without it."""
    for line in sys.stdin:
        if line.strip() == "stop":
            stopping.set()
            return
    os._exit(3)


def main() -> None:
    """Entry point: `python -m animatediff.server.worker SETUP`, a JSON text."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the server says when to stop
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s[%(process)d] %(message)s", stream=sys.stderr)
    stopping = threading.Event()
    threading.Thread(target=_listen, args=(stopping,), daemon=True).start()
    Worker(json.loads(sys.argv[1]), stopping).run()


if __name__ == "__main__":
    main()
