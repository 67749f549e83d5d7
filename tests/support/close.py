"""How far results are apart, relative to their size: rounding differs between CPUs, and grows with the numbers."""

from __future__ import annotations

from typing import Any

import torch


def relative(found: Any, expected: Any) -> float:
    """Norm of the difference over the norm of `expected`, in float64; tensors, arrays or numbers of one shape.

    Rounding is below 1e-6 for the output of a UNet, below 1e-5 for a clip. A limit of 1e-5 to 5e-5 passes everywhere,
    and faults are seen: prompts, windows, controls and neighbours change even the clips of small models by 5e-4 to 1.
    What is not a number is neither close nor far.
    """
    a, b = (torch.as_tensor(x).detach().double() for x in (found, expected))
    assert a.shape == b.shape, f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}"
    difference, size = float((a - b).norm()), float(b.norm())
    return difference / size if size else float("inf") if difference else 0.0
