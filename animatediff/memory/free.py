"""Memory that is free: of a device, and of the machine within the limits of its container."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of cgroups, version 2 and version 1."""
UNKNOWN = 2**62
"""Where nothing tells: more than any machine has."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device, with those that torch has set aside there and does not use."""
    import torch

    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + idle
    if device.type == "mps":
        used = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
        return min(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory(), free_of_machine() + used)
    return free_of_machine()


def free_of_machine(proc: Path = Path("/proc"), cgroups: Path = CGROUPS) -> int:
    """Bytes that this process may still take in main memory: what is available, and what its container allows."""
    return min(_available(proc), _allowed(proc, cgroups))


def _available(proc: Path) -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in (proc / "meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return _of_windows()
    with suppress(OSError, ValueError, AttributeError):  # macOS and others: half of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return UNKNOWN


def _of_windows() -> int:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((f"n{n}", ctypes.c_ulonglong) for n in range(7)),
        ]

    status = Status()
    status.length = ctypes.sizeof(status)
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # pyright: ignore
        return UNKNOWN
    return int(status.n1)  # total, then available


def _allowed(proc: Path, cgroups: Path) -> int:
    """What the cgroups of this process, from its own up to the root, leave."""
    least = UNKNOWN
    for folder in _folders(proc, cgroups):
        for limit, used in _LIMITS:
            with suppress(OSError, ValueError):  # no such file, or "max"
                allowed = int((folder / limit).read_text())
                if allowed < UNKNOWN // 2:
                    cached = _reclaimable(folder / Path(used).parent)
                    least = min(least, max(0, allowed - int((folder / used).read_text()) + cached))
    return least


def _reclaimable(folder: Path) -> int:
    """Bytes of files that the cgroup keeps and gives back when memory is asked for."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                return int(value)
    return 0


def _folders(proc: Path, cgroups: Path) -> list[Path]:
    found = [cgroups]
    with suppress(OSError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            own = cgroups / line.rsplit(":", 1)[-1].lstrip("/")
            found += [folder for folder in (own, *own.parents) if cgroups in folder.parents]
    return list(dict.fromkeys(found))
