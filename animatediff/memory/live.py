"""Bytes of tensors that are alive: counted while a computation runs, on tensors with or without contents.

On the meta device nothing is computed and nothing is allocated, and yet the same modules make and drop the same
tensors. So a run of them there tells what a run with weights will need, but for two things that are put right by hand:
attention, which meta tensors take by the whole matrix of its weights, is taken as a fused kernel does; and what
convolutions set aside on a CPU for the time they run is added.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

_ATEN: Any = torch.ops.aten
_ELEMENTWISE = {_ATEN.add.Tensor, _ATEN.mul.Tensor, _ATEN.gelu.default, _ATEN.silu.default, _ATEN.div.Tensor}
"""Operations whose result is like their first argument where all are of one shape; in Python they take a while on the
meta device."""


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that are alive, each storage once: now, and at most."""

    def __init__(self, tensors: Iterable[Tensor] = (), *, blocks: bool = False) -> None:
        """tensors: those that are there already. blocks: whether convolutions bring theirs into another layout."""
        super().__init__()
        self._blocks = blocks
        self.now = self.peak = 0
        self._known: Any = WeakIdKeyDictionary()
        for tensor in tensors:
            self._see(tensor)

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _ELEMENTWISE and _are_alike(args):
            result = torch.empty_like(args[0])
        else:
            result = func(*args, **(kwargs or {}))
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        if self._blocks and func is _ATEN.convolution.default and result.is_meta:
            self.peak = max(self.peak, self.now + convolution_space(args[0], args[1], result))
        return result


def _are_alike(args: Any) -> bool:
    """Whether arguments are contiguous tensors of one shape and type on the meta device, and numbers."""
    first = args[0]
    if not isinstance(first, Tensor) or not first.is_meta or not first.is_contiguous():
        return False
    return (
        all(
            (arg.is_meta and arg.shape == first.shape and arg.dtype == first.dtype and arg.is_contiguous())
            if isinstance(arg, Tensor)
            else isinstance(arg, int | float)
            for arg in args[1:]
        )
        and first.is_floating_point()
    )


def convolution_space(image: Tensor, weight: Tensor, result: Tensor) -> int:
    """Bytes that a convolution takes beside its result, for its operands in the layout of its kernel.

    Found by the allocations of oneDNN's: image and weights go into blocks of 16 channels, and are gone when the result
    comes out of its own; in 16 bits image and result are there together.
    """
    taken, made, weights = (tensor.numel() * tensor.element_size() for tensor in (image, result, weight))
    channels = result.shape[1]
    padded = made // channels * (-(-channels // 16) * 16) - made
    if image.element_size() < 4:
        return taken + made + padded
    few = image.shape[1] < 8  # taken as they are
    return max((0 if few else taken + weights) + padded, made + padded)


class FusedAttention(TorchFunctionMode):
    """Takes attention as a fused kernel does, which holds no matrix of weights; meta tensors would take the other."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            query, value = given["query"], given["value"]
            *batch, heads, tokens, _ = query.shape
            sums = query.new_empty(*batch, heads, tokens, dtype=torch.float32)
            out = query.new_empty(*batch, tokens, heads, value.shape[-1]).transpose(-2, -3)
            del sums
            return out
        return func(*args, **(kwargs or {}))


def peak_bytes(run: Callable[[], object], there: Iterable[Tensor], *, blocks: bool = False) -> int:
    """Bytes of tensors that `run` makes, at most at once, on the meta device. there: those that it works on.

    blocks: as of `LiveBytes`, which is what a CPU does.
    """
    live = LiveBytes(there, blocks=blocks)
    before = live.now
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(live)
        stack.enter_context(FusedAttention())
        run()
    return live.peak - before


def module_bytes(*modules: nn.Module | None) -> int:
    """Bytes of the parameters and buffers of modules, those that they share once."""
    tensors = [t for module in modules if module is not None for t in (*module.parameters(), *module.buffers())]
    return sum({id(tensor): tensor.numel() * tensor.element_size() for tensor in tensors}.values())


def largest_layer(module: nn.Module) -> int:
    """Bytes of the layer of a module that has most of its own."""
    sizes = [
        sum(t.numel() * t.element_size() for t in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))
        for layer in module.modules()
    ]
    return max(sizes, default=0)


def on_meta(module: Any, *, dtype: torch.dtype | None = None, others: Iterable[nn.Module] = ()) -> Any:
    """A copy of a module on the meta device: its layers and hooks, without weights.

    others: modules that it may refer to beside its layers, of which no weights are copied either.
    """
    empty: dict[int, Any] = {}
    for tensor in (t for one in (module, *others) for t in (*one.parameters(), *one.buffers())):
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        new = torch.empty_like(tensor, device="meta", dtype=kind)
        empty[id(tensor)] = nn.Parameter(new, requires_grad=False) if isinstance(tensor, nn.Parameter) else new
    return copy.deepcopy(module, empty)
