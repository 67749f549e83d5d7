"""The routes of the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from animatediff.errors import did_you_mean
from animatediff.server import openapi
from animatediff.server.auth import Gate
from animatediff.server.catalog import Catalog
from animatediff.server.errors import DISK_FULL, FULL, STATUS, ApiError, refused
from animatediff.server.form import Body, read_body
from animatediff.server.metrics import Metrics
from animatediff.server.queue import COMPLETED, FAILED, QUEUED, RUNNING, Job, Queue, QueueFull
from animatediff.server.settings import Settings
from animatediff.server.stills import SPRITESHEET, THUMBNAIL
from animatediff.server.store import ID, Store, new_id
from animatediff.server.stream import events
from animatediff.server.supervisor import Supervisor
from animatediff.server.uploads import Uploads
from animatediff.server.values import Reader
from animatediff.server.views import video

logger = logging.getLogger("animatediff.server")

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
VARIANTS = ("video", "thumbnail", "spritesheet")
POLL_MS = 500
"""Milliseconds after which OpenAI's clients ask again."""
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


def create_app(settings: Settings, on_ready: Callable[[], None] = lambda: None) -> FastAPI:
    """The application; its workers run from its start, when `on_ready` is called, to its end."""
    service = Service.of(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.store.sweep(service.queue.ids())
        service.supervisor.start()
        on_ready()
        try:
            yield
        finally:
            service.stopping = True
            await run_in_threadpool(service.supervisor.stop)
            service.queue.close()

    from animatediff import __version__

    app = FastAPI(
        title="AnimateDiff",
        version=__version__,
        description="Videos as jobs, in the shape of OpenAI's /v1/videos.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    _add_errors(app)
    _add_videos(app, service)
    _add_others(app, service)
    count = service.metrics.requests
    app.add_middleware(
        Gate,
        settings=settings,
        on_reply=lambda method, route, status: count.labels(method, route, str(status)).inc(),
    )
    return app


def _add_videos(app: FastAPI, service: Service) -> None:
    async def added(request: Request) -> Job:
        async with service.bodies:
            body = await read_body(request)
            return await to_thread.run_sync(service.add, body, limiter=service.adding)

    @app.post(
        "/v1/videos", responses=openapi.replies(openapi.VIDEO, 408, 413, 415, 429, 507), openapi_extra=openapi.body()
    )
    async def create_video(request: Request) -> JSONResponse:
        """Render a video: the job is queued."""
        job = await added(request)
        return JSONResponse(await run_in_threadpool(service.seen, job))

    @app.post(
        "/v1/videos/sync",
        responses=openapi.replies(None, 408, 409, 413, 415, 422, 429, 503, 504, 507, kind="video/mp4"),
        openapi_extra=openapi.body(),
    )
    async def create_video_sync(request: Request) -> Response:
        """Render a video and reply with it; it is cancelled where the connection ends before."""
        with service.streaming():
            job = await service.finished(await added(request), request)
        if job.error is not None:
            raise ApiError(
                STATUS.get(job.error["code"], 500),
                job.error["message"],
                param=job.error.get("param"),
                code=job.error["code"],
            )
        reply = service.content(job, "video")
        reply.headers["x-video-id"] = job.id
        return reply

    @app.get("/v1/videos", responses=openapi.replies(openapi.LIST))
    def list_videos(request: Request, after: str | None = None, limit: int = 20, order: str = "desc") -> JSONResponse:
        """List videos, the newest first unless `order` is asc; `after` is the last id of the page before."""
        known = ("after", "limit", "order")
        if other := next((name for name in request.query_params if name not in known), None):
            hint = f"{did_you_mean(other, known)}there are {', '.join(known)}"
            raise refused(f"{other[:80]!r} is no parameter of a list; {hint}", other[:80])
        if not 1 <= limit <= 100:
            raise refused(f"limit={limit}: expected 1 to 100", "limit")
        if order not in ("asc", "desc"):
            raise refused(f"order={order[:80]!r}: expected asc or desc", "order")
        first = None if after is None else service.queue.get(after) if ID.fullmatch(after) else None
        if after is not None and first is None:
            raise refused(f"after={after[:80]!r}: no video of this id is here", "after")
        found = service.queue.list(
            after=None if first is None else first.seq, limit=limit + 1, newest_first=order == "desc"
        )
        page = [service.seen(job) for job in found[:limit]]
        return JSONResponse(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": len(found) > limit,
            }
        )

    @app.get("/v1/videos/{video_id}", responses=openapi.replies(openapi.VIDEO, 404))
    def get_video(video_id: str) -> JSONResponse:
        """State of a video."""
        return JSONResponse(service.seen(service.job(video_id)), headers={"openai-poll-after-ms": str(POLL_MS)})

    @app.get("/v1/videos/{video_id}/content", responses=openapi.replies(None, 404, 409, kind="video/mp4"))
    def get_content(video_id: str, variant: str = "video") -> Response:
        """The video, its thumbnail or its spritesheet; parts of it by `Range`."""
        if variant not in VARIANTS:
            raise refused(f"variant={variant[:80]!r}: expected {', '.join(VARIANTS)}", "variant")
        return service.content(service.job(video_id), variant)

    @app.get("/v1/videos/{video_id}/events", responses=openapi.replies(None, 404, 429, kind="text/event-stream"))
    async def get_events(video_id: str) -> StreamingResponse:
        """Progress as server-sent events: `progress`, `preview`, and `completed`, `failed` or `deleted`."""
        await run_in_threadpool(service.job, video_id)
        place = contextlib.ExitStack()
        place.enter_context(service.streaming())

        async def stream() -> AsyncIterator[str]:
            with place:
                async for text in events(video_id, service.queue, service.store, lambda: service.stopping):
                    yield text

        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    @app.delete("/v1/videos/{video_id}", responses=openapi.replies(openapi.DELETED, 404))
    def delete_video(video_id: str) -> JSONResponse:
        """Remove a video; one that is made is cancelled."""
        return JSONResponse(service.delete(video_id))


def _add_others(app: FastAPI, service: Service) -> None:
    def models() -> list[dict[str, Any]]:
        known = service.catalog.entries()
        return [
            {
                "id": name,
                "object": "model",
                "created": int(known[name].changed),
                "owned_by": "animatediff" if name.startswith("bundled") else "local",
            }
            for name in service.catalog.names("model")
        ]

    @app.get("/v1/models", responses=openapi.replies({"type": "object"}))
    def list_models() -> JSONResponse:
        """Base models, and under `options` the names that other options take."""
        from animatediff.server.catalog import PLACES

        options = {name: service.catalog.names(name) for name in PLACES if name != "model"}
        return JSONResponse({"object": "list", "data": models(), "options": options})

    @app.get("/v1/models/{model:path}", responses=openapi.replies({"type": "object"}, 404))
    def get_model(model: str) -> JSONResponse:
        """One base model."""
        found = next((entry for entry in models() if entry["id"] == model), None)
        if found is None:
            raise ApiError(404, f"no model {model[:200]!r} here", param="model", code="model_not_found")
        return JSONResponse(found)

    @app.get("/health", responses=openapi.replies({"type": "object"}, 503))
    async def health() -> JSONResponse:
        """Whether the service works: 200 while a worker runs."""
        counts, workers = service.supervisor.counts, service.supervisor.workers
        state = {
            "status": "ok" if workers else "no worker",
            "workers": workers,
            "queued": counts.get(QUEUED, 0),
            "in_progress": counts.get(RUNNING, 0),
        }
        return JSONResponse(state, 200 if workers else 503)

    @app.get("/metrics", responses=openapi.replies(None, kind="text/plain"))
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        text = service.metrics.text(service.supervisor.counts, service.supervisor.workers)
        return Response(text, media_type=Metrics.content_type)


def _add_errors(app: FastAPI) -> None:
    """Every error in one shape."""

    def reply(error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def of_ours(request: Request, error: ApiError) -> JSONResponse:
        return reply(error)

    @app.exception_handler(HTTPException)
    async def of_routes(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if error.status_code == 404:
            message = f"no route {request.method} {request.url.path[:200]}; see /openapi.json"
        elif error.status_code == 405:
            message = f"{request.method} is not a method of {request.url.path[:200]}"
        codes = {404: "not_found", 405: "method_not_allowed"}
        return reply(ApiError(error.status_code, message, code=codes.get(error.status_code), headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def of_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return reply(refused(f"{name}: {first['msg'][:1].lower()}{first['msg'][1:]}", name))

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    async def of_storage(request: Request, error: Exception) -> JSONResponse:
        is_full = getattr(error, "errno", None) in FULL or "full" in str(error)
        logger.error("%s %s: %s", request.method, request.url.path, error)
        if is_full:
            return reply(ApiError(507, DISK_FULL, code="disk_full"))
        return reply(ApiError(503, "the storage of the server does not answer; try again", code="storage"))

    @app.exception_handler(Exception)
    async def of_nobody(request: Request, error: Exception) -> JSONResponse:
        return reply(ApiError(500, "an error of the server; its log says more", code="internal_error"))
