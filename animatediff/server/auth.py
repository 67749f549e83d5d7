"""The gate before all routes: who may ask, from which pages, how large a body may be and how long it may take."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from animatediff.server.errors import ApiError
from animatediff.server.settings import LOOPBACK, Settings
from animatediff.server.uploads import too_large

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

OPEN = ("/health",)
"""Paths that need no token."""
BODY_TIMES = 5
"""The whole of a body may take so many times as long as a part of it."""


class Gate:
    """ASGI middleware. Without a token, pages of other sites are kept out, which a browser here could have open."""

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        settings: Settings,
        on_reply: Callable[[str, str, int], None] = lambda method, route, status: None,
    ) -> None:
        """on_reply: is told of each reply: method, route, status."""
        self._app, self._settings, self._on_reply = app, settings, on_reply
        self._tokens = [token.encode() for token in settings.tokens]
        self._hosts = {name.lower() for name in (*LOOPBACK, settings.host, *settings.allowed_hosts)}
        self._limit = settings.max_upload_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}

        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "none")
                self._on_reply(scope["method"][:10], route, message["status"])
            await send(message)

        try:
            self._check(scope, headers)
            await self._app(scope, self._bounded(receive), counted)
        except ApiError as error:
            await _answer(counted, error)

    def _check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        if self._tokens:
            if scope["path"] not in OPEN:
                self._check_token(headers.get(b"authorization", b""))
        else:
            self._check_origin(headers)
        length = headers.get(b"content-length")
        if length is not None and (not length.isdigit() or len(length) > 15):
            raise ApiError(400, "the header Content-Length is no number", code="invalid_header")
        if length is not None and int(length) > self._limit:
            raise too_large(self._settings.max_upload_mb)

    def _check_token(self, given: bytes) -> None:
        kind, _, token = given.partition(b" ")
        token = token.strip()
        same = [hmac.compare_digest(token, known) for known in self._tokens]
        if kind.lower() != b"bearer" or not any(same):
            raise ApiError(
                401,
                "no valid token: expected the header `Authorization: Bearer TOKEN`",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """Raise ApiError for a request that another site's page makes, by its `Origin` or by a name that leads here."""
        if "*" in self._hosts:
            return
        host = _name(b"//" + headers.get(b"host", b""))
        if host not in self._hosts and self._settings.host in LOOPBACK:
            raise ApiError(
                403,
                f"the host {host[:80]!r} is not known here; start the server with --allow-host for it",
                code="unknown_host",
            )
        origin = headers.get(b"origin")
        if origin is not None and _name(origin) not in {host, *self._hosts}:
            raise ApiError(
                403,
                "pages of other sites may not ask here, as there is no token; start the server with one, or with "
                "--allow-host for that site",
                code="unknown_origin",
            )

    def _bounded(self, receive: Receive) -> Receive:
        """`receive` that ends bodies which are too large, or too slow."""
        read, ended = 0, False
        clock = asyncio.get_running_loop().time
        deadline = clock() + BODY_TIMES * self._settings.body_s

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal read, ended
            if ended:  # waits for the end of the connection
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), min(self._settings.body_s, deadline - clock()))
            except (asyncio.TimeoutError, TimeoutError):
                raise ApiError(408, "the body of the request did not come in time", code="timed_out") from None
            ended = message["type"] != "http.request" or not message.get("more_body", False)
            read += len(message.get("body", b""))
            if read > self._limit:
                raise too_large(self._settings.max_upload_mb)
            return message

        return bounded


def _name(origin: bytes) -> str:
    """The host of an origin, small; empty for what is none."""
    try:
        return (urlsplit(origin.decode("ascii")).hostname or "").lower()
    except (UnicodeDecodeError, ValueError):
        return ""


async def _answer(send: Send, error: ApiError) -> None:
    body = json.dumps(error.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    if error.status in (408, 413):
        headers["connection"] = "close"  # the rest of the body is not read
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
