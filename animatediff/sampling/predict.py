"""Predictions of a sampling step: the image UNet with motion modules, over the frames of one or more clips."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from animatediff.memory.measures import InUse
from animatediff.models.residuals import Residuals
from animatediff.motion import FrameContext, Window
from animatediff.sampling.camera import CameraPoses
from animatediff.sampling.chunks import CHUNK_SIZE, layers_in_chunks, motion_in_chunks
from animatediff.sampling.conditions import Conditioning, added_conditions, per_frame
from animatediff.sampling.controls import Control, UNetInputs, blended_residuals, total_residuals
from animatediff.sampling.fast import FastSteps
from animatediff.sampling.image_features import ImageFeatures
from animatediff.sampling.motion_from import MotionSource
from animatediff.sampling.motion_from import Residuals as MotionResiduals
from animatediff.sampling.perturbed import PerturbedLayers, identity_attention
from animatediff.sampling.prompt_keys import PromptKeys
from animatediff.sampling.resume import ResumedSampling
from animatediff.sampling.shared_rows import first_layers_once

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Predict = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""(latents (b, c, f, h, w), timestep, which f frames of the clip these are) -> the prediction, of the same shape.

The timestep is one of all frames, or (f,), where each has its own.
"""

_OF_NEGATIVES = ("guess", "spares_negatives")
"""Attributes of controls that spare the clips of negative prompts."""


