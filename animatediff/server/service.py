"""The service itself: what the routes do with the queue, the files of its jobs and their states."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter
from fastapi import Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from animatediff.server.catalog import Catalog
from animatediff.server.errors import DISK_FULL, ApiError
from animatediff.server.form import Body
from animatediff.server.metrics import Metrics
from animatediff.server.queue import COMPLETED, FAILED, QUEUED, Job, Queue, QueueFull
from animatediff.server.settings import Settings
from animatediff.server.stills import SPRITESHEET, THUMBNAIL
from animatediff.server.store import ID, Store, new_id
from animatediff.server.supervisor import Supervisor
from animatediff.server.uploads import Uploads
from animatediff.server.values import Reader
from animatediff.server.views import video

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".apng": "image/apng",
    ".jpg": "image/jpeg",
}
BODIES = 8
"""Bodies that are read at once."""


@dataclass
class Service:
    """Everything that the routes use."""

    settings: Settings
    queue: Queue
    store: Store
    metrics: Metrics
    supervisor: Supervisor
    catalog: Catalog
    reader: Reader
    streams: int = 0
    stopping: bool = False
    bodies: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(BODIES))
    adding: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(BODIES))
    """Threads of their own, so that those who ask for states need not wait for those who send images."""

    @classmethod
    def of(cls, settings: Settings) -> Service:
        """A service with its folders and its table made."""
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        store, queue, metrics = Store(settings.data), Queue(settings.database, lease_s=settings.lease_s), Metrics()
        store.make()
        catalog = Catalog(settings.models)
        supervisor = Supervisor(settings, queue, store, metrics)
        return cls(settings, queue, store, metrics, supervisor, catalog, Reader(settings, catalog))

    # -- what the routes do --------------------------------------------------------------------------------------------

    def add(self, body: Body) -> Job:
        """A new job. Raises ApiError."""
        job = new_id()
        uploads = Uploads(self.store.inputs(job).absolute())
        asked = self.reader.read(body, uploads)
        if self.store.free_bytes() < self.settings.min_free_mb * 2**20:
            self.metrics.turned_away.labels("disk_full").inc()
            raise ApiError(507, DISK_FULL, code="disk_full")
        try:
            uploads.write()
            added = self.queue.add(job, asked.shown, asked.options, max_queued=self.settings.max_queue)
        except QueueFull as full:
            self.store.remove(job)
            self.metrics.turned_away.labels("queue_full").inc()
            raise self._full(full.waiting) from None
        except BaseException:
            self.store.remove(job)
            raise
        self.metrics.accepted.inc()
        return added

    def _full(self, waiting: int) -> ApiError:
        each = self.queue.mean_seconds() or 10.0
        after = min(600, max(1, round(each / len(self.settings.devices))))
        return ApiError(
            429,
            f"{waiting} jobs are waiting, and no more are taken; try again in about {after} seconds",
            code="queue_full",
            headers={"retry-after": str(after)},
        )

    def job(self, job: str) -> Job:
        """The job of an id. Raises ApiError where there is none."""
        found = self.queue.get(job) if ID.fullmatch(job) else None
        if found is None:
            raise ApiError(404, f"no video {job[:80]!r} here; results are removed after a time", code="not_found")
        return found

    def seen(self, job: Job) -> dict[str, Any]:
        """The video object of a job."""
        return video(job, self.queue.position(job) if job.status == QUEUED else None)

    def delete(self, job: str) -> dict[str, Any]:
        """Remove a job, and what it made; one at work is cancelled."""
        found = self.queue.delete(self.job(job).id)
        self.store.remove(job)
        if found is not None and not found.ended:
            self.metrics.ended.labels("deleted").inc()
        return {"id": job, "object": "video.deleted", "deleted": True}

    def content(self, job: Job, variant: str) -> FileResponse:
        """The file of a finished job. Raises ApiError for one that is not finished."""
        if job.status == FAILED and job.error is not None:
            raise ApiError(409, f"this video has failed: {job.error['message']}", code=job.error["code"])
        if job.status != COMPLETED or job.result is None:
            raise ApiError(
                409, f"this video is {job.status} ({job.state.get('percent', 0)} %); ask again later", code="not_ready"
            )
        name = {"video": job.result["file"], "thumbnail": THUMBNAIL, "spritesheet": SPRITESHEET}[variant]
        path = self.store.folder(job.id) / job.result["folder"] / name
        if not path.is_file():
            raise ApiError(404, "the files of this video are gone", code="not_found")
        return FileResponse(
            path,
            media_type=MEDIA_TYPES[path.suffix],
            filename=f"{job.id}{path.suffix}",
            content_disposition_type="inline",
            headers={"x-content-type-options": "nosniff", "cache-control": "private"},
        )

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """A place among those who wait. Raises ApiError where there is none."""
        if self.streams >= self.settings.max_streams:
            raise ApiError(
                429, "too many connections wait for videos; ask for the state by GET", code="too_many_streams",
                headers={"retry-after": "5"},
            )  # fmt: skip
        self.streams += 1
        try:
            yield
        finally:
            self.streams -= 1

    async def finished(self, job: Job, request: Request) -> Job:
        """The job once it has ended; it is deleted where the client goes away. Raises ApiError where it was deleted."""
        while True:
            found = await run_in_threadpool(self.queue.get, job.id)
            if found is None:
                raise ApiError(409, "this video was deleted while it was made", code="deleted")
            if found.ended:
                return found
            if self.stopping:
                raise ApiError(503, f"the server is stopping; {job.id} goes on when it is back", code="stopping")
            if await request.is_disconnected():
                await run_in_threadpool(self.delete, job.id)
                raise ApiError(499, "the client has gone", code="deleted")
            await asyncio.sleep(0.1)
