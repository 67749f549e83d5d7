"""A real ComfyUI in a process of its own, with our pack linked into a base directory that is made for it.

COMFYUI_ROOT is its folder, COMFYUI_PYTHON the Python of its environment; both are outside of the repository.
"""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load

from support.paths import ROOT

PACK = ROOT / "integrations" / "comfyui"
TIMEOUT = 180.0
"""Seconds for whatever must happen; machines may be busy."""

Graph = dict[str, dict[str, Any]]
"""A workflow in ComfyUI's API format."""


def require_host() -> tuple[Path, Path]:
    """The host's folder and its Python. Skips the test where they are not named."""
    root, python = os.environ.get("COMFYUI_ROOT"), os.environ.get("COMFYUI_PYTHON")
    if not root or not python:
        pytest.skip(
            "NOT RUN IN A REAL ComfyUI: set COMFYUI_ROOT to its folder, COMFYUI_PYTHON to the Python that runs it"
        )
    assert (Path(root) / "main.py").is_file(), f"COMFYUI_ROOT={root}: there is no main.py"
    assert Path(python).is_file(), f"COMFYUI_PYTHON={python}: no such file"
    return Path(root), Path(python)


class HostError(Exception):
    """A workflow that the host refused or could not finish; the message is the host's, `details` its whole answer."""

    def __init__(self, message: str, details: Any) -> None:
        super().__init__(message)
        self.details = details


class Host:
    """The process, and a client of it. A context."""

    def __init__(self, base: Path, *arguments: str) -> None:
        """base: the folder with `models/`, which is made where it is missing; arguments: further ones of main.py."""
        root, python = require_host()
        self.base = base
        nodes = base / "custom_nodes"
        for folder in (nodes, base / "models", base / "user", base / "output", base / "input"):
            folder.mkdir(parents=True, exist_ok=True)
        if not (nodes / "animatediff").exists():
            (nodes / "animatediff").symlink_to(PACK)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.log = base / "host.log"
        self.url = f"http://127.0.0.1:{port}"
        command = [
            *(str(python), str(root / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port)),
            *("--base-directory", str(base), "--database-url", f"sqlite:///{base / 'user' / 'comfyui.db'}"),
            *("--disable-all-custom-nodes", "--whitelist-custom-nodes", "animatediff"),
            *("--disable-api-nodes", "--disable-auto-launch", *arguments),
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=base)
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False)
        self.wait_for(self._answers)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def get(self, path: str, **params: Any) -> Any:
        """JSON of an address of the host."""
        reply = self.client.get(path, params=params)
        reply.raise_for_status()
        return reply.json()

    def wait_for(self, look: Callable[[], Any]) -> Any:
        """What `look` gives once that is true. Fails where the host ends, or after a long time."""
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            if found := look():
                return found
            assert self.process.poll() is None, f"ComfyUI ended:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)
        raise AssertionError(f"does not come; the end of the host's log:\n{self.log.read_text()[-4000:]}")

    # -- workflows -----------------------------------------------------------------------------------------------------

    def queue(self, graph: Graph) -> str:
        """Put a workflow into the queue; returns its id. Raises HostError where the host does not take it."""
        reply = self.client.post("/prompt", json={"prompt": graph})
        if reply.status_code != 200:
            details = reply.json()
            raise HostError(_validation(details), details)
        assert not reply.json()["node_errors"], reply.json()
        return reply.json()["prompt_id"]

    def finished(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """Outputs of a workflow by node, once it ends. Raises HostError for one that fails or is interrupted."""
        entry = self.wait_for(lambda: self.get(f"/history/{prompt_id}").get(prompt_id))
        if entry["status"]["status_str"] != "success":
            kind, details = entry["status"]["messages"][-1]
            raise HostError(details.get("exception_message", kind), details)
        return entry["outputs"]

    def run(self, graph: Graph) -> dict[str, dict[str, Any]]:
        """`queue` and `finished`."""
        return self.finished(self.queue(graph))

    def steps(self) -> int:
        """Steps of the sampler at work so far, as the bar in the host's log says."""
        bars = re.findall(r"(\d+)/\d+ \[", self.log.read_text(errors="replace")[-400:])
        return int(bars[-1]) if bars and self.get("/queue")["queue_running"] else 0

    def interrupt(self) -> None:
        """What the cross in the host's page does."""
        self.client.post("/interrupt").raise_for_status()

    def file(self, entry: Mapping[str, str]) -> bytes:
        """Content of a file that an output names."""
        reply = self.client.get("/view", params=dict(entry))
        reply.raise_for_status()
        return reply.content

    def latents(self, graph: Graph, at: str, output: int = 0) -> torch.Tensor:
        """The LATENT that an output of a workflow gives, (f, c, h, w) float32."""
        whole = {**graph, "saved": node("SaveLatent", samples=[at, output], filename_prefix="test")}
        entry = self.run(whole)["saved"]["latents"][0]
        return load(self.file({"type": "output", **entry}))["latent_tensor"].float()

    def images(self, graph: Graph, at: str, output: int = 0) -> Any:
        """The IMAGE that an output gives, uint8 (f, h, w, 3)."""
        import numpy as np
        from PIL import Image

        whole = {**graph, "shown": node("PreviewImage", images=[at, output])}
        files = self.run(whole)["shown"]["images"]
        return np.stack([np.asarray(Image.open(io.BytesIO(self.file(entry))).convert("RGB")) for entry in files])

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return self.client.get("/system_stats").status_code == 200
        return False


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow."""
    return {"class_type": class_type, "inputs": inputs}


def _validation(details: Any) -> str:
    """All messages of a refusal, in one line each."""
    lines = [details["error"]["message"], details["error"].get("details", "")]
    for found in details.get("node_errors", {}).values():
        lines += [f"{entry['message']}: {entry['details']}" for entry in found["errors"]]
    return "\n".join(line for line in lines if line)
