"""ControlNets (arXiv 2302.05543) along a clip: an image conditions each frame."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.media.batches import clips_of, for_clips, stacked
from animatediff.sampling.controls import Residuals, UNetInputs, added, for_positive


@dataclass(frozen=True, kw_only=True)
class ControlNetInput:
    """Input of a loaded ControlNet: its conditioning images, at which frames, and how strongly they act."""

    frames: Any
    """Conditioning images (edges, depth, poses, ...), one for each frame of the clip: PIL images, an array
    (f, h, w, 3), or a tensor (f, 3, h, w) or (b, 3, f, h, w) in 0..1; more than the clip has are left out."""
    at: Sequence[int] | None = None
    """Frames of the clip that the images belong to, from 0, if not all of them; the others are not conditioned."""
    spread: Sequence[float] = ()
    """With `at`: weights of an image for the frames before and after its own, the nearest ones first."""
    scale: float = 1.0
    start: float = 0.0
    """Fraction of the steps after which it begins to act."""
    end: float = 1.0
    """Fraction of the steps after which it ends."""


@dataclass(frozen=True, kw_only=True)
class ControlNetControl:
    """A ControlNet with the images of one call, as the denoising loop asks it for residuals."""

    controlnet: Any
    """A `ControlNetModel`."""
    images: Tensor
    """(1 or b, 3, f, H, W) in 0..1, on the CPU."""
    scale: float
    active: Container[float]
    """Timesteps at which it acts."""
    weights: Tensor | None = None
    """(n, f) where n images are at some frames: how strongly each acts on each frame; None for one image per frame."""
    spares_negatives: bool = False
    """Whether clips of negative prompts are not conditioned."""
    guess: bool = False
    """Guess mode: as well, and deeper layers act more than outer ones."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for these frames; None at other timesteps."""
        if self.scale == 0 or float(inputs.timestep) not in self.active:
            return None
        if self.weights is None:
            return self._conditioned(inputs, inputs.frames)
        total: Residuals | None = None
        strongest = self.weights[:, list(inputs.frames)].sort(dim=0, descending=True)
        # Each round takes one image per frame, the strongest that is left: one call of the ControlNet for all of them.
        for weight, image in zip(strongest.values, strongest.indices, strict=True):
            places = weight.nonzero().flatten()
            if not len(places):
                break
            frames = places.tolist()
            residuals = self._conditioned(inputs.of(frames), image[places].tolist())
            total = added(total, residuals, inputs, frames, weight[places])
        return total

    def _conditioned(self, inputs: UNetInputs, images: Sequence[int]) -> Residuals:
        """Residuals for the frames of `inputs`, each conditioned by the image in the same place of `images`."""

        def ask(inputs: UNetInputs) -> Residuals:
            chosen = inputs.images(self.images[:, :, list(images)])
            down, mid = self.controlnet(
                inputs.latents,
                inputs.timestep,
                encoder_hidden_states=inputs.embeddings,
                controlnet_cond=chosen.transpose(1, 2).flatten(0, 1).to(inputs.latents.device, inputs.latents.dtype),
                conditioning_scale=self.scale,
                guess_mode=self.guess,
                added_cond_kwargs=None if inputs.conditions is None else dict(inputs.conditions),
                return_dict=False,
            )
            return Residuals(tuple(down), mid)

        return for_positive(inputs, ask) if self.spares_negatives or self.guess else ask(inputs)


def frame_weights(given: ControlNetInput, num_frames: int, *, loop: bool = False) -> Tensor | None:
    """Return the weight of each image for each frame, (n, num_frames); None where there is an image for each frame.

    loop: whether the last frames come before the first. Raises UserError for frames that the clip lacks.

    >>> frame_weights(ControlNetInput(frames=[], at=[1], spread=[0.5]), 4).tolist()
    [[0.5, 1.0, 0.5, 0.0]]
    """
    if given.at is None:
        if given.spread:
            raise UserError("the spread of a ControlNet is for images at single frames; say which with `at`")
        return None
    frames = frame_indices(given.at, len(given.at), num_frames)
    weights = torch.zeros(len(frames), num_frames)
    for row, frame in enumerate(frames):
        for distance, weight in enumerate((1.0, *given.spread)):
            for place in (frame - distance, frame + distance):
                if loop or 0 <= place < num_frames:
                    weights[row, place % num_frames] = max(weight, float(weights[row, place % num_frames]))
    return weights


def controlnet_images(controlnet: Any, given: ControlNetInput, shape: tuple[int, ...], each: int = 1) -> Tensor:
    """Return `ControlNetControl.images` for latents of `shape` (b, c, f, h, w), at the size the ControlNet takes.

    each: clips of each prompt, which may share their images. Raises UserError for too few images, for another number
    of clips, and for fractions of the steps out of range.
    """
    num_clips, _, num_frames, height, width = shape
    if not 0 <= given.start <= given.end <= 1:
        raise UserError(
            f"start and end of a ControlNet are fractions of the steps, 0 <= start <= end <= 1; got {given.start:g} "
            f"and {given.end:g}"
        )
    # each layer of the conditioning embedding but the first halves the image
    factor = 2 ** (len(controlnet.config["conditioning_embedding_out_channels"]) - 1)
    images = stacked(clips_of(given.frames), width * factor, height * factor, "frames of a ControlNet", num_frames)
    if images.shape[1] != 3:
        raise UserError(f"frames of a ControlNet are images of 3 channels, got {tuple(images.shape)}")
    if given.at is not None:
        if images.shape[2] != len(given.at):
            raise UserError(f"a ControlNet has {images.shape[2]} images, and `at` names {len(given.at)} frames")
        num_frames = len(given.at)
    if images.shape[2] < num_frames:
        raise UserError(f"a ControlNet has {images.shape[2]} frames, but the clip has {num_frames}; give one for each")
    return for_clips(images, num_clips, each, "frames")[:, :, :num_frames]
