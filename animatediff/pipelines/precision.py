"""Device and number format that serve best where neither is given, and numbers that are beyond a format."""

from __future__ import annotations

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.number_probe import fastest_on_cpu

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def default_device() -> torch.device:
    """CUDA (or ROCm) if there, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def default_dtype(device: torch.device | str) -> torch.dtype:
    """float16 on GPUs; on a CPU what a short probe finds fastest (`number_probe`)."""
    device = torch.device(device)
    if device.type in ("cuda", "mps"):
        return torch.float16
    return fastest_on_cpu() if device.type == "cpu" else torch.float32


def as_dtype(name: str | torch.dtype | None, device: torch.device | str) -> torch.dtype:
    """A dtype from its name; None or "auto" is the best for `device`. Raises UserError for an unknown name."""
    if isinstance(name, torch.dtype):
        return name
    if name is None or name == "auto":
        return default_dtype(device)
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; known are auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_finite(latents: Tensor, dtype: torch.dtype) -> None:
    """Raise UserError where latents are not finite. dtype: of the UNet."""
    if latents.isfinite().all():
        return
    reason = (
        f"{dtype} is too narrow for this model; use float32 or bfloat16"
        if dtype == torch.float16
        else "weights of the model or of what is added to it are not finite, or act too strongly; leave out LoRAs and "
        "other additions one by one"
    )
    raise UserError(f"the latents are not finite: {reason}")
