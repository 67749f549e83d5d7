"""The routes of the service."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from animatediff.errors import did_you_mean
from animatediff.server import openapi
from animatediff.server.auth import Gate
from animatediff.server.errors import DISK_FULL, STATUS, ApiError, is_full, refused
from animatediff.server.form import read_body
from animatediff.server.metrics import Metrics
from animatediff.server.queue import QUEUED, RUNNING, Job
from animatediff.server.service import Service
from animatediff.server.settings import Settings
from animatediff.server.store import ID
from animatediff.server.stream import events

logger = logging.getLogger("animatediff.server")

VARIANTS = ("video", "thumbnail", "spritesheet")
POLL_MS = 500
"""Milliseconds after which OpenAI's clients ask again."""


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
        openapi_url=None,  # a route of our own
        docs_url=None,  # its page loads scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(_no_other_parameters)],
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


def _no_other_parameters(request: Request) -> None:
    """Raise ApiError for a parameter behind ? that the route does not have; probes may add what they like."""
    route: Any = request.scope["route"]
    known = [parameter.alias for parameter in route.dependant.query_params]
    other = next((name for name in request.query_params if name not in known), None)
    if other is not None and route.path.startswith("/v1/"):
        there = f"there are {', '.join(known)}" if known else "there are none; settings belong into the body"
        text = f"{other[:80]!r} is no parameter of {route.path}; {did_you_mean(other, known)}{there}"
        raise refused(text, other[:80], "unknown_parameter")


def _add_videos(app: FastAPI, service: Service) -> None:
    async def added(request: Request) -> Job:
        async with service.bodies:
            body = await read_body(request)
            return await to_thread.run_sync(service.add, body, limiter=service.adding)

    @app.post("/v1/videos", responses=openapi.replies(openapi.VIDEO, 408, 413, 415, 429, 507))
    async def create_video(request: Request) -> JSONResponse:
        """Render a video: the job is queued."""
        job = await added(request)
        return JSONResponse(await run_in_threadpool(service.seen, job))

    @app.post(
        "/v1/videos/sync",
        responses=openapi.replies(None, 408, 409, 413, 415, 422, 429, 503, 504, 507, kind="video/mp4"),
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
    def list_videos(after: str | None = None, limit: int = 20, order: str = "desc") -> JSONResponse:
        """List videos, the newest first unless `order` is asc; `after` is the last id of the page before."""
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
    def described(request: Request) -> JSONResponse:
        return JSONResponse(openapi.whole(app))

    app.add_route("/openapi.json", described, include_in_schema=False)

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
        logger.error("%s %s: %s", request.method, request.url.path, error)
        if is_full(error):
            return reply(ApiError(507, DISK_FULL, code="disk_full"))
        return reply(ApiError(503, "the storage of the server does not answer; try again", code="storage"))

    @app.exception_handler(Exception)
    async def of_nobody(request: Request, error: Exception) -> JSONResponse:
        return reply(ApiError(500, "an error of the server; its log says more", code="internal_error"))
