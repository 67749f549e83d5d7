"""Which attention kernel a training step takes, where PyTorch's own choice is a slow one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SHORT = 256
"""Tokens up to which whole attention maps are cheap to keep."""


def short_attention(device: torch.device, num_frames: int, height: int, width: int) -> AbstractContextManager[object]:
    """Attend by plain matrix products on the CPU while clips of latents are small: `height` by `width` in each frame.

    It is for the backward pass, too: gradient checkpointing computes the forward pass there once more.

    PyTorch's flash kernel for the CPU has a slow backward pass: on short sequences a quarter of a step of the bundled
    model in bfloat16. On other devices, and for larger latents, whose maps would not fit, PyTorch chooses.
    """
    small = device.type == "cpu" and max(num_frames, height * width) <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if small else nullcontext()
