"""Which number format a CPU computes fastest in: measured, as its instructions do not tell.

CPUs with the same AVX512-BF16 instructions differ by a factor of five in either direction: with AMX, bfloat16 is far
ahead of float32; without, it is often behind. So a convolution and a linear layer of a UNet's shapes are timed once,
and what came out is remembered for this kind of CPU and this version of torch.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from animatediff.errors import UserError
from animatediff.files import write_text

logger = logging.getLogger(__name__)

CANDIDATES = (torch.float32, torch.bfloat16, torch.float16)
MARGIN = 1.15
"""How many times as fast as float32 another format must be to be chosen: it rounds more."""
ROUNDS = 3
"""Timed calls of each layer, after one that loads kernels."""
HOPELESS = 6.0
"""A format that takes this many times the best one's time, and longer than float32, is not timed further."""


@cache
def fastest_on_cpu() -> torch.dtype:
    """The number format that UNets run fastest in on this CPU.

    Takes under 0.1 s, once; then it is read from the cache folder (`cache_file`). Says at level INFO what it chose
    and why.
    """
    file, key = cache_file(), _key()
    known = _remembered(file)
    milliseconds = known.get(key) or {}
    if not _is_sound(milliseconds):
        milliseconds = {_name(dtype): max(round(ms, 2), 0.01) for dtype, ms in measure().items()}
        with suppress(OSError, UserError):  # a home that cannot be written: measured again next time
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps({**known, key: milliseconds}, indent=1))
    chosen = choose(milliseconds)
    times = ", ".join(f"{ms:g} in {name}" for name, ms in sorted(milliseconds.items(), key=lambda item: item[1]))
    logger.info("computing in %s: two layers of a UNet took this CPU %s (milliseconds)", chosen, times)
    return getattr(torch, chosen)


def fastest_half() -> str:
    """The faster one of the formats of 16 bits on this CPU, by what `fastest_on_cpu` measured."""
    fastest_on_cpu()
    known = _remembered(cache_file()).get(_key())
    times = {name: ms for name, ms in known.items() if name != "float32"} if _is_sound(known) and known else {}
    return min(times, key=lambda name: times[name], default="bfloat16")


def choose(milliseconds: dict[str, float]) -> str:
    """The name of the format to take: the fastest, if it is ahead of float32 by more than the margin.

    >>> choose({"float32": 10.9, "bfloat16": 13.9, "float16": 12.0})
    'float32'
    >>> choose({"float32": 10.0, "bfloat16": 1.7, "float16": 12.3})
    'bfloat16'
    >>> choose({"float32": 10.0, "float16": 9.5})
    'float32'
    """
    best = min(milliseconds, key=lambda name: milliseconds[name])
    return best if milliseconds["float32"] > MARGIN * milliseconds[best] else "float32"


def measure() -> dict[torch.dtype, float]:
    """Milliseconds that a convolution and a linear layer take together, in each format that is worth timing.

    Times are those of the processor, on one thread, so that other programs do not decide. The formats take turns, and
    the least of each counts.
    """
    generator = torch.Generator().manual_seed(0)
    layers = {dtype: _layers(dtype, generator) for dtype in CANDIDATES}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            first = {dtype: sum(map(_time, layers[dtype])) for dtype in CANDIDATES}
            limit = max(HOPELESS * min(first.values()), first[torch.float32])
            worth = [dtype for dtype in CANDIDATES if first[dtype] <= limit]
            rounds = [{dtype: [_time(layer) for layer in layers[dtype]] for dtype in worth} for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    return {dtype: sum(map(min, zip(*(taken[dtype] for taken in rounds), strict=True))) for dtype in worth}


def _layers(dtype: torch.dtype, generator: torch.Generator) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A 3x3 convolution and a feed-forward layer of SD 1.5's widest images, 16 x 16 here."""
    shapes = ((1, 320, 16, 16), (320, 320, 3, 3), (256, 320), (2560, 320))
    image, kernel, tokens, matrix = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    return lambda: F.conv2d(image, kernel, padding=1), lambda: F.linear(tokens, matrix)


def _time(layer: Callable[[], Tensor]) -> float:
    start = time.thread_time()
    layer()
    return (time.thread_time() - start) * 1000


def cache_file() -> Path:
    """Where the times are remembered: `animatediff/number_formats.json` in the user's folder of caches."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "animatediff" / "number_formats.json"


def _key() -> str:
    return f"{_cpu()}, torch {torch.__version__}"


def _cpu() -> str:
    """The CPU's name and those of its instructions that count: virtual machines of one name differ in them."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    name = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    instructions = sorted(set(re.findall(r"\b(?:amx_\w+|avx512_(?:bf16|fp16)|avx512f|avx2|avx_vnni)\b", text)))
    return " ".join([name[1] if name else platform.processor() or platform.machine(), *instructions])


def _remembered(file: Path) -> dict[str, dict[str, float]]:
    with suppress(OSError, ValueError):
        known = json.loads(file.read_text("utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _is_sound(milliseconds: object) -> bool:
    names = {_name(dtype) for dtype in CANDIDATES}
    return (
        isinstance(milliseconds, dict)
        and "float32" in milliseconds
        and milliseconds.keys() <= names
        and all(isinstance(ms, int | float) and ms > 0 for ms in milliseconds.values())
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
