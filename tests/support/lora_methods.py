"""Layers' changes by every method that LoRA files have: the tensors of a file, and the change computed by formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

State = dict[str, Tensor]
Method = Callable[[Tensor], tuple[State, Tensor]]
"""From the weight of a layer to a file's tensors, without the layer's name, and the change in float64."""


def noise(*shape: int, std: float = 0.2) -> Tensor:
    return torch.randn(*shape) * std


def loha(weight: Tensor) -> tuple[State, Tensor]:
    out, inner, rank = weight.shape[0], weight[0].numel(), 4
    parts = {
        f"hada_w{i}_{side}": noise(*((out, rank) if side == "a" else (rank, inner))) for i in (1, 2) for side in "ab"
    }
    first, second = (parts[f"hada_w{i}_a"].double() @ parts[f"hada_w{i}_b"].double() for i in (1, 2))
    return parts | {"alpha": torch.tensor(2.0)}, 2 / rank * (first * second).reshape(weight.shape)


def loha_tucker(weight: Tensor) -> tuple[State, Tensor]:
    if weight.ndim == 2 or weight.shape[2] == 1:
        return loha(weight)
    out, inner, rank = weight.shape[0], weight.shape[1], 3
    parts: State = {}
    for i in (1, 2):
        parts |= {
            f"hada_t{i}": noise(rank, rank, 3, 3),
            f"hada_w{i}_a": noise(rank, out),
            f"hada_w{i}_b": noise(rank, inner),
        }
    first, second = (
        torch.einsum("pqhw,po,qi->oihw", *(parts[f"hada_{name}"].double() for name in (f"t{i}", f"w{i}_a", f"w{i}_b")))
        for i in (1, 2)
    )
    return parts | {"alpha": torch.tensor(1.5)}, 1.5 / rank * first * second


def lokr(weight: Tensor) -> tuple[State, Tensor]:
    out, inner, rank = weight.shape[0] // 4, weight.shape[1] // 2, 2
    kernel = weight.shape[2:]
    parts = {"lokr_w1": noise(4, 2), "lokr_w2_a": noise(out, rank), "lokr_w2_b": noise(rank, inner * math.prod(kernel))}
    low = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(out, inner, *kernel)
    first = parts["lokr_w1"].double().reshape(4, 2, *(1 for _ in kernel))
    return parts | {"alpha": torch.tensor(1.0)}, torch.kron(first, low.contiguous()) / rank


def lokr_whole(weight: Tensor) -> tuple[State, Tensor]:
    """Both factors whole: alpha, which trainers write all the same, says nothing."""
    parts = {"lokr_w1": noise(4, 2), "lokr_w2": noise(weight.shape[0] // 4, weight.shape[1] // 2, *weight.shape[2:])}
    first = parts["lokr_w1"].double().reshape(4, 2, *(1 for _ in weight.shape[2:]))
    return parts | {"alpha": torch.tensor(7.0)}, torch.kron(first, parts["lokr_w2"].double())


def lokr_low(weight: Tensor) -> tuple[State, Tensor]:
    """Both factors low-rank, with a Tucker core for convolutions."""
    out, inner, kernel = weight.shape[0] // 4, weight.shape[1] // 4, weight.shape[2:]
    parts = {"lokr_w1_a": noise(4, 2), "lokr_w1_b": noise(2, 4)}
    if math.prod(kernel) > 1:
        parts |= {"lokr_t2": noise(2, 2, *kernel), "lokr_w2_a": noise(2, out), "lokr_w2_b": noise(2, inner)}
        names = ("lokr_t2", "lokr_w2_a", "lokr_w2_b")
        second = torch.einsum("pqhw,po,qi->oihw", *(parts[name].double() for name in names))
    else:
        parts |= {"lokr_w2_a": noise(out, 2), "lokr_w2_b": noise(2, inner)}
        second = (parts["lokr_w2_a"].double() @ parts["lokr_w2_b"].double()).reshape(out, inner, *kernel)
    first = (parts["lokr_w1_a"].double() @ parts["lokr_w1_b"].double()).reshape(4, 4, *(1 for _ in kernel))
    return parts | {"alpha": torch.tensor(3.0)}, 3 / 2 * torch.kron(first, second.contiguous())


def tucker(weight: Tensor) -> tuple[State, Tensor]:
    out, inner, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    if not kernel:
        return pair(weight)
    parts = {"lora_down.weight": noise(3, inner, 1, 1), "lora_mid.weight": noise(3, 3, *kernel),
             "lora_up.weight": noise(out, 3, 1, 1)}  # fmt: skip
    down, mid, up = (tensor.double() for tensor in parts.values())
    change = torch.einsum("op,pqhw,qi->oihw", up.flatten(1), mid, down.flatten(1))
    return parts | {"alpha": torch.tensor(2.0)}, 2 / 3 * change


def pair(weight: Tensor) -> tuple[State, Tensor]:
    out, inner, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    parts = {"lora_down.weight": noise(4, inner, *kernel), "lora_up.weight": noise(out, 4, *(1 for _ in kernel))}
    change = parts["lora_up.weight"].double().flatten(1) @ parts["lora_down.weight"].double().flatten(1)
    return parts | {"alpha": torch.tensor(2.0)}, 2 / 4 * change.reshape(weight.shape)


def with_scalar(weight: Tensor) -> tuple[State, Tensor]:
    parts, change = loha(weight) if weight.ndim == 4 else pair(weight)
    return parts | {"scalar": torch.tensor(0.6)}, change * float(torch.tensor(0.6))


def with_scale(weight: Tensor) -> tuple[State, Tensor]:
    parts, change = pair(weight)
    return parts | {"scale": torch.tensor(0.25)}, change / 2  # alpha / rank is 0.5


def glora(weight: Tensor) -> tuple[State, Tensor]:
    out, inner, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    one = [1 for _ in kernel]
    parts = {"a1.weight": noise(inner, 4, *one), "a2.weight": noise(4, inner, *one),
             "b1.weight": noise(out, 4, *one), "b2.weight": noise(4, inner, *kernel)}  # fmt: skip
    a1, a2, b1, b2 = (tensor.double().flatten(1) for tensor in parts.values())
    change = torch.einsum("oi...,ij->oj...", weight.double(), a1 @ a2) + (b1 @ b2).reshape(weight.shape)
    return parts | {"alpha": torch.tensor(2.0)}, change / 2


def glora_of_old(weight: Tensor) -> tuple[State, Tensor]:
    parts, change = glora(weight)
    if weight.ndim == 4:  # convolutions came later
        return parts, change
    swap = {"a1.weight": "a2.weight", "a2.weight": "a1.weight", "b1.weight": "b2.weight", "b2.weight": "b1.weight"}
    return {swap.get(name, name): value for name, value in parts.items()}, change


def cayley(blocks: Tensor, bound: float) -> Tensor:
    skew = blocks.double() - blocks.double().transpose(-1, -2)
    norm = skew.norm()
    skew = skew * (bound / norm if 0 < bound < norm else 1.0)
    eye = torch.eye(blocks.shape[-1], dtype=torch.float64)
    return (eye + skew) @ torch.linalg.inv(eye - skew)


def oft(weight: Tensor, *, rescale: bool = False) -> tuple[State, Tensor]:
    """As sd-scripts: rotations of blocks of outputs, of at most alpha * outputs."""
    blocks, alpha = noise(weight.shape[0] // 8, 8, 8), 0.03
    turned = torch.einsum(
        "knm,kn...->km...", cayley(blocks, alpha * weight.shape[0]), weight.double().unflatten(0, (-1, 8))
    )
    parts = {"oft_blocks": blocks, "alpha": torch.tensor(alpha)}
    turned = turned.flatten(0, 1)
    if rescale:
        parts["rescale"] = 1 + noise(weight.shape[0], *(1 for _ in weight.shape[1:]))
        turned = turned * parts["rescale"].double()
    return parts, turned - weight.double()


def boft(weight: Tensor) -> tuple[State, Tensor]:
    """Butterflies (arXiv 2311.06243): stage i mixes outputs that are 2^i half blocks apart."""
    size, out = 4, weight.shape[0]
    blocks = noise(3, out // size, size, size)
    turns, found = cayley(blocks, 0), weight.double()
    for stage in range(3):
        half = 2**stage * size // 2
        order = torch.arange(out).reshape(-1, 2, half).transpose(1, 2).flatten()  # out -> place among blocks
        mixed = torch.einsum("bij,bj...->bi...", turns[stage], found[order].unflatten(0, (-1, size))).flatten(0, 1)
        found = torch.empty_like(found)
        found[order] = mixed
    return {"oft_blocks": blocks}, found - weight.double()


def ia3(weight: Tensor, *, on_input: bool = False) -> tuple[State, Tensor]:
    dim = weight.shape[int(on_input)]
    factors = noise(dim) if weight.ndim == 2 else noise(1, dim, 1, 1)
    shape = [1] * weight.ndim
    shape[int(on_input)] = dim
    return {"weight": factors, "on_input": torch.tensor(int(on_input))}, weight.double() * factors.double().reshape(
        shape
    )


def difference(weight: Tensor) -> tuple[State, Tensor]:
    change = noise(*weight.shape)
    return {"diff": change}, change.double()


def replaced(weight: Tensor) -> tuple[State, Tensor]:
    new = noise(*weight.shape)
    return {"set_weight": new}, new.double() - weight.double()


def dora_of(method: Method, axis: int) -> Method:
    def made(weight: Tensor) -> tuple[State, Tensor]:
        parts, change = method(weight)
        total = weight.double() + change
        others = [i for i in range(weight.ndim) if i != axis]
        norm = torch.linalg.vector_norm(total, dim=others, keepdim=True)
        magnitude = (norm * (1 + 0.2 * torch.rand_like(norm))).float()
        return parts | {"dora_scale": magnitude}, total * magnitude.double() / norm - weight.double()

    return made


METHODS: dict[str, Method] = {
    "loha": loha, "loha_tucker": loha_tucker, "lokr": lokr, "lokr_whole": lokr_whole, "lokr_low": lokr_low,
    "tucker": tucker, "scalar": with_scalar, "scale": with_scale, "glora": glora, "glora_of_old": glora_of_old,
    "oft": oft, "oft_rescaled": lambda weight: oft(weight, rescale=True), "boft": boft, "ia3": ia3,
    "ia3_on_input": lambda weight: ia3(weight, on_input=True), "diff": difference, "set_weight": replaced,
    "dora": dora_of(pair, 0), "dora_on_input": dora_of(pair, 1), "dora_of_loha": dora_of(loha, 0),
    "dora_of_lokr": dora_of(lokr, 1), "dora_of_tucker": dora_of(tucker, 0),
}  # fmt: skip
