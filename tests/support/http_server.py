"""A service in a process of its own, with the renderer of `http_stub` or the real one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from support.paths import ROOT

STUB = "support.http_stub:Stub"
REAL = "animatediff.render.renderer:Renderer"
TIMEOUT = 120.0
"""Seconds for whatever must happen; machines may be busy."""


class Server:
    """The process, and a client of it. Settings as of `server.settings.Settings`. A context."""

    def __init__(self, data: Path, **settings: Any) -> None:
        self.data = data
        self._settings = {"data": str(data), "port": 0, "renderer": STUB, "min_free_mb": 0, **settings}
        self.start()

    def start(self) -> None:
        """Start it, or start it again in the same folder."""
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        self.log = (self.data.parent / f"{self.data.name}.log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.http_server", json.dumps(self._settings)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment,
            text=True,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, Path(self.log.name).read_text()
        token = next(iter(self._settings.get("tokens", ())), None)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, trust_env=False)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(30)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.client.close()
        self.log.close()

    def create(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """A new job, which must be taken."""
        reply = self.client.post("/v1/videos", json={"prompt": prompt, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def video(self, job: str) -> dict[str, Any]:
        """State of a job."""
        return self.client.get(f"/v1/videos/{job}").json()

    def until(self, job: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """State of a job once it is so."""
        return eventually(lambda: self.video(job), holds)

    def ended(self, job: str) -> dict[str, Any]:
        """State of a job once it is completed or has failed."""
        return self.until(job, lambda video: video.get("status") in ("completed", "failed"))

    def workers(self) -> list[int]:
        """Process ids of its workers."""
        import psutil

        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in children if "animatediff.server.worker" in " ".join(child.cmdline())]


def eventually(look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
    """What `look` gives once it holds."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        if holds(found := look()):
            return found
        time.sleep(0.05)
    raise AssertionError(f"does not come: {found}")


def main() -> None:
    """Serve, and print the address."""
    from animatediff.server.run import run
    from animatediff.server.settings import Settings

    given = json.loads(sys.argv[1])
    for name in ("data",):
        given[name] = Path(given[name])
    for name in ("models", "tokens", "devices", "allowed_hosts"):
        if name in given:
            given[name] = tuple(Path(part) if name == "models" else part for part in given[name])
    run(Settings(**given), on_ready=lambda place: print(place, flush=True))


if __name__ == "__main__":
    main()
