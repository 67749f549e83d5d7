"""Keys and values of prompts in cross-attention, computed once a clip instead of once a frame and step.

Prompt embeddings are the same at every step, and of a prompt that does not travel the same at every frame. So each
`to_k` and `to_v` projects one row a prompt, once, and what it gave is repeated over the frames: 1.2 % of the products
of a step of SD 1.5 at 256x256, 0.3 % at 512x512. A layer is asked anew wherever something else could come out: for
prompts that travel, in a layer with another adapter or strength than before, and where the states that reach it are
others than the UNet was given. Layers that offloading or another hook has taken over are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.sampling.chunks import forwards_replaced
from animatediff.sampling.conditions import Conditioning


class PromptKeys:
    """Projections of prompt embeddings that the cross-attentions of a UNet made, for one clip or call."""

    def __init__(self, unet: nn.Module) -> None:
        self._attentions: list[Any] = [
            layer for layer in unet.modules() if getattr(layer, "is_cross_attention", False) and hasattr(layer, "to_k")
        ]
        # a graph that is made already would not notice; one of a block, or of the whole
        self._possible = not hasattr(unet, "_orig_mod") and not any(is_compiled(layer) for layer in unet.modules())
        self._prompts: Tensor | None = None
        self._kept: dict[nn.Module, _Kept] = {}

    @contextmanager
    def during(self, given: Conditioning, states: Tensor) -> Iterator[None]:
        """Use what is kept in one call of the UNet on `states` (r*f, n, d), the prompt embeddings of `given`."""
        prompts, rows = given.prompts
        if prompts is None or not self._possible or torch.is_grad_enabled():
            yield
            return
        if prompts is not self._prompts:
            self._prompts = prompts
            self._kept.clear()
        layers = (layer for attention in self._attentions for layer in (attention.to_k, attention.to_v))
        free = (layer for layer in layers if "forward" not in vars(layer))
        with forwards_replaced((layer, partial(self._project, layer, layer.forward, states, rows)) for layer in free):
            yield

    def _project(
        self, layer: nn.Module, forward: Callable[..., Tensor], states: Tensor, rows: list[int], given: Tensor,
        *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        """What `forward` makes of the states that it is given."""
        settings = _settings(layer)
        if given is not states or args or kwargs or settings is None or self._prompts is None:
            return forward(given, *args, **kwargs)
        before = self._kept.get(layer)
        if before is None or before.settings != settings or not before.has(layer):
            tensors: list[tuple[Tensor, int]] = [(tensor, _writes(tensor)) for tensor in layer.parameters()]
            before = self._kept[layer] = _Kept(settings, tensors, forward(self._prompts))
        made = before.made
        made = made if rows == list(range(len(made))) else made[rows]
        return made[:, None].expand(-1, len(states) // len(rows), -1, -1).flatten(0, 1)


def is_compiled(layer: nn.Module) -> bool:
    """Whether `layer.compile()` was called."""
    return getattr(layer, "_compiled_call_impl", None) is not None


@dataclass(frozen=True)
class _Kept:
    settings: Hashable
    tensors: list[tuple[Tensor, int]]
    """Weights of the layer and its adapters, and how often each had been written to."""
    made: Tensor
    """(r', n, d)."""

    def has(self, layer: nn.Module) -> bool:
        now = list(layer.parameters())
        return len(now) == len(self.tensors) and all(
            tensor is known and _writes(tensor) == writes
            for tensor, (known, writes) in zip(now, self.tensors, strict=True)
        )


def _settings(layer: nn.Module) -> Hashable | None:
    """All beside weights by which a layer could give something else; None for a kind of layer that is not known."""
    if type(layer) is nn.Linear:
        return ()
    if not hasattr(layer, "lora_A"):
        return None
    lora: Any = layer
    return tuple(lora.active_adapters), lora.disable_adapters, tuple(lora.merged_adapters), tuple(lora.scaling.items())


def _writes(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version  # tensors of inference mode do not count them
