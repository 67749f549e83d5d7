"""Stands for the renderer of a service's worker: frames at once, and whatever else its prompt asks for.

The words of a prompt: `slow=2` (seconds), `die` (SIGKILL), `die-once`, `full` (no space on the disk), `bug`, `memory`,
`hang` (the whole process stands still).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.files import Roots
from animatediff.media.write import VideoWriter
from animatediff.render.clip import Clip
from animatediff.render.events import Reporter, noted
from animatediff.render.inputs import Keyframes
from animatediff.render.request import AnimateRequest
from animatediff.render.write import OneFile, Rendered


def renders(data: Path) -> list[str]:
    """Prompts in the order in which the workers of a service began them."""
    log = data / "renders.txt"
    return log.read_text().splitlines() if log.exists() else []


class Stub:
    """As `Renderer`."""

    def __init__(self, *, roots: Roots) -> None:
        self._roots, self._data = roots, roots.samples.parent

    def render(
        self, requests: Sequence[AnimateRequest], to: OneFile, *, on_event: Any, cancel: Any, preview: bool
    ) -> list[Rendered]:
        (request,) = requests
        with (self._data / "renders.txt").open("a") as log:
            log.write(request.prompt[0] + "\n")
        reporter = Reporter(on_event, cancel)
        filled = request.model_copy(
            update={
                "num_frames": request.num_frames or 4,
                "width": request.width or 64,
                "height": request.height or 64,
                "fps": request.fps or 8.0,
                "seed": (7,) if request.seed == (-1,) else request.seed,
            }
        )
        with noted(reporter), to.opened([filled], self._roots, reporter) as writer:
            self._obey(request.prompt[0], reporter)
            writer.add(Clip(filled, _frames(filled), Keyframes(), reporter.notes))
            return writer.finish()

    def _obey(self, prompt: str, reporter: Reporter) -> None:
        image = np.zeros((8, 8, 3), np.uint8)
        reporter.step("denoise", 0, 10, image)
        for word in prompt.split():
            if word.startswith("slow="):
                end = time.monotonic() + float(word[5:])
                while time.monotonic() < end:
                    reporter.step("denoise", 5, 10, image)
                    time.sleep(0.02)
            elif word == "die" or (word == "die-once" and not (self._data / "died").exists()):
                (self._data / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "hang":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif word == "bug":
                raise RuntimeError("a mistake of ours")
            elif word == "memory":
                raise MemoryError
            elif word == "full":
                _fill_the_disk()


def _frames(request: AnimateRequest) -> Generator[np.ndarray]:
    random = np.random.default_rng(request.seed[0])
    for _ in range(request.num_frames or 1):
        yield random.integers(0, 255, (1, request.height, request.width, 3), np.uint8)


_write = VideoWriter.write


def _no_space(self: VideoWriter, frames: np.ndarray) -> None:
    VideoWriter.write = _write
    raise OSError(errno.ENOSPC, "No space left on device", str(self.path))


def _fill_the_disk() -> None:
    """The next frame that is written meets a full disk."""
    VideoWriter.write = _no_space
