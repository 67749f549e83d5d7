"""An estimate of the memory that a step of training takes, before the first one, on tensors without contents."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.memory.free import free_memory
from animatediff.memory.sizes import told
from animatediff.training.attention import short_attention

if TYPE_CHECKING:
    from animatediff.training.encode import Encoder
    from animatediff.training.state import TrainState

logger = logging.getLogger(__name__)

STATE_BYTES = {"adamw": 8, "adamw8bit": 2}
"""Bytes of an optimizer's states for each number that trains."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes that a step takes, without kernels' own workspace and fragmentation, which are some 15 % more."""

    weights: int
    """All models of the run, and the averaged weights; they are there before the first step."""
    optimizer: int
    gradients: int
    activations: int
    """Results that the backward pass needs. They go while the gradients come."""

    @property
    def peak(self) -> int:
        """At the most."""
        return self.weights + self.optimizer + max(self.gradients, self.activations)

    def __str__(self) -> str:
        return (
            f"about {told(self.peak)} at the peak of a step: weights {told(self.weights)}, optimizer "
            f"{told(self.optimizer)}, gradients {told(self.gradients)} or activations {told(self.activations)}"
        )


def estimate_memory(state: TrainState, encoder: Encoder) -> MemoryEstimate:
    """Estimate the memory of a run that is set up, in this process. Nothing is computed, and no model is changed."""
    trained = sum(parameter.numel() for parameter in state.parameters)
    pipe = state.stage.pipe
    parts: list[Any] = [state.model, pipe.unet, pipe.vae, *pipe.text_encoders]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    averaged = [] if state.ema is None else list(state.ema.mean.values())
    return MemoryEstimate(
        weights=_bytes([*tensors, *averaged]),
        optimizer=STATE_BYTES[state.config.optimizer] * trained,
        gradients=4 * trained,
        activations=_activations(state, encoder) * state.config.batch_size,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each storage once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _activations(state: TrainState, encoder: Encoder) -> int:
    """Bytes that the forward pass of one clip keeps for the backward pass."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    config, device = state.config, state.accelerator.device
    clips, pipe = config.clips(), state.stage.pipe
    factor, channels = pipe.base.vae_scale_factor, int(pipe.vae.config["latent_channels"])
    size = (clips.height // factor, clips.width // factor)
    text = encoder.text([""])
    latents = torch.zeros(1, clips.num_frames, channels, *size, device=device)
    frames = torch.zeros(1, clips.num_frames, 3, clips.height, clips.width) if state.stage.needs_frames else None
    batch: Any = {
        "text": [""],
        "key": [""],
        "bad": [],
        "missing": [0],
        **({} if frames is None else {"frames": frames}),
        **({"poses": torch.eye(4).double().repeat(1, clips.num_frames, 1, 1)} if clips.camera_paths else {}),
    }
    inputs = state.stage.validation_inputs(batch, latents)
    module = state.accelerator.unwrap_model(state.model)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own = [*module.parameters(), *module.buffers()]
    stand_ins = [mode.from_tensor(tensor) for tensor in own]  # kept alive, so that the mode takes no others for them
    weights = set(map(_storage, [*own, *stand_ins]))
    kept: dict[int, tuple[Tensor, int]] = {}  # the tensors as well: a storage that is gone may be another's place

    def keep(tensor: Tensor) -> Tensor:
        if (storage := _storage(tensor)) not in weights:
            kept[storage] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    def fake(value: Tensor) -> Tensor:
        return mode.from_tensor(value)

    attention = short_attention(torch.device(device), clips.num_frames, *size)
    saved = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with mode, attention, state.accelerator.autocast(), saved:
        module(
            fake(latents),
            fake(latents),
            torch.zeros(1, dtype=torch.long, device=device),
            *(None if part is None else fake(part) for part in text),
            **{name: fake(value) for name, value in inputs.items()},
        )
    return sum(size for _, size in kept.values())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def say_memory(state: TrainState, encoder: Encoder) -> None:
    """Log the estimate, with a warning where it is more than the device has free."""
    try:
        estimate = estimate_memory(state, encoder)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError) as error:  # an operation without a shape rule
        logger.debug("the memory of a step is not estimated: %s", error)
        return
    free = free_memory(state.accelerator.device)
    wanted = estimate.peak - estimate.weights
    if wanted > free:
        logger.warning(
            "memory: %s; %s are free for what comes on top of the weights. If it does not fit, try "
            "`gradient_checkpointing`, a smaller `batch_size` with more `gradient_accumulation_steps`, precision=bf16, "
            "fewer data.num_frames or optimizer=adamw8bit",
            estimate, told(free),
        )  # fmt: skip
    else:
        logger.info("memory: %s", estimate)
