"""Prompt embeddings frame by frame: blended where a prompt is on its way from one text to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PARALLEL = 0.9995
"""Cosine from which on two vectors count as parallel: the arc between them is a line there."""


@dataclass(frozen=True)
class FrameStates:
    """Prompt embeddings of a few texts, and the two that each frame of each clip blends.

    Blended when a call asks for frames, so that a long clip with few texts takes no more memory than a short one.
    """

    states: Tensor
    """(m, ...), one a distinct text."""
    first: Tensor
    """(b, f) the text that a frame has (1 - share) of."""
    second: Tensor
    """(b, f) the text that it has `share` of."""
    share: Tensor
    """(b, f) in 0..1."""
    along_arc: Sequence[bool]
    """Whether a clip of the b is blended along the arc (slerp) instead of the line."""

    def __call__(self, frames: Sequence[int]) -> Tensor:
        """Prompt embeddings of these frames of every clip, (b*f, ...)."""
        return torch.cat([self._clip(row, list(frames)) for row in range(len(self.along_arc))])

    def rows(self, rows: Sequence[int]) -> FrameStates:
        """Those of some of the b clips."""
        chosen = list(rows)
        return FrameStates(
            self.states,
            self.first[chosen],
            self.second[chosen],
            self.share[chosen],
            [self.along_arc[row] for row in chosen],
        )

    def _clip(self, row: int, frames: list[int]) -> Tensor:
        first = self.states[self.first[row, frames]]
        share = self.share[row, frames].to(first.device)
        if not share.any():
            return first
        share = share.reshape(-1, *[1] * (first.ndim - 1))
        a, b = first.float(), self.states[self.second[row, frames]].float()
        mixed = slerp(a, b, share) if self.along_arc[row] else torch.lerp(a, b, share)
        return torch.where(share == 0, first, mixed.to(first.dtype))


def slerp(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Interpolate from vectors `a` to `b` (..., d) along the arc between them; a line where they are parallel."""
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)[..., None].clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin().clamp_min(1e-6)
    arc = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / sine
    return torch.where(cosine.abs() > PARALLEL, torch.lerp(a, b, share), arc)
