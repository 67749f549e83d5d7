"""Weights stored in fewer bits: float8 with a scale, which is applied, and kinds that are refused by name."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING

from animatediff.weights.storage.files import Header, load_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALES = ("scale_weight", "weight_scale")
"""Names beside a `weight` of the factor that its stored numbers are multiplied by (ComfyUI, old and new)."""
BESIDE_SCALES = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant")
"""Names that go with scales: ranges of inputs for arithmetic in float8, markers of the format."""
QUANTIZED = (
    ((".absmax", ".quant_map", ".nested_absmax"), "bitsandbytes, 4 bits"),
    ((".SCB", ".weight_format"), "bitsandbytes, 8 bits"),
    (("._data", "._scale"), "quanto"),
    ((".qweight", ".qzeros"), "GPTQ or AWQ"),
    ((".weight_scale_2",), "float4"),
    ((".wscales",), "SVDQuant"),
)
"""Ends of keys that only quantized weights have -> their kind."""


def quantization(header: Header, keys: Iterable[str]) -> str | None:
    """The reason why the weights `keys` of a file cannot be used as numbers; None where they can."""
    found = next((kind for ends, kind in QUANTIZED for key in header.tensors if key.endswith(ends)), None)
    if found is None and any("quant_state" in key for key in header.tensors):
        found = "bitsandbytes, 4 bits"
    if found is None:
        whole = next((key for key in keys if "int" in header.tensors[key].dtype and key.endswith("weight")), None)
        found = None if whole is None else f"{header.tensors[whole].dtype} numbers in {whole}"
    if found is None:
        odd = next(
            (key for key in keys if (scale := _scale_key(header, key)) and not _usable(header, key, scale)), None
        )
        found = None if odd is None else f"a scale of shape {header.tensors[_scale_key(header, odd) or ''].shape}"
    return None if found is None else f"quantized weights ({found}), which are not supported; give float16 or float32"


def _scale_key(header: Header, key: str) -> str | None:
    if not key.endswith(".weight"):
        return None
    stem = key.removesuffix("weight")
    return next((stem + name for name in SCALES if stem + name in header.tensors), None)


def _usable(header: Header, key: str, scale: str) -> bool:
    """Whether a scale is one number, or one for each row of the weight."""
    return prod(header.tensors[scale].shape) in (1, header.tensors[key].shape[0])


def scale_of(header: Header, name: str) -> bool:
    """Whether a key belongs to the scale of a weight, so that it is no surplus."""
    stem, _, last = name.rpartition(".")
    if last in SCALES:
        return f"{stem}.weight" in header.tensors if stem else False
    return last in BESIDE_SCALES


def with_scale(header: Header, key: str, dtype: torch.dtype) -> Tensor | None:
    """The weight `key` multiplied by its scale, in `dtype`; None for a weight without one."""
    scale = _scale_key(header, key)
    if scale is None:
        return None
    import torch

    tensors = load_tensors(header, [key, scale], dtype=torch.float32)
    weight = tensors[key]
    return (weight * tensors[scale].reshape(-1, *[1] * (weight.ndim - 1))).to(dtype)
