"""The node pack in ComfyUI: the stub, or the real host in its own process (`support.comfy_host`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The real host as a server, with tiny models under the names of published ones."""
    from support.comfy_files import write_models
    from support.comfy_server import Host, require_host

    root, _ = require_host()
    base = tmp_path_factory.mktemp("comfyui")
    write_models(base / "models")
    (base / "input").mkdir()
    shutil.copy(root / "input" / "example.png", base / "input")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"Comfy.TutorialCompleted": true}')  # no greeting over the page
    with Host(base) as running:
        yield running
