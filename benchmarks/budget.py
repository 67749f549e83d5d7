"""Limits of time for parts of a benchmark, and packages from a folder of wheels. The standard library alone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OWN_OF_MACHINE = ("torch-", "nvidia", "triton", "setuptools-", "pip-")
"""Begins of the names of wheels that are not installed: they go with the machine's own PyTorch."""


class TimeUpError(Exception):
    """The limit of a part, or the whole budget, is used up."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUpError when the time is over, where the system has such an alarm."""
    if seconds <= 1:
        raise TimeUpError
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeUpError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def install(wheels: Path, target: str) -> None:
    """Put the packages of a folder of wheels where this process imports from; nothing is downloaded."""
    chosen = [str(path) for path in sorted(wheels.glob("*.whl")) if not path.name.lower().startswith(OWN_OF_MACHINE)]
    if not chosen:
        sys.exit(f"{wheels}: no wheels (.whl) in this folder")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--target",
        target,
        *chosen,
    ]
    subprocess.run(command, check=True)
    sys.path.insert(0, target)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [target, os.environ.get("PYTHONPATH")]))
