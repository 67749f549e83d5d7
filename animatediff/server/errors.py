"""Errors of the service, in the shape that OpenAI's clients read: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from animatediff.errors import causes, is_disk_full, printable

INVALID, AUTHENTICATION, LIMIT, SERVER = (
    "invalid_request_error",
    "authentication_error",
    "rate_limit_error",
    "server_error",
)
DISK_FULL = "the disk of the server is full; nothing was left behind. Try again later, or ask whoever runs it"
STATUS = {
    "invalid_request": 422,
    "disk_full": 507,
    "out_of_memory": 507,
    "timed_out": 504,
    "worker_died": 503,
    "internal_error": 500,
}
"""Code of a failed job -> status of the reply that would have been its video."""


class ApiError(Exception):
    """A reply other than the one asked for."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """JSON of the reply."""
        kinds = {401: AUTHENTICATION, 403: AUTHENTICATION, 429: LIMIT}
        kind = kinds.get(self.status, INVALID if self.status < 500 else SERVER)
        message = printable(str(self)).encode("utf-8", "replace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


def is_full(error: BaseException) -> bool:
    """Whether there is no room for a file on the disk of the server, or beyond the size that its user may write."""
    return is_disk_full(error) or any(getattr(cause, "errno", None) == errno.EFBIG for cause in causes(error))


def refused(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """A request that will not do."""
    return ApiError(400, message, param=param, code=code)
