"""Time and peak memory of a piece of work, on a CPU and on a GPU."""

from __future__ import annotations

import ctypes
import gc
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 2**20
_RESET_PEAK = "5"


@dataclass
class Peak:
    """Memory of a piece of work, in MiB."""

    before: float = 0.0
    at_most: float = 0.0

    @property
    def beyond(self) -> float:
        """What was needed on top of what was there."""
        return max(0.0, self.at_most - self.before)


def clock(device: str) -> Callable[[], float]:
    """Seconds: of the processor on a CPU, where other programs do not count; of the wall on a GPU, when it is done."""
    if device == "cpu":
        return time.process_time

    def now() -> float:
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    return now


@contextmanager
def peak_memory(device: str) -> Iterator[Peak]:
    """What PyTorch allocated on a GPU; on a CPU the memory of this process, where the system can count anew (Linux)."""
    import torch

    peak = Peak()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        peak.before = torch.cuda.memory_allocated() / MIB
        yield peak
        peak.at_most = torch.cuda.max_memory_allocated() / MIB
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    peak.before = rss_mib()
    yield peak
    peak.at_most = _of_process("VmHWM")


def rss_mib() -> float:
    """Memory that this process holds now, in MiB."""
    return _of_process("VmRSS")


def _of_process(name: str) -> float:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


@dataclass
class Run:
    """One call of a pipeline."""

    steps: list[float]
    """Seconds of each step but the first."""
    decode: float
    """Seconds after the last step."""
    peak: Peak
    frames: Any


def call(pipe: Any, device: str, **settings: Any) -> Run:
    """Render one clip, watched."""
    import torch

    now, moments = clock(device), []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        moments.append(now())
        return values

    with torch.inference_mode(), peak_memory(device) as peak:
        frames = pipe(
            prompt="a fox", negative_prompt="blurry", guidance_scale=7.5, callback_on_step_end=note,
            generator=torch.Generator().manual_seed(0), output_type="pt", **settings,
        ).frames  # fmt: skip
        end = now()
    steps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    return Run(steps, end - moments[-1], peak, frames)
