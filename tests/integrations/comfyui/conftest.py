"""The node pack in ComfyUI: the stub, or the real host in its own process (`support.comfy_host`)."""

from __future__ import annotations

from typing import Any

import pytest
from support import comfy_host

comfy_host.install()


@pytest.fixture(autouse=True)
def _unload() -> Any:
    """No test finds models of another one loaded."""
    import comfy.model_management

    yield
    comfy.model_management.unload_all_models()
