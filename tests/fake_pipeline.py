"""Stands for a loaded pipeline where a test is not about models: frames at once, and a VAE that changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.pipelines.output import Callbacks
from animatediff.render import render as render_module
from animatediff.render.renderer import Renderer


class FakeVae:
    """Latents are images in 0..1, (n, 3, h, w)."""

    config: dict[str, Any] = {"latent_channels": 3}  # noqa: RUF012

    def __init__(self) -> None:
        self.decoded = 0


def as_latents(frames: np.ndarray) -> torch.Tensor:
    """Frames, uint8 (f, h, w, 3), as the latents (1, 3, f, h, w) of `FakeVae`."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None] / 255


class FakePipeline:
    """Frames that depend on seed and prompt, as a pipeline's do."""

    unet = SimpleNamespace(dtype="torch.float32")
    family = sparsectrl = sparsectrl_kind = None
    recommended = SimpleNamespace(scheduler=None)
    scheduler = type("DDIMScheduler", (), {})()
    defaults = SimpleNamespace(
        num_frames=4, num_inference_steps=2, guidance_scale=7.5, height=32, width=40, fps=8.0, window=4
    )

    def __init__(self) -> None:
        self.vae = FakeVae()
        self.freed = 0

    def job(self, **arguments: Any) -> SimpleNamespace:
        return SimpleNamespace(**arguments)

    def sample(self, job: Any, callbacks: Callbacks) -> torch.Tensor:
        low = torch.randint(0, 255, (job.num_frames, 4, 5, 3), generator=job.generator).numpy().astype(np.uint8)
        low[0, 0, 0, 0] = len(job.prompt)
        callbacks.step("denoise", 1, 1)
        frames = np.stack([np.asarray(Image.fromarray(f).resize((job.width, job.height), 0)) for f in low])
        return as_latents(frames)

    def decode(self, latents: torch.Tensor, job: Any, callbacks: Callbacks) -> Iterator[torch.Tensor]:
        frames, done = latents[0].transpose(0, 1), 0
        for chunk in frames.split(job.decode_chunk_size or 4):
            self.vae.decoded += len(chunk)
            done += len(chunk)
            callbacks.step("decode", done, len(frames))
            yield chunk

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1


def loading(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    """Let the command line, and the functions of `render.render`, load models by `load(spec, after_part)`."""

    class Loading(Renderer):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{"load": load, **settings})

    monkeypatch.setattr(render_module, "Renderer", Loading)
