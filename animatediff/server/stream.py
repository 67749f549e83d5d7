"""Server-sent events of one job: its video object whenever it has changed, previews, and how it ended."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.concurrency import run_in_threadpool

from animatediff.server.queue import Job, Queue
from animatediff.server.store import PREVIEW, Store
from animatediff.server.views import video

LOOK_S, QUIET_S = 0.25, 10.0
"""Seconds between two looks at a job, and between two signs of life where nothing changes."""


def event(name: str, data: Any) -> str:
    """One event in its wire form."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def events(job: str, queue: Queue, store: Store, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Events `progress`, `preview`, and at the end `completed`, `failed` or `deleted`."""
    before: dict[str, Any] | None = None
    seen, quiet = 0, 0.0
    while not stopping():
        found, position, image = await run_in_threadpool(_look, job, queue, store, seen)
        if found is None:
            yield event("deleted", {"id": job, "object": "video.deleted", "deleted": True})
            return
        now = video(found, position)
        if image is not None:
            seen = found.state.get("preview", 0)
            yield event("preview", {"id": job, "image_url": "data:image/jpeg;base64," + image})
        if found.ended:
            yield event(found.status, now)
            return
        if now != before:
            before, quiet = now, 0.0
            yield event("progress", now)
        elif quiet >= QUIET_S:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(LOOK_S)
        quiet += LOOK_S


def _look(job: str, queue: Queue, store: Store, seen: int) -> tuple[Job | None, int | None, str | None]:
    """The job, its place in the queue, and a preview newer than the one `seen`, in base64."""
    found = queue.get(job)
    if found is None:
        return None, None, None
    image = None
    if found.state.get("preview", 0) > seen:
        with suppress(OSError):
            image = base64.b64encode((store.attempt(job, found.tries) / PREVIEW).read_bytes()).decode()
    return found, None if found.ended else queue.position(found), image
