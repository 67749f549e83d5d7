"""A Stable Diffusion WebUI with our extension, in a process of its own and a folder of its own; its API, what it drew.

The checkout of the host is read alone: models, extensions, settings and images lie in the folder of the test. Beside
ours stands a tiny extension that keeps the noise a clip began with and its frames as float32, before they are rounded.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from torch import Tensor

from support.paths import ROOT

EXTENSION = ROOT / "integrations" / "webui"
START_S, CALL_S = 600.0, 300.0
"""Seconds until a host answers, and for one generation; machines may be busy."""
OPTIONS = (
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-python-version-check", "--skip-version-check"),
    *("--api", "--no-download-sd-model", "--no-hashing"),
)
READY = "/sdapi/v1/embeddings"
"""Answers when the API has everything; its other routes are there earlier."""
RECORDER = """
import torch
from pathlib import Path
from modules import script_callbacks, scripts

class Recorder(scripts.Script):
    noise = None
    def title(self):
        return "Recorder"
    def show(self, is_img2img):
        return scripts.AlwaysVisible
    def process_before_every_sampling(self, p, *args, **kwargs):
        Recorder.noise = kwargs["noise"].clone()
    def postprocess_batch(self, p, *args, **kwargs):
        torch.save({"noise": Recorder.noise, "frames": kwargs["images"].clone()}, FILE)

def fail_once(params):
    if Path(FAIL).exists():
        Path(FAIL).unlink()
        unet = params.denoiser.inner_model.inner_model
        unet = unet.forge_objects.unet.model if hasattr(unet, "forge_objects") else unet.model
        def fail(*_):
            hook.remove()
            raise RuntimeError("broken in the middle")
        hook = unet.diffusion_model.out.register_forward_pre_hook(fail)

script_callbacks.on_cfg_denoiser(fail_once)
"""
"""Where FAIL exists, the next call of the UNet raises an error in its last layer."""


def host_folders(name: str) -> tuple[Path, Path]:
    """Checkout of a host and its Python, from `{name}_ROOT` and `{name}_PYTHON`; skips the test without them."""
    root, python = os.environ.get(f"{name}_ROOT"), os.environ.get(f"{name}_PYTHON")
    if not root or not python:
        pytest.skip(f"{name}_ROOT (its checkout) and {name}_PYTHON (its Python) are not set: NOT tried in this host")
    return Path(root), Path(python)


class WebUIHost:
    """The process. A context: it ends with it."""

    def __init__(self, root: Path, python: Path, data: Path, options: Sequence[str] = ()) -> None:
        self.data = data
        self.samples = data / "outputs"
        self._recorded = data / "recorded.pt"
        extensions = data / "extensions"
        (extensions / "recorder" / "scripts").mkdir(parents=True, exist_ok=True)
        self._fail = data / "fail"
        recorder = RECORDER.replace("FILE", repr(str(self._recorded))).replace("FAIL", repr(str(self._fail)))
        (extensions / "recorder" / "scripts" / "recorder.py").write_text(recorder)
        if not (extensions / "animatediff").exists():
            (extensions / "animatediff").symlink_to(EXTENSION, target_is_directory=True)
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self._log = (data / "host.log").open("w")
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
        }  # fmt: skip
        self.process = subprocess.Popen(
            [str(python), "launch.py", *OPTIONS, "--port", str(port), "--data-dir", str(data), *options],
            cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        self.client = httpx.Client(
            base_url=self.url, timeout=CALL_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def __enter__(self) -> WebUIHost:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the host ended:\n{self.log()}"
            with suppress(httpx.TransportError):
                if self.client.get(READY).is_success:
                    return self
            time.sleep(0.5)
        self.__exit__()
        raise AssertionError(f"the host does not answer:\n{self.log()}")

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.close()

    def log(self) -> str:
        """The end of what the host printed."""
        return (self.data / "host.log").read_text(errors="replace")[-6000:]

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Reply of the API, whatever its status."""
        return self.client.post(f"/sdapi/v1/{path}", json=body)

    def get(self, path: str) -> Any:
        """Answer of the API."""
        return self.client.get(f"/sdapi/v1/{path}").json()

    def fail_next(self) -> None:
        """Let the UNet raise an error in the middle of its next call."""
        self._fail.touch()

    def draw(self, motion: dict[str, Any] | None = None, *, path: str = "txt2img", **body: Any) -> Drawn:
        """Draw a batch of images, with motion modules where settings of the extension are given."""
        self._recorded.unlink(missing_ok=True)
        reply = self.post(path, body if motion is None else with_motion(body, motion))
        assert reply.status_code == 200, f"{reply.text[:2000]}\n{self.log()}"
        recorded = torch.load(self._recorded, weights_only=True)
        return Drawn(reply.json(), recorded["noise"], recorded["frames"])


class Drawn:
    """What one call gave: the reply, the noise that it began with, and its frames before they were rounded."""

    def __init__(self, reply: dict[str, Any], noise: Tensor, frames: Tensor) -> None:
        self.info: dict[str, Any] = json.loads(reply["info"])
        self.files: list[bytes] = [base64.b64decode(image.split(",")[-1]) for image in reply["images"]]
        self.noise = noise
        """(f, 4, h, w), of standard deviation 1."""
        self.frames = frames
        """(f, 3, H, W) in [0, 1]."""

    @property
    def infotext(self) -> str:
        """That of the first image."""
        return self.info["infotexts"][0]

    def image(self, index: int = 0) -> Image.Image:
        """One of the files of the reply."""
        return Image.open(io.BytesIO(self.files[index]))


def with_motion(body: dict[str, Any], motion: dict[str, Any]) -> dict[str, Any]:
    """A call of the API with settings of the extension."""
    return {**body, "alwayson_scripts": {"AnimateDiff": {"args": [{"enable": True, **motion}]}}}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
