"""The extension's folder on the path, as hosts put it there, and a host where one is named."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "integrations" / "webui"))

from support.webui_host import WebUI
from support.webui_models import save_all


@pytest.fixture(scope="session")
def a1111(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A running A1111 with small models: A1111_ROOT is its folder, A1111_PYTHON its Python."""
    root, python = os.environ.get("A1111_ROOT"), os.environ.get("A1111_PYTHON")
    if not root or not python:
        pytest.skip("NOT TRIED IN THE REAL HOST: set A1111_ROOT (the WebUI's folder) and A1111_PYTHON (its Python)")
    data = tmp_path_factory.mktemp("a1111")
    save_all(data / "models")
    with WebUI(Path(root), python, data) as host:
        yield host
