"""Stands for a loaded pipeline where a test is not about models: frames at once, and a VAE that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from animatediff.memory.measures import InUse
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.output import Callbacks
from animatediff.render import render as render_module
from animatediff.render.renderer import Renderer


class FakeVae:
    """Latents are images in 0..1, (n, 3, h, w)."""

    dtype = torch.float32
    use_tiling = False
    tile_latent_min_size, tile_overlap_factor = 64, 0.25

    def __init__(self) -> None:
        self.config: dict[str, Any] = {"scaling_factor": 1.0, "block_out_channels": (1,), "latent_channels": 3}
        self.decoded = 0

    def modules(self) -> list[torch.nn.Module]:
        return []

    def enable_tiling(self) -> None:
        self.use_tiling = True

    def disable_tiling(self) -> None:
        self.use_tiling = False

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.decoded += len(latents)
        return (latents * 2 - 1,)


def as_latents(frames: np.ndarray) -> torch.Tensor:
    """Frames, uint8 (f, h, w, 3), as the latents (1, 3, f, h, w) of `FakeVae`."""
    return torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None] / 255


class FakePipeline:
    """Frames that depend on seed and prompt, as a pipeline's do."""

    unet = SimpleNamespace(dtype="torch.float32")
    base = SimpleNamespace(_execution_device=torch.device("cpu"), unet=unet)
    family = sparsectrl = sparsectrl_kind = camera_control = motion_image_encoder = None
    recommended = SimpleNamespace(scheduler=None)
    scheduler = type("DDIMScheduler", (), {})()
    defaults = SimpleNamespace(
        num_frames=4, num_inference_steps=2, guidance_scale=7.5, height=32, width=40, fps=8.0, window=4
    )

    def __init__(self) -> None:
        self.vae = FakeVae()
        self.freed = 0

    def job(self, **arguments: Any) -> SimpleNamespace:
        off = {"callback_on_step_end": None, "color_match": False}
        call = SimpleNamespace(upscale=arguments["upscale"], output_type="pt", **off)
        sizes = {name: arguments[name] for name in ("num_frames", "height", "width")}
        clip = SimpleNamespace(num_clips=1, channels=3, factor=1, **sizes)
        chunk = arguments["decode_chunk_size"] or 4
        return SimpleNamespace(
            **{**arguments, "call": call, "clip": clip, "decode_chunk_size": chunk, "saving": InUse()},
            generators=[arguments["generator"]],
            conditions=(),
            windows=SimpleNamespace(streams=False),
        )

    def sample(self, job: Any, callbacks: Callbacks) -> torch.Tensor:
        low = torch.randint(0, 255, (job.num_frames, 4, 5, 3), generator=job.generator).numpy().astype(np.uint8)
        low[0, 0, 0, 0] = len(job.prompt)
        callbacks.step("denoise", 1, 1)
        frames = np.stack([np.asarray(Image.fromarray(f).resize((job.width, job.height), 0)) for f in low])
        return as_latents(frames)

    decode = AnimateDiffPipeline.decode
    _decoded = AnimateDiffPipeline._decoded

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1


def loading(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any]) -> None:
    """Let the command line, and the functions of `render.render`, load models by `load(spec, after_part)`."""

    class Loading(Renderer):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{"load": load, **settings})

    monkeypatch.setattr(render_module, "Renderer", Loading)


def noise_pipeline(during: Any = None) -> Any:
    """Stands for a loaded pipeline: frames of noise, which no codec makes small."""

    class Noise(FakePipeline):
        scheduler = SimpleNamespace()
        defaults = SimpleNamespace(
            num_frames=16, num_inference_steps=2, guidance_scale=1.0, height=128, width=128, fps=8.0, window=16
        )

        def sample(self, job: Any, callbacks: Any) -> torch.Tensor:
            if during is not None:
                during()
            size = (job.num_frames, 128, 128, 3)
            return as_latents(torch.randint(0, 256, size, generator=job.generator, dtype=torch.uint8).numpy())

    return Noise()
