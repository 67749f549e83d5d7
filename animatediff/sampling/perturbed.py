"""Perturbed-attention guidance (PAG, arXiv 2403.17377): away from what is made where attention is the identity.

A third prediction, with the prompt, sees itself instead of all places in some self-attention layers of the image, and
instead of all frames in those of the motion modules. Image layers get diffusers' processors for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.motion.module import TemporalAttention


@dataclass(frozen=True)
class PerturbedLayers:
    """Self-attention layers that become the identity."""

    image: Sequence[Any]
    """`Attention` layers of diffusers."""
    motion: Sequence[TemporalAttention]


@dataclass(frozen=True, kw_only=True)
class PAG:
    """Settings of perturbed-attention guidance."""

    layers: PerturbedLayers
    scale: float
    adaptive_scale: float = 0.0
    """How much of the scale is taken away with each timestep below 1000."""

    def at(self, timestep: Tensor) -> float | Tensor:
        """The scale at a timestep; at those of f frames (f,) one for each, (f, 1, 1)."""
        if not self.adaptive_scale:
            return self.scale
        if timestep.ndim:
            return (self.scale - self.adaptive_scale * (1000 - timestep)).clamp_min(0)[:, None, None]
        return max(0.0, self.scale - self.adaptive_scale * (1000 - float(timestep)))


def perturbed_layers(unet: nn.Module, names: Sequence[str]) -> PerturbedLayers:
    """The self-attention layers whose path has one of the `names`, patterns such as `mid` or `down_blocks.1.*attn1`.

    As in diffusers: a pattern that ends with a number means no layer whose path ends with it. Raises UserError for a
    name that no layer has.
    """
    from diffusers.models.attention_processor import Attention

    chosen: dict[str, Any] = {}
    layers = {
        path: layer
        for path, layer in unet.named_modules()
        if isinstance(layer, TemporalAttention) or (isinstance(layer, Attention) and not layer.is_cross_attention)
    }
    for name in names:
        try:
            found = {path: layer for path, layer in layers.items() if re.search(name, path) and not _ends(name, path)}
        except re.error as error:
            raise UserError(f"`pag_applied_layers`: {name!r} is no pattern ({error}); try 'mid'") from None
        if not found:
            raise UserError(
                f"`pag_applied_layers`: no self-attention layer of this model is called {name!r}; try 'mid', 'down' or "
                f"'up', or a part of a path such as {next(iter(layers), 'mid_block.attentions.0')}"
            )
        chosen |= found
    motion = [layer for layer in chosen.values() if isinstance(layer, TemporalAttention)]
    return PerturbedLayers([layer for layer in chosen.values() if not isinstance(layer, TemporalAttention)], motion)


def _ends(name: str, path: str) -> bool:
    ours, theirs = name.rpartition(".")[2], path.rpartition(".")[2]
    return ours.isnumeric() and ours == theirs


@contextmanager
def identity_attention(layers: PerturbedLayers | None, parts: int) -> Iterator[None]:
    """Let attention be the identity in the last of so many equal parts of a batch, for one call of the UNet."""
    if layers is None:
        yield
        return
    from diffusers.models.attention_processor import (
        PAGCFGIdentitySelfAttnProcessor2_0,
        PAGIdentitySelfAttnProcessor2_0,
    )

    processor = PAGCFGIdentitySelfAttnProcessor2_0() if parts == 3 else PAGIdentitySelfAttnProcessor2_0()
    before = [layer.processor for layer in layers.image]
    for layer in layers.image:
        layer.set_processor(processor)
    for layer in layers.motion:
        layer.identity_part = parts
    try:
        yield
    finally:
        for layer, own in zip(layers.image, before, strict=True):
            layer.set_processor(own)
        for layer in layers.motion:
            layer.identity_part = 0
