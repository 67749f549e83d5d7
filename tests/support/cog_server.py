"""Cog's real HTTP server with the model of `integrations/cog`, in processes of its own, without Docker."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from support.paths import ROOT

FOLDER = ROOT / "integrations/cog"
TIMEOUT = 180.0
"""Seconds for whatever must happen; machines may be busy."""


class CogServer:
    """The server, and a client of it. A context. `python`: of an environment that has cog."""

    def __init__(self, log: Path, *, python: str = sys.executable, folder: Path = FOLDER) -> None:
        self._log, self._python, self._folder = log, python, folder

    def __enter__(self) -> CogServer:
        self.url = f"http://127.0.0.1:{free_port()}"
        path = os.pathsep.join([str(Path(self._python).parent), os.environ.get("PATH", "")])
        environment = os.environ | {
            "PATH": path,  # the server starts its worker by the name `python`
            "PYTHONPATH": str(ROOT),
            "PORT": self.url.rpartition(":")[2],
            "COG_PREDICT_TYPE_STUB": "run.py:Runner",
        }
        self._file = self._log.open("a")
        self._process = subprocess.Popen(
            [self._python, "-m", "cog.server.http", "--host", "127.0.0.1"],
            cwd=self._folder,
            env=environment,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._file.close()

    def health(self) -> dict[str, Any]:
        """State of the server; {} while it does not answer yet."""
        assert self._process.poll() is None, self._log.read_text()
        try:
            return self.client.get("/health-check").json()
        except httpx.TransportError:
            return {}

    def ready(self) -> dict[str, Any]:
        """State of the server once its setup is over."""
        state = eventually(self.health, lambda state: state.get("status") not in (None, "STARTING", "BUSY"))
        assert state["status"] == "READY", state
        return state

    def predict(self, **inputs: Any) -> httpx.Response:
        """The reply to a prediction, once it has ended; the one before may still be on its way out (409)."""
        return eventually(
            lambda: self.client.post("/predictions", json={"input": inputs}), lambda reply: reply.status_code != 409
        )

    def done(self, **inputs: Any) -> dict[str, Any]:
        """A prediction that must succeed."""
        reply = self.predict(**inputs)
        assert reply.status_code == 200, reply.text[:2000]
        assert reply.json()["status"] == "succeeded", reply.text[:2000]
        return reply.json()


class Webhook:
    """A server on this machine that keeps what is sent to it. A context."""

    def __enter__(self) -> Webhook:
        kept: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.kept = kept
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state sent that is so."""
        return eventually(lambda: next(filter(holds, list(self.kept)), None), lambda found: found is not None)


def content_of(output: str) -> tuple[str, bytes]:
    """Kind and bytes of a data URL."""
    head, _, data = output.partition(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(data, validate=True)


def data_url(path: Path, kind: str) -> str:
    """A file as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    """What `look` gives once it holds."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if holds(found := look()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"does not come: {found}")
