"""Renders predictions, one after the other, with one renderer that keeps its models."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import OUT_OF_MEMORY, UserError
from animatediff.files import Roots
from animatediff.media.open import open_media
from animatediff.render.events import Event
from animatediff.render.models import ModelSpec, load_model
from animatediff.render.renderer import Renderer
from animatediff.render.write import OneFile, Rendered

from .request import Asked, Reader, in_our_names
from .settings import Settings

Record = Callable[[str, Any], None]
"""Records a metric: name, value."""
EXACT = 2**53
"""Below it, every reader of JSON has a whole number as it is."""
BEAT_S = 0.05
"""Seconds between two looks at the thread that renders; a cancellation is noticed between two of them."""


class Rendering:
    """The models of a deployment, and the clips made with them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.reader = Reader(settings)
        self._folder = Path(tempfile.mkdtemp(prefix="animatediff-"))
        roots = Roots(models=(self._settings.models,), samples=self._folder, files=())
        self._loads = 0
        self._renderer = Renderer(load=self._load, keep=settings.models_in_memory, roots=roots)

    def warm_up(self) -> None:
        """Load the model that requests without one take, by a frame that nobody sees."""
        asked = self.reader.read({"prompt": "warm up", "steps": 1, "num_frames": 1})
        for clip in self._renderer.clips([asked.request]):
            clip.frames.close()

    def render(self, given: Mapping[str, Any], record: Record = lambda name, value: None) -> Path:
        """The file of a clip. given: all inputs; None where they were left out.

        An exception thrown into this thread, as Cog does to cancel, ends the render in order before it goes on. Raises
        UserError with one message for everything that a request can be wrong about.
        """
        loads, begin = self._loads, time.monotonic()
        asked: Asked | None = None
        try:
            asked = self.reader.read(given)
            self.reader.check_models(asked.request)
            done = self._rendered(asked)
        except UserError as error:
            files = {} if asked is None else asked.files
            raise UserError(in_our_names(str(error), files, self._settings.models)) from None
        made, (num_frames, width, height) = done.request, _size_of(done.file)
        metrics = {
            "seed": made.seed[0] if made.seed[0] < EXACT else str(made.seed[0]),
            "num_frames": num_frames,
            "width": width,
            "height": height,
            "fps": made.fps_out or made.fps,
            "seam": done.seam,
            "models_loaded": self._loads - loads,
            "render_seconds": round(time.monotonic() - begin, 3),
        }
        for name, value in metrics.items():
            if value is not None:
                record(name, value)
        _tell(f"seed {made.seed[0]}: the same inputs with this seed give the same clip")
        return done.file

    def _rendered(self, asked: Asked) -> Rendered:
        shutil.rmtree(self._folder, ignore_errors=True)  # the clip before, which the server has sent
        self._folder.mkdir(parents=True)
        for note in asked.notes:
            _tell(note)
        work = _Work(self._renderer, asked, self._folder / f"clip{asked.suffix}")
        try:
            work.start()
            return work.result(lambda text: _tell(in_our_names(text, asked.files, self._settings.models)))
        except BaseException:  # also Cog's exception for a cancelled prediction, which is no Exception
            work.cancelled.set()
            work.join()
            raise

    def _load(self, spec: ModelSpec, after_part: Callable[[int, int], None]) -> Any:
        self._loads += 1
        return load_model(spec, after_part)


class _Work(threading.Thread):
    """One render, in a thread of its own: what is thrown into the prediction's thread never meets it half way."""

    def __init__(self, renderer: Renderer, asked: Asked, file: Path) -> None:
        super().__init__(daemon=True)
        self.cancelled = threading.Event()
        self._renderer, self._asked, self._file = renderer, asked, file
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._done: Rendered | None = None
        self._error: BaseException | None = None
        self._phase = ""

    def run(self) -> None:
        try:
            (self._done,) = self._renderer.render(
                [self._asked.request],
                OneFile(str(self._file)),
                on_event=self._on_event,
                cancel=self.cancelled.is_set,
            )
        except BaseException as error:
            self._error = error

    def result(self, tell: Callable[[str], None]) -> Rendered:
        """Wait for the end, telling what happens."""
        while True:
            ended = not self.is_alive()
            while not self._told.empty():
                tell(self._told.get())
            if ended:
                break
            time.sleep(BEAT_S)
        if self._done is not None:
            return self._done
        error = self._error
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise UserError(OUT_OF_MEMORY) from None
        assert error is not None
        if not isinstance(error, UserError):
            tell("".join(traceback.format_exception(error)))
        raise error

    def _on_event(self, event: Event) -> None:
        if event.note:
            self._told.put(event.note)
        elif event.phase == "denoise" and event.step:
            left = "" if event.time_left is None else f", {event.time_left:.0f} s left"
            self._told.put(f"step {event.step} of {event.total}{left}")
        elif event.phase != self._phase:
            self._told.put(event.phase)
        self._phase = event.phase


def _size_of(file: Path) -> tuple[int, int, int]:
    """Frames, width and height of a video, after upscaling and interpolation."""
    with open_media(file) as reader:
        height, width = reader.read([0]).shape[1:3]
        return reader.num_frames, width, height


def _tell(text: str) -> None:
    """A line for the logs of a prediction."""
    print(text, flush=True)