@dataclass(kw_only=True)
class ClipPredictor:
    """Calls the UNet on clips. Which rows of the conditioning a batch has is said at each call."""

    unet: UNet2DConditionModel
    frames: FrameContext
    controls: Sequence[Control] = ()
    """Controls, asked at every call; their residuals are added up."""
    features: ImageFeatures | None = None
    """Features of an image, added in the down blocks for every frame."""
    windows: Sequence[Window] = ()
    """Windows inside the motion modules, over all frames of a clip that is given at once."""
    motion_scale: Tensor | None = None
    """(f,) for the frames of the whole clip: factor of the motion modules' residual at each."""
    attention: Mapping[str, Any] | None = None
    """Further arguments of the UNet's attention processors (`cross_attention_kwargs`)."""
    fast: FastSteps | None = None
    """Fast mode, where layers are left out of some steps."""
    saving: InUse = field(default_factory=InUse)
    """Measures against too little memory."""
    camera: CameraPoses | None = None
    """Camera poses that the motion modules take."""
    motion: MotionSource | None = None
    """Videos whose movement the clips take."""

    def __post_init__(self) -> None:
        self._prompt_keys = PromptKeys(self.unet)
        self._alone = self
        if self.motion is not None:
            self._alone = replace(self, controls=(), features=None, fast=None, camera=None, motion=None)

    def __call__(
        self,
        latents: Tensor,
        timestep: Tensor,
        frames: Sequence[int],
        given: Conditioning,
        perturbed: PerturbedLayers | None = None,
        residuals: MotionResiduals | None = None,
    ) -> Tensor:
        """latents: (r, c, f, h, w), of these frames of the clips -> prediction of the same shape.

        perturbed: layers whose attention is the identity in the last third of the rows, without guidance half.
        residuals: sees what motion modules add, and may return something else.
        """
        num_frames = latents.shape[2]
        timestep = timestep.repeat(len(latents)) if timestep.ndim else timestep  # (r*f,), or one for all
        embeddings = per_frame(given.embeddings, frames)
        conditions = added_conditions(given.pooled, given.time_ids, frames)
        # the layout decides which kernels run: that of latents from a VAE, or from a saved state, must not
        sample = rearrange(latents, "b c f h w -> (b f) c h w").to(embeddings.dtype).contiguous()
        inputs = UNetInputs(
            latents=sample,
            timestep=timestep,
            embeddings=embeddings,
            conditions=conditions,
            frames=frames,
            clips=given.clips,
            num_negative=given.num_negative,
        )
        rows = row_names(given, frames)
        full = self.fast is None or self.fast.full or not self.fast.features.has(rows)
        controls = self._residuals(inputs) if full or self.fast is None else self.fast.features.residuals(rows)
        if full and self.fast is not None:
            self.fast.features.keep_residuals(rows, controls)
        if self.motion is not None and full:  # what fast mode continues has the movement in it already
            residuals = self.motion.over(self._alone, timestep, frames, given)
        added: dict[str, object] | None = None if conditions is None else dict(conditions)
        if given.image_embeds:
            embeds = [part if part.shape[1] == 1 else part[:, list(frames)] for part in given.image_embeds]
            embeds = [part.expand(-1, num_frames, *part.shape[2:]).flatten(0, 1) for part in embeds]
            added = {**(added or {}), "image_embeds": embeds}
        guidance = {}
        if given.guidance_embeds is not None:
            guidance = {"timestep_cond": per_frame(given.guidance_embeds, frames)}
        scale = None if self.motion_scale is None else self.motion_scale[list(frames)]
        channels = None
        if given.image_channels is not None:
            channels = rearrange(given.image_channels[:, :, list(frames)], "b c f h w -> (b f) c h w")
            channels = channels.to(inputs.latents)
        camera = None if self.camera is None else self.camera.merges(given.clips, frames, embeddings.dtype)
        # identity attention counts the rows of a batch, which chunks would cut
        whole, measures = perturbed is not None, self.saving.measures
        images = measures.images or (CHUNK_SIZE if self.windows else None)
        chunked = layers_in_chunks(self.unet, images is not None and not whole, images or CHUNK_SIZE)
        parts = 0 if perturbed is None else 3 if given.num_negative else 2
        with (
            nullcontext() if self.fast is None else self.fast.features.call(rows, self.fast.step, full=full),
            self.frames.during(num_frames, self.windows, scale, channels, self._features(inputs), camera, residuals),
            chunked,
            first_layers_once(self.unet, given.copies, perturbed=perturbed, attention=self.attention),
            motion_in_chunks(self.unet, None if whole else measures.sequences),
            identity_attention(perturbed, parts),
            self._prompt_keys.during(given, embeddings),
        ):
            out = self.unet(
                inputs.latents,
                timestep,
                encoder_hidden_states=inputs.embeddings,
                **guidance,
                cross_attention_kwargs=None if self.attention is None else dict(self.attention),
                added_cond_kwargs=added,
                down_block_additional_residuals=None if controls is None else controls.down,
                mid_block_additional_residual=None if controls is None else controls.mid,
                return_dict=False,
            )[0]
        # The sampler adds up small steps, so it works in float32 whatever the UNet's precision.
        return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames).float()

    @property
    def separable(self) -> bool:
        """Whether rows may be predicted one after the other: no control tells negative prompts from others."""
        return not any(getattr(control, name, False) for control in self.controls for name in _OF_NEGATIVES)

    def _features(self, inputs: UNetInputs) -> list[Tensor]:
        if self.features is None:
            return []
        levels = self.features.of(inputs.frames)
        return [rearrange(inputs.images(level), "b c f h w -> (b f) c h w").to(inputs.latents) for level in levels]

    def _residuals(self, inputs: UNetInputs) -> Residuals | None:
        if self.windows:
            return blended_residuals(self.controls, inputs, self.windows)
        return total_residuals(self.controls, inputs)


def row_names(given: Conditioning, frames: Sequence[int]) -> list[Hashable]:
    """A name for each row of a batch: its clip, whether it is perturbed (a third part), which frames.

    None for rows without the prompt, which no shallow call has.
    """
    names: list[Hashable] = []
    for place, clip in enumerate(given.clips):
        if place < given.num_negative:
            names.append(None)
            continue
        again = (clip, "prompt", *frames) in names
        names.append((clip, "perturbed" if again else "prompt", *frames))
    return names


def windowed(predict: Predict, windows: Sequence[Window], resumed: ResumedSampling | None = None) -> Predict:
    """Predict each window of frames by itself and blend them by their weights; all frames at once without windows.

    resumed: knows which windows of a step are done already, and is told of each that is.
    """
    if len(windows) < 2:
        return predict

    def call(latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        done, total = (0, None) if resumed is None else resumed.windows_done()
        total = torch.zeros_like(latents) if total is None else total
        for number, window in enumerate(windows[done:], start=done + 1):
            places = torch.tensor(window.frames, device=latents.device)
            output = predict(latents.index_select(2, places), timestep, [frames[place] for place in window.frames])
            total.index_add_(2, places, output * window.share.to(latents)[:, None, None])
            if resumed is not None and number < len(windows):
                resumed.after_window(number, total)
        return total

    return call
