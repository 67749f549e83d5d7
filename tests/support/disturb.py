"""The rounding of other machines, and more, on this one: outputs of UNets that are off by a small share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput


def disturbed(sample: torch.Tensor, share: float) -> torch.Tensor:
    """Each element times 1 + `share` * standard normal. Equal samples get equal disturbances, other ones others."""
    plain = sample.detach().cpu().double() + 0.0  # which makes one zero of the two, so that equal is equal in bytes
    seed = int.from_bytes(hashlib.blake2b(plain.numpy().tobytes(), digest_size=7).digest(), "little")
    noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sample + (plain * noise * share).to(sample)


def disturbing(forward: Callable[..., Any], share: float) -> Callable[..., Any]:
    """`forward` of a UNet with its output disturbed."""

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if isinstance(out, tuple) and not isinstance(out, UNet2DConditionOutput):
            return (disturbed(out[0], share), *out[1:])
        return UNet2DConditionOutput(sample=disturbed(out.sample, share))

    return wrapped
