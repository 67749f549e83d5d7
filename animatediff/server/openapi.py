"""The parts of the service's OpenAPI that are not made from the signatures of routes."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fastapi.routing import APIRoute

from animatediff.render.options import BY_NAME, IN_MEMORY
from animatediff.server.schema import request_schema

if TYPE_CHECKING:
    from fastapi import FastAPI

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_TEXT, _NUMBER = {"type": ["string", "null"]}, {"type": ["number", "null"]}
VIDEO = {
    "type": "object",
    "required": ["id", "object", "model", "status", "progress", "created_at"],
    "properties": {
        "id": {"type": "string", "pattern": "^video_[0-9a-f]{32}$"},
        "object": {"const": "video"},
        "model": {"type": "string"},
        "status": {"enum": ["queued", "in_progress", "completed", "failed"]},
        "progress": {"type": "integer", "minimum": 0, "maximum": 100},
        "created_at": {"type": "integer"},
        "completed_at": _NUMBER,
        "expires_at": _NUMBER,
        "prompt": _TEXT,
        "seconds": _TEXT,
        "size": _TEXT,
        "error": {"type": ["object", "null"]},
        "remixed_from_video_id": {"type": "null"},
        "details": {"type": "object"},
    },
}
LIST = {
    "type": "object",
    "required": ["object", "data", "has_more"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": VIDEO},
        "first_id": _TEXT,
        "last_id": _TEXT,
        "has_more": {"type": "boolean"},
    },
}
DELETED = {
    "type": "object",
    "required": ["id", "object", "deleted"],
    "properties": {"id": {"type": "string"}, "object": {"const": "video.deleted"}, "deleted": {"const": True}},
}


def replies(schema: Any, *errors: int, kind: str = "application/json") -> dict[int | str, dict[str, Any]]:
    """Replies of a route, for FastAPI: 200 of this schema, and errors."""
    content = {kind: {} if schema is None else {"schema": schema}}
    wrong = {"description": "Error", "content": {"application/json": {"schema": ERROR}}}
    found: dict[int | str, dict[str, Any]] = {200: {"description": "Done", "content": content}}
    return found | dict.fromkeys((400, 401, 403, *errors), wrong)


def body() -> dict[str, Any]:
    """The body of a new video, as JSON and as a form."""
    plain = request_schema()
    form = copy.deepcopy(plain)
    file = {"type": "string", "format": "binary"}
    for name in ("input_reference", "image_reference", "video_reference"):
        form["properties"][name] = file
    for name in IN_MEMORY:
        if name != "keyframes":
            form["properties"][name] = {"type": "array", "items": file} if BY_NAME[name].many else file
    content = {"application/json": {"schema": plain}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def whole(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI of the service, made when it is first asked for: the words that some options take need PyTorch."""
    if app.openapi_schema is None:
        for route in app.routes:
            if isinstance(route, APIRoute) and route.name in ("create_video", "create_video_sync"):
                route.openapi_extra = body()
    return app.openapi()
