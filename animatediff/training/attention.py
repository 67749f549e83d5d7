"""Which attention kernel a training step takes, where PyTorch's own choice is a slow one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 256
"""Tokens up to which whole attention maps are cheap to keep."""


def short_attention(latents: Tensor) -> AbstractContextManager[object]:
    """Attend by plain matrix products on the CPU while latents (b, f, c, h, w) are small.

    PyTorch's flash kernel for the CPU has a slow backward pass: on short sequences a quarter of a step of the bundled
    model in bfloat16. On other devices, and for larger latents, whose maps would not fit, PyTorch chooses.
    """
    small = latents.device.type == "cpu" and max(latents.shape[1], latents.shape[-2] * latents.shape[-1]) <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if small else nullcontext()
