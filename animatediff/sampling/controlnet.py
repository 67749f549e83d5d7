"""ControlNets (arXiv 2302.05543) along a clip: each frame is steered by the picture that belongs to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.media.images import as_tensor
from animatediff.sampling.controls import Residuals, UNetInputs, added


@dataclass(frozen=True, kw_only=True)
class ControlNetInput:
    """What a call gives to a loaded ControlNet."""

    frames: Any
    """What it was trained to see (edges, depth, poses, ...), one for each frame of the clip: PIL images, an array
    (f, h, w, 3), or a tensor (f, 3, h, w) or (b, 3, f, h, w) in 0..1; more than the clip has are left out."""
    at: Sequence[int] | None = None
    """Which frames of the clip these are, from 0, if it is not all of them; the others are not steered."""
    spread: Sequence[float] = ()
    """With `at`: how strongly a picture steers the frames before and after its own, the nearest ones first."""
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
    shares: Tensor | None = None
    """(n, f) where there are n pictures that are not one a frame: how strongly each steers each frame."""

    def residuals(self, inputs: UNetInputs) -> Residuals | None:
        """Residuals for these frames; None at other timesteps."""
        if self.scale == 0 or float(inputs.timestep) not in self.active:
            return None
        if self.shares is None:
            return self._steered(inputs, inputs.frames)
        total: Residuals | None = None
        strongest = self.shares[:, list(inputs.frames)].sort(dim=0, descending=True)
        # Each round takes one picture a frame, the strongest that is left: one call of the net for all of them.
        for share, picture in zip(strongest.values, strongest.indices, strict=True):
            places = share.nonzero().flatten()
            if not len(places):
                break
            frames = places.tolist()
            given = self._steered(inputs.of(frames), picture[places].tolist())
            total = added(total, given, inputs, frames, share[places])
        return total

    def _steered(self, inputs: UNetInputs, pictures: Sequence[int]) -> Residuals:
        """Residuals for the frames of `inputs`, each steered by the picture beside it in `pictures`."""
        chosen = self.pictures[:, :, list(pictures)].repeat(inputs.num_clips // len(self.pictures), 1, 1, 1, 1)
        down, mid = self.net(
            inputs.latents,
            inputs.timestep,
            encoder_hidden_states=inputs.embeddings,
            controlnet_cond=chosen.transpose(1, 2).flatten(0, 1).to(inputs.latents.device, inputs.latents.dtype),
            conditioning_scale=self.scale,
            added_cond_kwargs=None if inputs.conditions is None else dict(inputs.conditions),
            return_dict=False,
        )
        return Residuals(tuple(down), mid)


def frame_shares(given: ControlNetInput, num_frames: int, *, loop: bool = False) -> Tensor | None:
    """How strongly each picture steers each frame, (n, num_frames); None where there is a picture for each.

    loop: whether the frames before the first are those at the end. Raises UserError for frames that the clip lacks.

    >>> frame_shares(ControlNetInput(frames=[], at=[1], spread=[0.5]), 4).tolist()
    [[0.5, 1.0, 0.5, 0.0]]
    """
    if given.at is None:
        if given.spread:
            raise UserError("the spread of a ControlNet is for pictures at single frames; say which with `at`")
        return None
    frames = frame_indices(given.at, len(given.at), num_frames)
    shares = torch.zeros(len(frames), num_frames)
    for row, frame in enumerate(frames):
        for distance, share in enumerate((1.0, *given.spread)):
            for place in (frame - distance, frame + distance):
                if loop or 0 <= place < num_frames:
                    shares[row, place % num_frames] = max(share, float(shares[row, place % num_frames]))
    return shares


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
    if given.at is not None:
        if pictures.shape[2] != len(given.at):
            raise UserError(f"a ControlNet has {pictures.shape[2]} pictures, and `at` names {len(given.at)} frames")
        num_frames = len(given.at)
    if pictures.shape[2] < num_frames:
        raise UserError(
            f"a ControlNet has {pictures.shape[2]} frames, but the clip has {num_frames}; give one for each"
        )
    if pictures.shape[0] not in (1, num_clips):
        raise UserError(f"{num_clips} clips want frames for 1 or {num_clips} of them, got {pictures.shape[0]}")
    return pictures[:, :, :num_frames]
