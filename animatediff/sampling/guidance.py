"""Guidance: predictions with and without the prompt, of each group of clips, put together at each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.fast import FastSteps
from animatediff.sampling.perturbed import PAG
from animatediff.sampling.predict import ClipPredictor


@dataclass(kw_only=True)
class GuidedClips:
    """Predicts the clips of a call.

    Clips whose prompts have other lengths than their neighbours' are predicted by themselves, so that prompt and seed
    alone decide them.
    """

    predictor: ClipPredictor
    groups: Sequence[Conditioning]
    """Clips that go through the UNet together."""
    scale: Callable[[], float]
    """The guidance scale of the next step; at most 1 is without negative prompts."""
    rescale: float = 0.0
    inside: bool = False
    """Whether the UNet takes the guidance scale itself."""
    pag: PAG | None = None
    fast: FastSteps | None = None
    apart: Callable[[], bool] = lambda: False
    """Whether the next step predicts negative prompts and prompts one after the other, which takes less memory."""

    def __call__(self, latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        """latents: (b, c, f, h, w), of these frames of the clips -> prediction of the same shape."""
        if len(self.groups) == 1:
            return self._group(self.groups[0], latents, timestep, frames)
        out = torch.empty_like(latents, dtype=torch.float32)
        for group in self.groups:
            clips = list(group.own)
            out[clips] = self._group(group, latents[clips], timestep, frames)
        return out

    def _group(self, group: Conditioning, latents: Tensor, timestep: Tensor, frames: Sequence[int]) -> Tensor:
        scale = self.scale()
        guidance = scale > 1 and not self.inside
        if guidance and not group.num_negative:
            raise UserError(
                f"guidance_scale became {scale:g} in a step, and there are no embeddings of negative prompts; begin "
                "with a `guidance_scale` above 1, or keep them in `prompt_embeds`"
            )
        rows = list(range(len(group.clips)))
        negative, positive = rows[: group.num_negative], rows[group.num_negative :]
        known = self.fast.difference((tuple(group.own), tuple(frames))) if guidance and self.fast is not None else None
        both = guidance and known is None
        batch = [*(negative if both else ()), *positive, *(positive if self.pag is not None else ())]
        if both and self.pag is None and self.apart():
            parts = [self.predictor(latents, timestep, frames, group.of(rows)) for rows in (negative, positive)]
        else:
            given = group.of(batch)
            stacked = torch.cat([latents] * given.copies) if given.copies > 1 else latents
            layers = None if self.pag is None else self.pag.layers
            parts = self.predictor(stacked, timestep, frames, given, layers).chunk(given.copies)
        prompted = parts[1 if both else 0]
        out = parts[0] + scale * (prompted - parts[0]) if both else prompted
        if both and self.fast is not None:
            self.fast.keep_difference((tuple(group.own), tuple(frames)), prompted - parts[0])
        elif known is not None:
            out = prompted + (scale - 1) * known
        if self.pag is not None:
            out = out + self.pag.at(timestep) * (prompted - parts[-1])
        if guidance and self.rescale:
            return rescaled(out, prompted, self.rescale, each_frame=timestep.ndim > 0)
        return out


def rescaled(result: Tensor, positive: Tensor, share: float, *, each_frame: bool = False) -> Tensor:
    """Give this share of a guided prediction the standard deviation of the positive one, each clip of its own.

    arXiv 2305.08891, equations 15 and 16. each_frame: each frame has its own, as frames (b, c, f, h, w) of several
    noise levels do.
    """
    axes = (1, 3, 4) if each_frame else tuple(range(1, result.ndim))
    ratio = positive.std(axes, keepdim=True) / result.std(axes, keepdim=True)
    return share * (result * ratio) + (1 - share) * result
