"""Tensors in memory as the header of a weight file, so that all that is known about files holds for them too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.weights.storage.files import Header, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


def memory_header(
    tensors: Mapping[str, Tensor], label: str, *, config: Mapping[str, Any] | None = None, metadata: Any = None
) -> Header:
    """The header of these tensors; `label` names them in messages, `config` is what a config.json would say.

    `load_tensors` gives the very tensors, without a copy.
    """
    infos = {
        key: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."), value=value.detach())
        for key, value in tensors.items()
    }
    return Header(
        path=Path(label),
        format="safetensors",
        size=sum(value.numel() * value.element_size() for value in tensors.values()),
        tensors=infos,
        metadata=dict(metadata or {}),
        config=dict(config or {}),
    )
