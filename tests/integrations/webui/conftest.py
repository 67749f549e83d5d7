"""The extension's folder on the path, as hosts put it there, and the hosts that are named."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

sys.path.insert(0, str(ROOT / "integrations" / "webui"))

from support import forge_files, webui_models
from support.webui_host import WebUI

ANY = ("--api", "--skip-torch-cuda-test", "--skip-version-check", "--no-download-sd-model", "--no-hashing")
FLOAT32 = ("--always-cpu", "--all-in-fp32", "--clip-in-fp32", "--vae-in-fp32", "--attention-pytorch")


@dataclass(frozen=True)
class Host:
    """A program that the extension runs in: NAME_ROOT is its folder, NAME_PYTHON its Python."""

    title: str
    arguments: tuple[str, ...]
    """`{root}` is its folder."""
    save_models: Callable[[Path], Any]


OF_A1111 = ("--use-cpu", "all", "--no-half", "--precision", "full", "--disable-safe-unpickle", "--disable-nan-check")
HOSTS = {
    "a1111": Host("A1111", (*ANY, *OF_A1111), webui_models.save_all),
    "reforge": Host("reForge", (*ANY, *FLOAT32, "--no-half"), forge_files.save_all),
    # its page's scripts are not served where data lies elsewhere, unless its folder is named
    "forge2": Host("Forge", (*ANY, *FLOAT32, "--gradio-allowed-path", "{root}"), forge_files.save_all),
}


@pytest.fixture(scope="session", params=HOSTS)
def webui(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """One running host after the other, each with small models."""
    host, name = HOSTS[request.param], request.param.upper()
    root, python = os.environ.get(f"{name}_ROOT"), os.environ.get(f"{name}_PYTHON")
    if not root or not python:
        pytest.skip(f"NOT TRIED IN {host.title}: set {name}_ROOT (its folder) and {name}_PYTHON (its Python)")
    data = tmp_path_factory.mktemp(request.param)
    host.save_models(data / "models")
    with WebUI(Path(root), python, data, *(text.format(root=root) for text in host.arguments)) as running:
        yield running
