"""Weight files of full size for tests: a header of names and shapes, and after it a hole that takes no disk."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from support.paths import KEY_SHAPES


@cache
def key_shapes() -> dict[str, Any]:
    """The published key and shape lists, by file name."""
    return json.loads(gzip.decompress(KEY_SHAPES.read_bytes()))


def published(name: str, *, positions: bool = True) -> dict[str, tuple[int, ...]]:
    """Key -> shape of one published file, with its position tables unless asked without."""
    shapes = key_shapes()[name]
    if "parameters" in shapes:
        shapes = shapes["parameters"] | (shapes["position_buffers"] if positions else {})
    return {key: tuple(shape) for key, shape in shapes.items()}


def header_bytes(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """The start of a safetensors file of float16 tensors, and how many bytes must follow."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        entries[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text, end


def write_hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of these shapes whose tensors are a hole of zeros."""
    start, size = header_bytes(shapes, metadata)
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + size)
    return path
