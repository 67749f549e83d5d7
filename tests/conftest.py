"""What all tests share: no network, few threads, and where the golden cases are."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them: the suite must pass on a machine without a network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# One thread for each process that tests run in: they run side by side. No result may depend on it.
os.environ["OMP_NUM_THREADS"] = os.environ.get("ANIMATEDIFF_TEST_THREADS", "1")

GOLDEN = Path(__file__).parent / "golden"
NOISE = float(os.environ.get("ANIMATEDIFF_TEST_NOISE", "0"))
"""Share by which outputs of UNets are off, such as 3e-6: more than the rounding of any machine, less than any fault."""


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


@pytest.fixture(autouse=True)
def _noise(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests pass whatever the last bits are: ANIMATEDIFF_TEST_NOISE changes them, except in tests marked `exact`."""
    with pytest.MonkeyPatch.context() as patch:  # not that of the test, which may undo it
        if NOISE and request.node.get_closest_marker("exact") is None:
            from diffusers import UNet2DConditionModel
            from support.disturb import disturbing

            patch.setattr(UNet2DConditionModel, "forward", disturbing(UNet2DConditionModel.forward, NOISE))
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the golden cases, one folder a family."""
    return GOLDEN
