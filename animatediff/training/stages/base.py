"""The base class of stages: the parameters that train, inputs of their own, and the file that comes out."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff import __version__
from animatediff.sampling import make_scheduler
from animatediff.training.models import text_encoders
from animatediff.training.objective import ClipLoss, Objective
from animatediff.weights.families import LINEAR
from animatediff.weights.trained_with import (
    BETAS,
    PLAIN,
    TRAINING_KEY,
    differing,
    laid_over,
    only,
    told,
    trained_metadata,
)

if TYPE_CHECKING:
    from animatediff.motion import FrameContext
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.config import TrainConfig
    from animatediff.training.data.loader import Batch

logger = logging.getLogger(__name__)

FILES_KEY, STEP_KEY = "animatediff.files", "animatediff.step"
"""Keys of the metadata: hashes of the files of the configuration, and the step that the weights are of."""


def asked_sampling(config: TrainConfig) -> dict[str, Any]:
    """Prediction type and zero terminal SNR, where the configuration asks for any, in diffusers' names."""
    asked = {"prediction_type": config.prediction, "rescale_betas_zero_snr": config.zero_terminal_snr}
    return {name: value for name, value in asked.items() if value is not None}


def schedule_betas(config: TrainConfig) -> dict[str, Any] | None:
    """The noise schedule that the configuration asks for, in diffusers' names; None if it asks for none."""
    return None if config.schedule is None else {**LINEAR, "beta_schedule": config.schedule}


class Stage(ABC):
    """One kind of training on a loaded pipeline, whose other weights are frozen."""

    file_name = "weights.safetensors"
    """Name of the weights in the folder of the run."""
    needs_frames = False
    """Whether the stage needs the frames themselves, so that cached latents are not enough."""

    def __init__(self, config: TrainConfig, pipe: AnimateDiffPipeline) -> None:
        self.config = config
        self.pipe = pipe
        self.loaded: dict[str, Any] = {}
        """Settings that weights to go on from were trained with in place of the base model's."""
        self.module_betas: Mapping[str, Any] | None = None
        """Those of the motion module that the stage builds on."""
        own = dict(pipe.scheduler.config)
        parts: list[Any] = [pipe.unet, pipe.vae, *text_encoders(pipe)]
        for part in parts:
            part.requires_grad_(False)
        self.betas: Mapping[str, Any] | None = schedule_betas(config)
        """Betas laid over those of the base model; None leaves them as they are."""
        self.parameters: dict[str, nn.Parameter] = self.build()
        """The parameters that train, by internal name."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        self._settle_schedule(own)

    def _settle_schedule(self, own: Mapping[str, Any]) -> None:
        """Find the noise schedule of the training: what the configuration says, else loaded weights, else the model."""
        asked = asked_sampling(self.config)
        stated, notes = self.pipe.sampler.laid_over(self.pipe.family)
        loaded = {**stated, **self.loaded}
        contradicted = {name: value for name, value in loaded.items() if asked.get(name, value) != value}
        if contradicted:
            notes.append(
                f"the weights to build on were trained with {told(contradicted)}; "
                f"trained on with {told({name: asked[name] for name in contradicted})}, as the configuration says"
            )
        for note in notes:
            logger.warning("%s", note)
        taken = only(PLAIN, {**loaded, **asked})
        old_betas = only(BETAS, loaded)
        self.betas = self.betas or ({**LINEAR, **old_betas} if old_betas else self.module_betas)
        self.noise_schedule: Mapping[str, Any] = laid_over(own, taken)
        """Of the base model, with what is laid over it but the betas."""
        known = own if self.module_betas is None else self.module_betas
        betas = only(BETAS, self.betas or {})
        self.trained_with: dict[str, Any] = {
            **{name: value for name, value in taken.items() if name in loaded or differing({name: value}, own)},
            **{name: value for name, value in betas.items() if name in loaded or differing({name: value}, known)},
        }
        """Settings of the noise schedule in place of the base model's, which are stored with the weights."""
        self.pipe.sampler.asked = {**taken, **betas}
        self.pipe.renew_scheduler()

    @abstractmethod
    def build(self) -> dict[str, nn.Parameter]:
        """Put the layers that train into the pipeline. Returns their parameters. Raises UserError for unfit files."""

    @abstractmethod
    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write trained weights (on the CPU, by internal name) so that the sampler and other programs load them."""

    @property
    def frames(self) -> FrameContext | None:
        """The frame count of the motion modules, where there are any."""
        return self.pipe.attachment.frames if self.pipe.attachment is not None else None

    def module(self, objective: Objective) -> nn.Module:
        """The module that is called on each batch; see `ClipLoss.forward`."""
        return ClipLoss(self.pipe.unet, objective, self.frames)

    def enable_gradient_checkpointing(self) -> None:
        """Compute layers again in the backward pass instead of keeping their outputs."""
        self.pipe.unet.enable_gradient_checkpointing()

    def inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        """Further arguments of the module, for a batch with latents (b, f, c, h, w)."""
        return {}

    def validation_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        """Further arguments of the module for the validation loss, nothing random. latents (1, f, c, h, w)."""
        return {}

    def render_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline for a validation video, from a held-out sample with latents (1, f, c, h, w)."""
        return {}

    def image_scheduler(self) -> Any:
        """The sampler of validation images, on the schedule of the training."""
        return make_scheduler("ddim", self.noise_schedule, self.betas)

    def tensors(self) -> dict[str, Tensor]:
        """Copy the trained weights to the CPU, whole. With FSDP every process must call it."""
        return {name: whole(parameter) for name, parameter in self.parameters.items()}

    @cached_property
    def _origin(self) -> dict[str, str]:
        """Metadata of what the weights were made by; files are hashed once."""
        hashes = self.config.hashes()
        files = {FILES_KEY: json.dumps(hashes)} if hashes else {}
        return {TRAINING_KEY: json.dumps(self.config.stored()), **files}

    def metadata(self, step: int) -> dict[str, str]:
        """Metadata of the file of weights."""
        return {
            "format": "pt",
            **trained_metadata(self.trained_with),
            **self._origin,
            STEP_KEY: str(step),
            "animatediff.version": __version__,
        }

    def out_dtype(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cast tensors to the configuration's `weights_dtype`."""
        dtype = getattr(torch, self.config.weights_dtype)
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """Copy a tensor to the CPU, gathered from all processes where FSDP has divided it."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if gather is not None else tensor).detach().to("cpu", copy=True)
