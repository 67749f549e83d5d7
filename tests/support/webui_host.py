"""A Stable Diffusion WebUI in a process of its own, with the extension linked into a folder of data of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from support.paths import ROOT

TIMEOUT = 300.0
"""Seconds for whatever must happen; machines may be busy."""
NO_KEEPING = httpx.Limits(max_keepalive_connections=0)
"""Hosts drop a connection whose call ended in an error."""
CAPTURE = '''
import json
from pathlib import Path
import torch
from modules import script_callbacks, scripts, shared
FOLDER = Path({folder!r})
class Capture(scripts.Script):
    """For tests: writes first noise and last latents of each sampling, and does what `orders.json` says."""
    def title(self):
        return "Capture"
    def show(self, is_img2img):
        return scripts.AlwaysVisible
    def process_before_every_sampling(self, p, *args, **kwargs):
        torch.save(dict(noise=kwargs["noise"].cpu(), x=kwargs["x"].cpu()), FOLDER / "noise.pt")
    def post_sample(self, p, ps, *args):
        torch.save(ps.samples.cpu(), FOLDER / "latents.pt")
def at_step(params):
    orders = json.loads((FOLDER / "orders.json").read_text())
    forge = getattr(shared.sd_model, "forge_objects", None)
    model = shared.sd_model.model if forge is None else forge.unet.model
    if orders.get("apart"):
        model.memory_required = lambda *args, **kwargs: float("inf")
    else:
        vars(model).pop("memory_required", None)
    if params.sampling_step == orders.get("fail_at"):  # what callbacks raise is swallowed, so the UNet has to
        layer = model.diffusion_model.out  # one that all hosts call as a module
        def fail(*args):
            handle.remove()
            raise RuntimeError("a fault in the middle, for a test")
        handle = layer.register_forward_pre_hook(fail)
    if params.sampling_step == orders.get("interrupt_at"):
        shared.state.interrupt()
script_callbacks.on_cfg_denoiser(at_step)
'''


class WebUI:
    """The process, and its API. A context; `data` has the models, and gets the extension."""

    def __init__(self, root: Path, python: str, data: Path, *arguments: str) -> None:
        self.root, self.python, self.data = root, python, data
        self.arguments = arguments
        extensions = data / "extensions"
        (extensions / "capture" / "scripts").mkdir(parents=True)
        (extensions / "capture" / "scripts" / "capture.py").write_text(CAPTURE.format(folder=str(data)))
        (extensions / "animatediff").symlink_to(ROOT / "integrations" / "webui")
        (data / "config.json").write_text(json.dumps({"live_previews_enable": False}))  # for which hosts fetch a model
        self.order()

    def __enter__(self) -> WebUI:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = self.data / "webui.log"
        places = ("--data-dir", self.data, "--models-dir", self.data / "models", "--port", port)
        checkpoint = self.data / "models" / "Stable-diffusion" / "tiny.safetensors"
        self.process = subprocess.Popen(
            [self.python, "webui.py", *map(str, places), "--ckpt", str(checkpoint), *self.arguments],
            cwd=self.root,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONPATH": ""},
        )
        self.client = httpx.Client(base_url=self.url, timeout=TIMEOUT, trust_env=False, limits=NO_KEEPING)
        end = time.monotonic() + TIMEOUT
        while "Startup time" not in self.log.read_text():  # a request before that breaks its start
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGKILL)  # it asks for no more than that: nothing is open that must be closed
        self.process.wait()

    def order(self, **orders: int) -> None:
        """Let samplings fail (`fail_at`), or be interrupted (`interrupt_at`), at a step; without any, go on as usual.

        apart: 1 lets Forge and its children send cond and uncond apart, as where memory is short.
        """
        (self.data / "orders.json").write_text(json.dumps(orders))

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and reply of a call of the API."""
        reply = self.client.post(f"/sdapi/v1/{path}", json=body)
        return reply.status_code, reply.json()

    def generate(self, body: dict[str, Any], path: str = "txt2img") -> dict[str, Any]:
        """The reply of a generation that must go well."""
        status, reply = self.post(path, body)
        assert status == 200, reply
        return reply

    def noise(self) -> Tensor:
        """The noise (f, c, h, w) that the last sampling started from."""
        return torch.load(self.data / "noise.pt")["noise"]

    def latents(self) -> Tensor:
        """What came out of it, (f, c, h, w)."""
        return torch.load(self.data / "latents.pt")


def images_of(reply: dict[str, Any]) -> list[np.ndarray]:
    """The images of a reply, uint8 (h, w, 3)."""
    return [np.asarray(image_of(text).convert("RGB")) for text in reply["images"]]


def image_of(text: str) -> Image.Image:
    """An image of a reply."""
    return Image.open(io.BytesIO(base64.b64decode(text)))
