"""Changes of a layer's weight that are no low-rank pair, as one tensor in the layer's own shape.

The formulas are LyCORIS' own (`lycoris.functional`); strength multiplies the whole change at run time, as in A1111's
web page and ComfyUI. What depends on the weights of the model (GLoRA, OFT, IA3, DoRA) starts from the base model's,
whatever other LoRAs are on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Parts = Mapping[str, "Tensor"]


def layer_delta(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor | None:
    """The sum of all changes of `weight` in `parts`, in float32 and its shape; None if there are none.

    `parts` are named as in `methods.py`, and `down` and `up` of a low-rank pair. alpha None is the rank. Raises
    ValueError or RuntimeError for shapes that do not fit.
    """
    weight = weight.detach().float()
    parts = {name: value.to(weight.device).float() for name, value in parts.items()}
    factor = float(parts["scalar"]) if "scalar" in parts else 1.0
    total: Tensor | None = None
    for first, delta in _DELTAS.items():
        if any(name in parts for name in first):
            change = _in_shape(delta(parts, alpha, weight), weight)
            if first not in _UNSCALED:
                change = change * factor
            total = change if total is None else total + change
    if "dora_scale" in parts:
        total = _decomposed(weight, total, parts["dora_scale"])
    return total


def _in_shape(change: Tensor, weight: Tensor) -> Tensor:
    if change.shape[0] != weight.shape[0] or change.numel() != weight.numel():
        raise ValueError(f"it makes a change of shape {tuple(change.shape)}")
    return change.reshape(weight.shape)


def _scale(parts: Parts, alpha: float | None, rank: int) -> float:
    """`scale`, which A1111 reads in place of alpha / rank, or alpha / rank, or 1."""
    if "scale" in parts:
        return float(parts["scale"])
    return 1.0 if alpha is None else alpha / rank


def _pair(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    from lycoris.functional import tucker_weight_from_conv

    down, up = parts["down"], parts["up"]
    if "lora_mid" in parts:
        change = tucker_weight_from_conv(up, down, parts["lora_mid"])
    else:
        change = up.flatten(1) @ down.flatten(1)
    return change * _scale(parts, alpha, down.shape[0])


def _loha(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    import torch
    from lycoris.functional import loha

    names = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a")
    cores = (parts.get("hada_t1"), parts.get("hada_t2"))
    one: Any = torch.ones((), device=weight.device)  # a number by annotation, a tensor in use
    change = loha.diff_weight(*(parts[name] for name in names), *cores, gamma=one, backend="torch")
    return change * _scale(parts, alpha, parts["hada_w1_b"].shape[0])


def _lokr(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    from lycoris.functional import lokr

    names = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
    low = parts.get("lokr_w2_b", parts.get("lokr_w1_b"))
    scale = _scale(parts, None if low is None else alpha, 1 if low is None else low.shape[0])  # whole factors: 1
    return lokr.kron_weight(*map(parts.get, names), scale=scale, backend="torch")


def _glora(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    """W a1 a2 + b1 b2; before LyCORIS 2 the two of each half had each other's names."""
    import torch

    a1, a2, b1, b2 = (parts[name].flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if a1.shape[0] != weight.shape[1] or b1.shape[0] != weight.shape[0]:
        a1, a2, b1, b2 = a2, a1, b2, b1
    change = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2) + (b1 @ b2).reshape(weight.shape)
    return change * _scale(parts, alpha, a2.shape[0])


def _oft(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    """Rotations of the outputs, block by block, or a butterfly of them; alpha bounds the angles, and is no scale."""
    from lycoris.functional import boft, diag_oft

    blocks, rescale = parts["oft_blocks"], parts.get("rescale")
    if rescale is not None:
        rescale = rescale.reshape(-1, *(1 for _ in weight.shape[1:]))
    kind = boft if blocks.ndim == 4 else diag_oft
    return kind.diff_weight(weight, blocks, rescale, constraint=(alpha or 0) * weight.shape[0], backend="torch")


def _ia3(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    factors = parts["weight"].flatten()
    axis = int(parts["on_input"].any())
    return weight * factors.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])


def _difference(parts: Parts, alpha: float | None, weight: Tensor) -> Tensor:
    if "set_weight" in parts:
        return _in_shape(parts["set_weight"], weight) - weight
    return parts["diff"] if "diff" in parts else parts["w_norm"]


_DELTAS: dict[tuple[str, ...], Callable[[Parts, float | None, Tensor], Tensor]] = {
    ("down",): _pair,
    ("hada_w1_a",): _loha,
    ("lokr_w1", "lokr_w1_a"): _lokr,
    ("a1",): _glora,
    ("oft_blocks",): _oft,
    ("on_input",): _ia3,
    ("diff", "set_weight", "w_norm"): _difference,
}
"""Names of which any one says that a layer has this kind of change -> the change."""
_UNSCALED = {("oft_blocks",), ("on_input",), ("diff", "set_weight", "w_norm")}
"""Changes that no `scalar` multiplies."""


def per_input(magnitude: Tensor) -> bool:
    """Whether magnitudes of a DoRA are those of inputs, as early LyCORIS trained them; PEFT's are of outputs."""
    return magnitude.ndim > 1 and magnitude.shape[0] == 1


def _decomposed(weight: Tensor, change: Tensor | None, magnitude: Tensor) -> Tensor:
    """DoRA (arXiv 2402.09353), eq. 5: norms become `magnitude`, those of outputs (out, 1) or of inputs (1, in)."""
    import torch

    total = weight.double() if change is None else weight.double() + change.double()
    flat = magnitude.double().flatten()
    axis = int(per_input(magnitude))
    if flat.numel() != weight.shape[axis]:
        raise ValueError(f"its magnitudes are {flat.numel()}")
    others = tuple(i for i in range(weight.ndim) if i != axis)
    norm = torch.linalg.vector_norm(total, dim=others, keepdim=True)
    return (total * flat.reshape(norm.shape) / norm - weight.double()).float()
