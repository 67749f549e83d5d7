"""Stands for a renderer where a test is about many clips: small frames, no model, and a log of what it wrote."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.batch.worker import RenderRow
from animatediff.files import HERE
from animatediff.render.clip import Clip
from animatediff.render.defaults import with_seeds
from animatediff.render.events import Reporter
from animatediff.render.request import AnimateRequest
from animatediff.render.write import Rendered

FRAMES = 3


class StubRenderer:
    """Frames of noise, by seed.

    log: gets a line with the prompt of each clip that was written; during, after: called with the prompt between two
    frames, and when the files are there.
    """

    def __init__(
        self,
        log: Path,
        during: Callable[[str], None] = lambda prompt: None,
        after: Callable[[str], None] = lambda prompt: None,
    ) -> None:
        self._log, self._during, self._after = log, during, after

    def prepare(self, requests: Iterable[AnimateRequest], **_: Any) -> list[AnimateRequest]:
        return list(requests)

    def render(
        self, requests: Iterable[AnimateRequest], to: Any, *, on_event: Any = None, cancel: Any = None
    ) -> list[Rendered]:
        reporter = Reporter(on_event, cancel)
        (request,) = (with_seeds(request) for request in requests)
        filled = request.model_copy(update={"num_frames": FRAMES, "width": 16, "height": 16})

        def frames() -> Iterator[np.ndarray]:
            noise = np.random.default_rng(request.seed[0])
            for number in range(FRAMES):
                reporter.step("denoise", number + 1, FRAMES)
                yield noise.integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)
                if number == 0:
                    self._during(request.prompt[0])

        with to.opened([filled], HERE, reporter) as writer:
            writer.add(Clip(filled, frames()))  # type: ignore[arg-type]
            with self._log.open("a") as log:
                log.write(f"{request.prompt[0]}\n")
            self._after(request.prompt[0])
            return writer.finish()


class DyingWorker(RenderRow):
    """A worker on Ray with a `StubRenderer`, which dies by SIGKILL over some rows.

    `dies once` in a prompt: the first time; `dies always`: each time.
    """

    def __init__(self, options: Any, **settings: Any) -> None:
        self._marks = Path(options["folder"]).parent
        super().__init__(options, **settings, renderer=StubRenderer(self._marks / "log.txt", self._die))

    def _die(self, prompt: str) -> None:
        mark = self._marks / "died"
        if "dies always" in prompt or ("dies once" in prompt and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
