"""One service for all tests that leave it as it was, and one that really renders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.http_server import REAL, Server

for _needed in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
    pytest.importorskip(_needed)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with two workers, whose renderer is the stub."""
    folder = tmp_path_factory.mktemp("service")
    models = folder / "models"
    for name in ("StableDiffusion/own.safetensors", "Motion_Module/mm.ckpt", "MotionLoRA/v2_lora_Spin.ckpt"):
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).write_bytes(b"weights")
    (folder / "secret.safetensors").write_bytes(b"secret")
    settings: dict[str, Any] = {"models": [str(models)], "devices": [None, None], "max_queue": 64, "max_upload_mb": 8}
    with Server(folder / "data", **settings) as running:
        yield running


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that renders with the bundled model."""
    with Server(tmp_path_factory.mktemp("real") / "data", renderer=REAL) as running:
        yield running
