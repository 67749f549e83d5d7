"""What all tests share: no network, few threads, and where the golden cases are."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them: the suite must pass on a machine without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread for each process that tests run in: they run side by side, and the last bits of sums depend on it.
os.environ["OMP_NUM_THREADS"] = "1"

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting anywhere but to this machine fails at once."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(host, str) and (host in ("127.0.0.1", "::1", "localhost") or host.startswith("/")):
            return connect(self, address)
        raise AssertionError(f"a test tried to reach the network: {address}")

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden cases, one folder a family."""
    return GOLDEN
