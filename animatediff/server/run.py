"""The server process: its socket, its bounds, and its end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn

from animatediff.errors import UserError
from animatediff.files import check_results_folder
from animatediff.limits import LIMITS, limits
from animatediff.server.app import create_app
from animatediff.server.catalog import Catalog
from animatediff.server.errors import ApiError
from animatediff.server.settings import BOUNDS, Settings

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

GRACE_S = 3
"""Seconds that connections have to end."""


def run(settings: Settings, on_ready: Callable[[str], None] = lambda place: None) -> None:
    """Serve until a signal ends it. on_ready: is called with the address. Raises UserError where it cannot begin."""
    own = {name: value for name, value in BOUNDS.items() if os.environ.get(LIMITS[name].variable) is None}
    with limits(**own), _alone(settings), _listening(settings) as listener:
        _check_defaults(settings)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        place = f"http://{host}:{listener.getsockname()[1]}"
        server = uvicorn.Server(
            uvicorn.Config(
                create_app(settings, lambda: on_ready(place)),
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="on",
                limit_concurrency=1000,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=GRACE_S,
                h11_max_incomplete_event_size=2**16,
            )
        )
        with suppress(SystemExit, KeyboardInterrupt):  # the signal that ended it, told again; its jobs are put back
            server.run(sockets=[listener])
        if not server.started:
            raise UserError("the service could not be started; what is said above is the reason")


def _check_defaults(settings: Settings) -> None:
    """Raise UserError for models of the command line that are not in the folders."""
    catalog = Catalog(settings.models)
    for name, flag in (("model", "--model"), ("motion_module", "--motion-module")):
        if (value := getattr(settings, name)) is not None:
            try:
                catalog.find(value, name, flag)
            except ApiError as error:
                raise UserError(str(error)) from None
    from animatediff.render.prepare import check_device

    for device in settings.devices:
        check_device(device)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Hold the data folder for this server alone. Raises UserError where another one has it."""
    check_results_folder(settings.data)
    settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(settings.data / "lock", "a") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"--data {settings.data}: another server works there; give it a folder of its own"
            ) from None
        yield


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The socket. Raises UserError where the address is taken, or is none of this machine."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "another program listens there; choose another --port" if taken else error.strerror or str(error)
        raise UserError(f"{settings.host}:{settings.port}: {reason}") from None
    with listener:
        yield listener
