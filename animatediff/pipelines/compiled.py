"""Regional torch.compile: blocks of the UNet that stand there many times, each kind in graphs that all of them share.

Hooks stand outside of these blocks, so motion modules, ControlNets, fast mode and chunks work as before. The first
strength of a LoRA that differs makes its graphs once more, with strengths as a number; after that they change freely.
What was compiled lies in PyTorch's cache on disk (`TORCHINDUCTOR_CACHE_DIR`) for the next process.

A block compiled against as it is, at 320 channels (`python benchmarks/layers.py compile`, a CPU with AMX, one thread):

| block | float32 | bfloat16 |
|---|---|---|
| transformer of the image layers | 0.92 | 0.92 |
| transformer of a motion module | 1.12 | 1.03 |
| ResNet | 0.91 | 0.82 |

So a CPU compiles the first alone; a GPU the first two. ResNets stay as they are: motion modules hang on them where a
block has no attention, and long clips go through them in chunks, which would be traced anew at each call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from animatediff.errors import UserError

ON_CPU = ("BasicTransformerBlock",)
ON_GPU = (*ON_CPU, "TemporalTransformerBlock")
RECOMPILE_LIMIT = 64
"""Graphs of one kind of call: UNets have blocks of a few widths, each at a few sizes, with LoRAs or without."""


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile does not work, by compiling next to nothing."""
    try:
        torch.compile(_anything)(torch.zeros(8, device=device))
    except Exception as error:  # of compilers that are missing or broken, each in its own words
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"`compile` needs a compiler that works ({reason[:160]}); install one for C++, for a GPU also Triton, or "
            "leave `compile` out"
        ) from error


def compile_blocks(unet: nn.Module, device: torch.device, settings: dict[str, Any]) -> int:
    """Compile the blocks that are not yet, at their next call; how many there are. settings: of torch.compile."""
    kinds = ON_CPU if device.type == "cpu" else ON_GPU
    blocks = [layer for layer in unet.modules() if type(layer).__name__ in kinds]
    for block in blocks:
        if block._compiled_call_impl is None:
            block.compile(**settings)
    return len(blocks)


def as_they_are(unet: nn.Module) -> None:
    """Take compiled blocks back to what they were."""
    for layer in unet.modules():
        if type(layer).__name__ in ON_GPU:
            layer._compiled_call_impl = None


@contextmanager
def blocks_compiled(unet: nn.Module, device: torch.device, settings: dict[str, Any] | None) -> Iterator[None]:
    """Compile what is not yet, and let PyTorch keep as many graphs of a block as a UNet needs, for a while.

    settings: of torch.compile; None leaves the blocks as they are.
    """
    if settings is None:
        yield
        return
    from torch._dynamo import config

    compile_blocks(unet, device, settings)
    with config.patch(recompile_limit=max(config.recompile_limit, RECOMPILE_LIMIT)):
        yield


def _anything(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
