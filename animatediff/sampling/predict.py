"""Predictions of a sampling step: the image UNet with motion modules, over the frames of one or more clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from animatediff.motion import FrameContext, Window
from animatediff.sampling.chunks import layers_in_chunks
from animatediff.sampling.conditions import FrameEmbeddings, added_conditions, per_frame
from animatediff.sampling.controls import Control, UNetInputs, blended_residuals, total_residuals

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Predict = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""(latents (b, c, f, h, w), timestep, which f frames of the clip these are) -> the prediction, of the same shape."""


@dataclass
class ClipPredictor:
    """Calls the UNet on clips. With guidance, the first half of `embeddings` are the negative prompts."""

    unet: UNet2DConditionModel
    frames: FrameContext
    embeddings: Tensor | FrameEmbeddings
    """(b, n, d) prompt embeddings, one for each clip; or an object that gives (b*f, n, d) where frames differ."""
    pooled: Tensor | FrameEmbeddings | None = None
    """(b, d) pooled text of SDXL, likewise."""
    time_ids: Tensor | None = None
    """(b, 6) sizes and crops of SDXL."""
    controls: Sequence[Control] = ()
    """Controls, asked at every call; their residuals are added up."""
    windows: Sequence[Window] = ()
    """Windows inside the motion modules, over all frames of a clip that is given at once."""
    motion_scale: Tensor | None = None
    """(f,) for the frames of the whole clip: factor of the motion modules' residual at each."""
    guidance_embeds: Tensor | None = None
    """(b, d) embedding of the guidance scale, of UNets that take it (LCM, arXiv 2310.04378)."""
    image_embeds: Sequence[Tensor] = ()
    """Image embeddings of IP-Adapters, one each: (b, 1, ...) for all frames alike, or (b, f, ...) for all frames."""

    def __call__(self, latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        """latents: (b, c, f, h, w), of these frames of the clip -> prediction of the same shape."""
        num_frames = latents.shape[2]
        embeddings = per_frame(self.embeddings, frames)
        conditions = added_conditions(self.pooled, self.time_ids, frames)
        inputs = UNetInputs(
            latents=rearrange(latents, "b c f h w -> (b f) c h w").to(embeddings.dtype),
            timestep=timestep,
            embeddings=embeddings,
            conditions=conditions,
            frames=frames,
        )
        residuals = (
            blended_residuals(self.controls, inputs, self.windows)
            if self.windows
            else total_residuals(self.controls, inputs)
        )
        added: dict[str, object] | None = None if conditions is None else dict(conditions)
        if self.image_embeds:
            embeds = [part if part.shape[1] == 1 else part[:, list(frames)] for part in self.image_embeds]
            embeds = [part.expand(-1, num_frames, *part.shape[2:]).flatten(0, 1) for part in embeds]
            added = {**(added or {}), "image_embeds": embeds}
        guidance = {}
        if self.guidance_embeds is not None:
            guidance = {"timestep_cond": per_frame(self.guidance_embeds, frames)}
        scale = None if self.motion_scale is None else self.motion_scale[list(frames)]
        with self.frames.during(num_frames, self.windows, scale), layers_in_chunks(self.unet, bool(self.windows)):
            out = self.unet(
                inputs.latents,
                timestep,
                encoder_hidden_states=inputs.embeddings,
                **guidance,
                added_cond_kwargs=added,
                down_block_additional_residuals=None if residuals is None else residuals.down,
                mid_block_additional_residual=None if residuals is None else residuals.mid,
                return_dict=False,
            )[0]
        # The sampler adds up small steps, so it works in float32 whatever the UNet's precision.
        return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames).float()


def guided(predict: Predict, scale: float, rescale: float = 0.0) -> Predict:
    """Classifier-free guidance (arXiv 2207.12598): negative and positive prompts in one batch, then pushed apart.

    rescale: share of the result that gets the standard deviation of the positive prediction (arXiv 2305.08891,
    equations 15 and 16), each clip of its own.
    """

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        negative, positive = predict(torch.cat([latents, latents]), timestep, frames).chunk(2)
        result = negative + scale * (positive - negative)
        if rescale:
            axes = tuple(range(1, result.ndim))
            ratio = positive.std(axes, keepdim=True) / result.std(axes, keepdim=True)
            result = rescale * (result * ratio) + (1 - rescale) * result
        return result

    return call


def windowed(predict: Predict, windows: Sequence[Window]) -> Predict:
    """Predict each window of frames by itself and blend them by their weights; all frames at once without windows."""
    if len(windows) < 2:
        return predict

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        total = torch.zeros_like(latents)
        for window in windows:
            places = torch.tensor(window.frames, device=latents.device)
            output = predict(latents.index_select(2, places), timestep, [frames[place] for place in window.frames])
            total.index_add_(2, places, output * window.share.to(latents)[:, None, None])
        return total

    return call
