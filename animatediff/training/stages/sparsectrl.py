"""Stage `sparsectrl`: an encoder that conditions a trained motion model on images at a few frames (arXiv 2311.16933).

It begins as a copy of the down path of the image model and of the motion modules in it, with outputs of zero. The
conditioning frames are random for each clip; the encoder never sees the noisy latents, so that it must use them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from animatediff.bundled import named
from animatediff.media.sketch import sketch
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.training.models import base_pipeline
from animatediff.training.objective import ClipLoss, Objective
from animatediff.training.randomness import generator_for
from animatediff.training.stages.base import Stage
from animatediff.training.stages.motion import load_frozen_motion
from animatediff.weights.motion import find_header
from animatediff.weights.sparsectrl import config_metadata, load_sparsectrl, original_entries
from animatediff.weights.storage.files import save_tensors
from animatediff.weights.trained_with import trained_with

if TYPE_CHECKING:
    from animatediff.training.data import Batch


logger = logging.getLogger(__name__)

CONDITIONS = {"rgb": "images", "scribble": "sketches"}


class SparseCtrlLoss(ClipLoss):
    """The loss of a UNet with the residuals of the encoder."""

    def __init__(self, unet: nn.Module, objective: Objective, frames: Any, encoder: SparseCtrl) -> None:
        super().__init__(unet, objective, frames)
        self.encoder = encoder

    def residuals(
        self, t: Tensor, embeddings: Tensor, added: Mapping[str, Tensor] | None, num_frames: int, **inputs: Tensor
    ) -> dict[str, Any]:
        """inputs: `condition` (b*f, c, k*h, k*w) and `mask` (b*f, 1, k*h, k*w)."""
        out = self.encoder(inputs["condition"], inputs["mask"], t, embeddings, num_frames, conditions=added)
        return {"down_block_additional_residuals": out.down, "mid_block_additional_residual": out.mid}


class SparseCtrlStage(Stage):
    """The encoder alone; the UNet, its motion modules and its domain adapter stay as they are."""

    file_name = "sparsectrl.safetensors"

    def build(self) -> dict[str, nn.Parameter]:
        config, pipe = self.config, self.pipe
        self.family = load_frozen_motion(self)
        assert pipe.attachment is not None
        self.needs_frames = config.condition == "scribble"
        factor = base_pipeline(pipe).vae_scale_factor
        if config.start_from is None:
            adapter = pipe.attachment.adapter
            encoder = SparseCtrl.from_unet(pipe.unet, adapter, kind=config.condition, vae_scale_factor=factor)
        else:
            header = find_header(named(config.start_from))
            self.loaded = trained_with(header)
            encoder = load_sparsectrl(header, unet=pipe.unet)
            if encoder.kind != config.condition:
                logger.info(
                    "%s: a %s encoder; its body is taken, its conditioning embedding begins anew for %s",
                    config.start_from, encoder.kind, CONDITIONS[config.condition],
                )  # fmt: skip
                encoder = encoder.for_kind(config.condition, vae_scale_factor=factor)
        self.encoder = pipe.sparsectrl = encoder.float()
        return dict(self.encoder.named_parameters())

    def module(self, objective: Objective) -> nn.Module:
        return SparseCtrlLoss(self.pipe.unet, objective, self.frames, self.encoder)

    def enable_gradient_checkpointing(self) -> None:
        super().enable_gradient_checkpointing()
        modules: list[Any] = [m for m in self.encoder.modules() if hasattr(m, "gradient_checkpointing")]
        for module in modules:
            module.gradient_checkpointing, module._gradient_checkpointing_func = True, _checkpointed

    def inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        chosen = [self.choose(latents.shape[1], place) for place in batch.get("place", [])]
        return self._inputs(batch, latents, chosen)

    def validation_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        return self._inputs(batch, latents, [[0]])

    def render_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Any]:
        image = sketched(frames_of(batch)[0, 0]) if self.needs_frames else latents[0, 0]
        return {"conditioning_frames": image}

    def choose(self, num_frames: int, place: int) -> list[int]:
        """Choose 1 to `max_conditions` frames of the sample at `place`; half of the time the first is among them."""
        generator = generator_for(self.config.seed, "condition", place)
        number = int(torch.randint(1, min(self.config.max_conditions, num_frames) + 1, (), generator=generator))
        order = torch.randperm(num_frames, generator=generator).tolist()
        if torch.rand((), generator=generator) < 0.5:
            order = [0, *(frame for frame in order if frame)]
        return sorted(order[:number])

    def _inputs(self, batch: Batch, latents: Tensor, chosen: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Condition and mask of clips with `chosen` as conditioning frames, those of each clip."""
        b, f = latents.shape[:2]
        if self.needs_frames:
            frames = frames_of(batch)
            condition = torch.zeros_like(frames)
            for clip, numbers in enumerate(chosen):
                for frame in numbers:
                    condition[clip, frame] = sketched(frames[clip, frame])
            condition = condition.to(latents.device)
        else:
            condition = latents
        mask = torch.zeros(b, f, 1, *condition.shape[-2:], device=latents.device)
        for clip, numbers in enumerate(chosen):
            mask[clip, list(numbers)] = 1
        return {"condition": (condition * mask).flatten(0, 1), "mask": mask.flatten(0, 1)}

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        config = self.encoder.sparse_config
        state = original_entries(self.out_dtype(tensors), config.max_positions)
        save_tensors(path, state, {**config_metadata(config), **metadata})


def frames_of(batch: Batch) -> Tensor:
    """Frames of a batch (b, f, 3, h, w), which sketches are made of."""
    frames = batch.get("frames")
    assert frames is not None and len(frames) == len(batch["key"]), "a stage that needs frames has no latent cache"
    return frames


def sketched(frame: Tensor) -> Tensor:
    """Draw a frame (3, h, w) in -1..1 as white lines on black, (3, h, w) in 0..1."""
    from PIL import Image

    pixels = ((frame.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
    drawn = np.asarray(sketch(Image.fromarray(pixels), "scribble"), dtype=np.float32) / 255
    return torch.from_numpy(drawn).permute(2, 0, 1)


def _checkpointed(module: Any, *args: Any) -> Any:
    return checkpoint(module.__call__, *args, use_reentrant=False)
