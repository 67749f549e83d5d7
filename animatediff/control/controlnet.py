"""ControlNets (arXiv 2302.05543) along a clip: each frame is steered by the picture that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from animatediff.control.pictures import as_tensor
from animatediff.errors import UserError
from animatediff.sampling.controls import Residuals, UNetInputs


@dataclass(frozen=True, kw_only=True)
class ControlNetInput:
    """What a call gives to a loaded ControlNet."""

    frames: Any
    """What it was trained to see (edges, depth, poses, ...), one for each frame of the clip: PIL images, an array
    (f, h, w, 3), or a tensor (f, 3, h, w) or (b, 3, f, h, w) in 0..1; more than the clip has are left out."""
    scale: float = 1.0
    start: float = 0.0
    """Share of the steps from which on it steers."""
    end: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NetControl:
    """A ControlNet with the pictures of one call, as the denoising loop sees it."""

    net: Any
    """A `ControlNetModel`."""
    pictures: Tensor
    """(1 or b, 3, f, H, W) in 0..1, on the CPU."""
    scale: float
    active: frozenset[float]
    """Timesteps at which it steers."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for these frames; None at other timesteps."""
        if self.scale == 0 or float(inputs.timestep) not in self.active:
            return None
        pictures = self.pictures[:, :, list(inputs.frames)].repeat(inputs.num_clips // len(self.pictures), 1, 1, 1, 1)
        down, mid = self.net(
            inputs.latents,
            inputs.timestep,
            encoder_hidden_states=inputs.embeddings,
            controlnet_cond=pictures.transpose(1, 2).flatten(0, 1).to(inputs.latents.device, inputs.latents.dtype),
            conditioning_scale=self.scale,
            added_cond_kwargs=None if inputs.conditions is None else dict(inputs.conditions),
            return_dict=False,
        )
        return Residuals(tuple(down), mid)


def net_pictures(net: Any, given: ControlNetInput, shape: tuple[int, ...]) -> Tensor:
    """Pictures for a clip of latents `shape` (b, c, f, h, w), at the size that the net wants: `NetControl.pictures`.

    Raises UserError for too few of them, for another number of clips, and for shares of the steps out of range.
    """
    num_clips, _, num_frames, height, width = shape
    if not 0 <= given.start <= given.end <= 1:
        raise UserError(
            f"start and end of a ControlNet are shares of the steps, 0 <= start <= end <= 1; got {given.start:g} and "
            f"{given.end:g}"
        )
    # each rung but the first of the ladder before it halves the picture
    factor = 2 ** (len(net.config["conditioning_embedding_out_channels"]) - 1)
    pictures = as_tensor(given.frames, width * factor, height * factor, "frames of a ControlNet")
    if pictures.shape[1] != 3:
        raise UserError(f"frames of a ControlNet are pictures of 3 channels, got {tuple(pictures.shape)}")
    if pictures.shape[2] < num_frames:
        raise UserError(
            f"a ControlNet has {pictures.shape[2]} frames, but the clip has {num_frames}; give one for each"
        )
    if pictures.shape[0] not in (1, num_clips):
        raise UserError(f"{num_clips} clips want frames for 1 or {num_clips} of them, got {pictures.shape[0]}")
    return pictures[:, :, :num_frames]
