"""Device and number format that serve best where neither is given."""

from __future__ import annotations

import torch

from animatediff.errors import UserError

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
    """Half precision where the hardware computes in it: float16 on GPUs, bfloat16 on CPUs that have it."""
    device = torch.device(device)
    if device.type in ("cuda", "mps"):
        return torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def as_dtype(name: str | torch.dtype | None, device: torch.device | str) -> torch.dtype:
    """A dtype from its name; None or "auto" is the best for `device`. Raises UserError for an unknown name."""
    if isinstance(name, torch.dtype):
        return name
    if name is None or name == "auto":
        return default_dtype(device)
    if name not in DTYPES:
        raise UserError(f"unknown dtype {name!r}; known are auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def _cpu_has_bfloat16() -> bool:
    # Emulated bfloat16 is slower than float32, so ask for the instructions themselves.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
