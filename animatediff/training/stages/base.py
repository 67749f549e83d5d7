"""What a stage of training is: the parameters that train, what its batches add, and the file that comes out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff import __version__
from animatediff.sampling import make_scheduler
from animatediff.training.objective import ClipLoss, Objective
from animatediff.weights.families import LINEAR

if TYPE_CHECKING:
    from animatediff.motion import FrameContext
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.config import TrainConfig
    from animatediff.training.data.loader import Batch
    from animatediff.training.draws import Draws

TRAINING_KEY, STEP_KEY = "animatediff.training", "animatediff.step"
"""Where files of ours say how they were trained."""


def schedule_betas(config: TrainConfig) -> dict[str, Any] | None:
    """The noise schedule that the configuration asks for, in diffusers' names; None if it asks for none."""
    return None if config.schedule is None else {**LINEAR, "beta_schedule": config.schedule}


class Stage(ABC):
    """One kind of training on a loaded pipeline, whose other weights are frozen."""

    file_name = "weights.safetensors"
    """Name of the weights in the folder of the run."""
    needs_frames = False
    """Whether the stage looks at the pictures themselves, so that remembered latents do not do."""

    def __init__(self, config: TrainConfig, pipe: AnimateDiffPipeline) -> None:
        self.config = config
        self.pipe = pipe
        for part in (pipe.unet, pipe.vae, *pipe._text_encoders):
            part.requires_grad_(False)
        self.betas: Mapping[str, Any] | None = schedule_betas(config)
        """Noise schedule laid over the image model's; None leaves that as it is."""
        self.parameters: dict[str, nn.Parameter] = self.build()
        """What trains, by internal name."""
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    @abstractmethod
    def build(self) -> dict[str, nn.Parameter]:
        """Put what is trained into the pipeline; returns its parameters. Raises UserError for files that do not fit."""

    @abstractmethod
    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        """Write the trained weights, given by internal name on the CPU, so that the sampler and its peers load them."""

    @property
    def frames(self) -> FrameContext | None:
        """The frame count of the motion modules, where there are any."""
        return self.pipe.attachment.frames if self.pipe.attachment is not None else None

    def module(self, objective: Objective) -> nn.Module:
        """What is called on each batch; see `ClipLoss.forward`."""
        return ClipLoss(self.pipe.unet, objective, self.frames)

    def enable_gradient_checkpointing(self) -> None:
        """Compute layers again in the backward pass instead of keeping what they gave."""
        self.pipe.unet.enable_gradient_checkpointing()

    def inputs(self, batch: Batch, latents: Tensor, draws: Draws) -> dict[str, Any]:
        """More arguments for the module, for a batch whose latents are (b, f, c, h, w)."""
        return {}

    def held_out_inputs(self, batch: Batch, latents: Tensor, index: int) -> dict[str, Any]:
        """The same for sample `index` of the validation loss, with nothing left to chance. latents (1, f, c, h, w)."""
        return {}

    def render_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Any]:
        """Arguments of the pipeline for a validation video, from a held-out sample with latents (1, f, c, h, w)."""
        return {}

    def picture_scheduler(self) -> Any:
        """The sampler of validation pictures, on the schedule that is trained with."""
        return make_scheduler("ddim", self.pipe._base_schedule.config, self.betas)

    def tensors(self) -> dict[str, Tensor]:
        """The trained weights as they are now, whole, on the CPU. With FSDP every process must call this."""
        return {name: whole(parameter) for name, parameter in self.parameters.items()}

    def metadata(self, step: int) -> dict[str, str]:
        """What is written into the file beside the weights."""
        return {
            "format": "pt",
            TRAINING_KEY: json.dumps(self.config.stored()),
            STEP_KEY: str(step),
            "animatediff.version": __version__,
        }

    def out_dtype(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors in the precision that was asked for."""
        dtype = getattr(torch, self.config.weights_dtype)
        return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def whole(tensor: Tensor) -> Tensor:
    """A copy on the CPU, gathered from all processes where FSDP has divided it."""
    gather = getattr(tensor, "full_tensor", None)
    return (gather() if gather is not None else tensor).detach().to("cpu", copy=True)
