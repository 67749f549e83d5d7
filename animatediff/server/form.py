"""The body of a request as plain values and files: JSON, or a multipart form; bounded before anything is read.

Forms write nested values as JSON texts, or in brackets (`extra_params[seed]=3`), as OpenAI's clients do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

from animatediff.errors import UserError
from animatediff.parse import parse_json
from animatediff.server.errors import ApiError, refused
from animatediff.server.uploads import MAX_FILES

MAX_FIELDS = 500
MAX_LEVELS = 8
JSON_FIELDS = ("extra_params", "lora", "input_reference", "image_reference", "video_reference")
"""Fields that are objects, written as JSON text in a form."""
_KEY = re.compile(r"([A-Za-z_]\w*)((?:\[\w*\])*)", re.ASCII)


@dataclass
class Body:
    """Values by field, and files by field in the order in which they came."""

    values: dict[str, Any] = field(default_factory=dict)
    files: list[tuple[str, bytes]] = field(default_factory=list)


async def read_body(request: Request) -> Body:
    """The body of a request. Raises ApiError for what is no JSON object and no form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request)
    if kind != "application/json":
        raise ApiError(
            415,
            f"expected a body of application/json or multipart/form-data, got {kind[:80] or 'none'}",
            code="unsupported_media_type",
        )
    try:
        text = (await request.body()).decode()
    except UnicodeDecodeError as error:
        raise refused(f"the body is no UTF-8 (byte {error.start})", code="invalid_json") from error
    values = await run_in_threadpool(_json, text, "the body")
    if not isinstance(values, dict):
        raise refused("the body is no JSON object", code="invalid_json")
    return Body(values)


async def _form(request: Request) -> Body:
    body, pairs = Body(), list[tuple[str, str]]()
    try:
        async with request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=2**24) as form:
            for key, value in form.multi_items():
                if isinstance(value, str):
                    pairs.append((key, value))
                else:
                    body.files.append((key, await value.read()))
    except (HTTPException, MultiPartException, ValueError, KeyError, AttributeError) as error:
        reason = getattr(error, "detail", None) or getattr(error, "message", None) or type(error).__name__
        raise refused(f"the form cannot be read: {reason}", code="invalid_form") from error
    body.values = nested(pairs)
    for name in JSON_FIELDS:
        text = body.values.get(name)
        if isinstance(text, str) and (name in ("extra_params", "lora") or text.lstrip().startswith("{")):
            body.values[name] = await run_in_threadpool(_json, text, name) if text.strip() else None
    body.values = {name: value for name, value in body.values.items() if value not in ("", None)}
    return body


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text, where)
    except UserError as error:
        raise refused(str(error), None if where == "the body" else where, "invalid_json") from error


def nested(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Fields of a form, those with brackets as the objects and lists that they are parts of. Raises ApiError.

    >>> nested([("prompt", "a fox"), ("extra_params[seed][]", "1"), ("extra_params[loop]", "2")])
    {'prompt': 'a fox', 'extra_params': {'seed': ['1'], 'loop': '2'}}
    """
    tree: dict[str, Any] = {}
    for key, value in pairs:
        found = _KEY.fullmatch(key) if len(key) <= 300 else None
        if found is None:
            raise refused(f"{key[:80]!r} is no name of a field", code="unknown_parameter")
        parts = [found[1], *re.findall(r"\[(\w*)\]", found[2])]
        if len(parts) > MAX_LEVELS:
            raise refused(f"{found[1]}: nested more than {MAX_LEVELS} levels deep", found[1])
        _put(tree, parts, value, found[1])
    return {key: _listed(value) for key, value in tree.items()}


def _put(tree: dict[str, Any], parts: list[str], value: str, name: str) -> None:
    """Put a value at its place. Lists stand as objects with the keys 0, 1, ... and the mark "" until all is read."""
    at = tree
    for part, following in pairwise(parts):
        at = _entry(at, part, following, parts[-1])
        if not isinstance(at, dict):
            raise refused(f"{name}: is given both as a value and as an object", name)
    last = parts[-1]
    if last == "":
        at[""] = True
        last = str(sum(key != "" for key in at))
    if last in at:
        raise refused(f"{name}: {'.'.join(part for part in parts if part)} is given twice", name)
    at[last] = value


def _entry(at: dict[str, Any], part: str, following: str, last: str) -> Any:
    if part != "":
        return at.setdefault(part, {})
    at[""] = True  # a list of objects: the first one that does not have this key yet
    number = 0
    while str(number) in at and isinstance(at[str(number)], dict) and following in at[str(number)] and last != "":
        number += 1
    return at.setdefault(str(number), {})


def _listed(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "" in value:
        return [_listed(item) for key, item in value.items() if key != ""]
    return {key: _listed(item) for key, item in value.items()}
