"""A job whose worker died, or was told to stop, goes on from its state in the hands of the next one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from support.pipelines import pipeline
from support.stops import Stopped, counted

from animatediff.errors import Cancelled
from animatediff.render.renderer import Renderer
from animatediff.render.resume import Resume
from animatediff.server.queue import Queue
from animatediff.server.store import Store, new_id
from animatediff.server.worker import Worker

VALUES: dict[str, Any] = {
    "prompt": ["a fox"], "num_frames": 4, "width": 16, "height": 16, "steps": 3, "guidance_scale": 1.0,
    "decode_chunk_size": 4,
}  # fmt: skip


def renderer(*, roots: Any) -> Renderer:
    return Renderer.of(pipeline(), roots=roots)


class Progress:
    """Of a worker that is told to stop after a call of a model."""

    late = False

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stop = threading.Event()

    def on_event(self, event: Any) -> None:
        self.notes += [event.note] if event.note else []

    def cancelled(self) -> bool:
        return self.stop.is_set()


@pytest.mark.parametrize(("end", "step"), [("died", 3), ("stopped", 2)])
def test_the_next_worker_goes_on(tmp_path: Path, end: str, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the seed that the first had drawn, into a folder of its own."""
    monkeypatch.setattr(Resume, "__init__", _often(Resume.__init__))
    setup = {
        "data": str(tmp_path), "lease_s": 30.0, "models": [], "renderer": f"{__name__}:renderer", "preload": [],
        "name": "one", "device": None,
    }  # fmt: skip
    store, queue = Store(tmp_path), Queue(tmp_path / "queue.sqlite3")
    store.make()
    job = queue.add(new_id(), {}, VALUES, max_queued=1)
    (first, second), progress = (store.attempt(job.id, number) for number in (1, 2)), Progress()
    for folder in (first, second):
        folder.mkdir(parents=True)
    worker = Worker(setup, threading.Event())
    if end == "stopped":
        monkeypatch.setattr(progress, "on_event", _stopping_at(progress, 2))
    with counted(pipeline(), 3 if end == "died" else None), pytest.raises((Stopped, Cancelled)):
        worker._render(job, first, progress)  # type: ignore[arg-type]
    worker._clean(job, first, ended=False)
    (state,) = store.folder(job.id).glob(".result.mp4.*.resume")
    again = Progress()
    with counted(pipeline()) as calls:
        result = worker._render(job, second, again)  # type: ignore[arg-type]
    assert calls.count == 3 - step + 2
    assert any(f"goes on at step {step} of 3" in note for note in again.notes)
    assert (second / result["file"]).is_file() and not state.exists()
    state.mkdir()
    worker._clean(job, second)
    assert not state.exists()
    queue.close()


def _often(init: Any) -> Any:
    def call(self: Resume, **given: Any) -> None:
        init(self, **{"save_every": 0.0, **given})

    return call


def _stopping_at(progress: Progress, step: int) -> Any:
    def on_event(event: Any) -> None:
        if event.phase == "denoise" and event.step == step:
            progress.stop.set()

    return on_event
