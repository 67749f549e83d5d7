"""What a step of the sampler asks: the image UNet with motion modules, over the frames of one or more clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from animatediff.motion import FrameCount, frame_weights
from animatediff.sampling.controls import Control, UNetInputs, total_residuals

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Predict = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""(latents (b, c, f, h, w), timestep, which f frames of the clip these are) -> the prediction, of the same shape."""


@dataclass
class ClipPredictor:
    """Calls the UNet on clips. With guidance, the first half of `embeddings` are the negative prompts."""

    unet: UNet2DConditionModel
    frames: FrameCount
    embeddings: Tensor
    """(b, n, d) text states, one for each clip."""
    pooled: Tensor | None = None
    """(b, d) pooled text of SDXL."""
    time_ids: Tensor | None = None
    """(b, 6) sizes and crops of SDXL."""
    controls: Sequence[Control] = ()
    """Asked at every call; what they give is added up."""
    pictures: Sequence[Tensor] = ()
    """What IP-Adapters see, one each: (b, 1, ...) for all frames alike, or (b, f, ...) for those of the whole clip."""

    def __call__(self, latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        """latents: (b, c, f, h, w), of these frames of the clip -> prediction of the same shape."""
        num_frames = latents.shape[2]
        self.frames.num_frames = num_frames
        conditions = None
        if self.pooled is not None and self.time_ids is not None:
            conditions = {
                "text_embeds": self.pooled.repeat_interleave(num_frames, 0),
                "time_ids": self.time_ids.repeat_interleave(num_frames, 0),
            }
        inputs = UNetInputs(
            latents=rearrange(latents, "b c f h w -> (b f) c h w").to(self.embeddings.dtype),
            timestep=timestep,
            embeddings=self.embeddings.repeat_interleave(num_frames, 0),
            conditions=conditions,
            frames=frames,
        )
        residuals = total_residuals(self.controls, inputs)
        added: dict[str, object] | None = None if conditions is None else dict(conditions)
        if self.pictures:
            seen = [states if states.shape[1] == 1 else states[:, list(frames)] for states in self.pictures]
            seen = [states.expand(-1, num_frames, *states.shape[2:]).flatten(0, 1) for states in seen]
            added = {**(added or {}), "image_embeds": seen}
        out = self.unet(
            inputs.latents,
            timestep,
            encoder_hidden_states=inputs.embeddings,
            added_cond_kwargs=added,
            down_block_additional_residuals=None if residuals is None else residuals.down,
            mid_block_additional_residual=None if residuals is None else residuals.mid,
            return_dict=False,
        )[0]
        # The sampler adds up small steps, so it works in float32 whatever the UNet's precision.
        return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames).float()


def guided(predict: Predict, scale: float) -> Predict:
    """Classifier-free guidance (arXiv 2207.12598): negative and positive prompts in one batch, then pushed apart."""

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        negative, positive = predict(torch.cat([latents, latents]), timestep, frames).chunk(2)
        return negative + scale * (positive - negative)

    return call


def windowed(predict: Predict, windows: Sequence[range]) -> Predict:
    """Predict each window of frames by itself and average where they overlap, frames in mid-window counting most."""
    if len(windows) == 1:
        return predict

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        total = torch.zeros_like(latents)
        weight = torch.zeros(latents.shape[2], device=latents.device)
        for window in windows:
            part = slice(window.start, window.stop)
            share = frame_weights(len(window)).to(latents.device)
            total[:, :, part] += predict(latents[:, :, part], timestep, frames[part]) * share[:, None, None]
            weight[part] += share
        return total / weight[:, None, None]

    return call
