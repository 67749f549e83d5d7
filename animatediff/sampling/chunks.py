"""Run the image layers of a UNet on a few images at a time, so that their memory does not grow with a clip.

Where windows lie inside the motion modules, all frames of a clip go through the UNet in one call. Between two layers
there is one feature map of them all, and the skip connections; but inside a transformer there is ten times as
much, which is needed for one chunk only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.motion import norms_over_frames
from animatediff.motion.module import CameraMerge, TemporalTransformerBlock

CHUNK_SIZE = 32
"""Images: a window of 16 frames, with and without the prompt."""


@contextmanager
def layers_in_chunks(unet: nn.Module, wanted: bool = True, size: int = CHUNK_SIZE) -> Iterator[None]:
    """Let the ResNets, transformers and resizing layers of `unet` see at most `size` images at a time, for a while.

    Not those of a UNet whose norms see all frames, nor of a compiled one, whose graph is made already.
    """
    possible = wanted and not hasattr(unet, "_orig_mod") and not norms_over_frames(unet)
    layers = _layers(unet) if possible else []
    with forwards_replaced((layer, functools.partial(_in_chunks, layer.forward, size)) for layer in layers):
        yield


@contextmanager
def forwards_replaced(forwards: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Give layers another `forward` for a while; their hooks stay."""
    before: list[tuple[nn.Module, Any]] = []
    try:
        for layer, forward in forwards:
            before.append((layer, layer.__dict__.get("forward")))
            layer.forward = forward
        yield
    finally:
        for layer, forward in before:
            del layer.forward
            if forward is not None:  # of offloading hooks, which stand there as well
                layer.forward = forward


@contextmanager
def motion_in_chunks(unet: nn.Module, size: int | None) -> Iterator[None]:
    """Let the transformers of motion modules see at most `size` sequences (latent pixels) at a time, for a while.

    Sequences do not see each other, so that what is computed stays the same. None: all at once.
    """
    if size is None or hasattr(unet, "_orig_mod"):
        yield
        return
    blocks = [layer for layer in unet.modules() if isinstance(layer, TemporalTransformerBlock)]
    with forwards_replaced((block, functools.partial(_some_at_a_time, block.forward, size)) for block in blocks):
        yield


def _some_at_a_time(
    forward: Callable[..., Tensor], size: int, x: Tensor, positions: Tensor, camera: CameraMerge | None = None
) -> Tensor:
    """Run a temporal transformer on x (b, f, p, d), `size` of the p at a time."""
    if x.shape[2] <= size:
        return forward(x, positions, camera)
    out = torch.empty_like(x)
    for start in range(0, x.shape[2], size):
        if start > size and x.is_meta:
            break
        some = slice(start, start + size)
        merge = None if camera is None else camera._replace(pose=camera.pose[:, :, some])
        out[:, :, some] = forward(x[:, :, some], positions, merge)
    return out


def _layers(unet: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    blocks = [*getattr(unet, "down_blocks", ()), getattr(unet, "mid_block", None), *getattr(unet, "up_blocks", ())]
    for block in blocks:
        for name in ("resnets", "attentions", "downsamplers", "upsamplers"):
            found += [layer for layer in getattr(block, name, None) or () if layer is not None]
    return found


def _in_chunks(forward: Callable[..., Any], size: int, *args: Any, **kwargs: Any) -> Any:
    """Run `forward` on all images (n, ...), a few at a time; other arguments that have n rows are split with them."""
    first = args[0] if args else kwargs["hidden_states"]
    num_images = len(first)
    if num_images <= size:
        return forward(*args, **kwargs)
    out: list[Tensor] = []
    as_tuple = False
    for start in range(0, num_images, size):
        if start > size and first.is_meta:  # nothing is computed there, and further chunks would take the same memory
            break
        rows = slice(start, start + size)
        output = forward(*rows_of(args, rows, num_images), **rows_of(kwargs, rows, num_images))
        as_tuple = isinstance(output, tuple)
        parts = output if as_tuple else (output,)
        out = out or [_room_for(num_images, part) for part in parts]
        for whole, part in zip(out, parts, strict=True):
            whole[rows] = part
    return tuple(out) if as_tuple else out[0]


def _room_for(num_images: int, part: Tensor) -> Tensor:
    """An empty tensor for so many rows, in the memory layout of some of them."""
    last = part.ndim == 4 and part.is_contiguous(memory_format=torch.channels_last) and not part.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (num_images, *part.shape[1:])
    return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=layout)


def rows_of(value: Any, rows: slice, num_images: int) -> Any:
    """Take these rows of every tensor in `value` that has one row per image."""
    if isinstance(value, Tensor):
        return value[rows] if value.ndim and len(value) == num_images else value
    if isinstance(value, (list, tuple)):
        return type(value)(rows_of(item, rows, num_images) for item in value)
    if isinstance(value, Mapping):
        return {key: rows_of(item, rows, num_images) for key, item in value.items()}
    return value
