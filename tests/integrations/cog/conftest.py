"""Cog's server with our model, one for all tests that leave it as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from support.cog_server import CogServer


@pytest.fixture(scope="session")
def cog_python() -> str:
    """The Python of an environment that has cog: this one, or the one that COG_PYTHON names."""
    if python := os.environ.get("COG_PYTHON"):
        return python
    if find_spec("cog") is None:
        pytest.skip("cog is not installed (pip install cog), and COG_PYTHON names no Python that has it")
    return sys.executable


@pytest.fixture(scope="session")
def cog(cog_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CogServer]:
    """The server, ready."""
    with CogServer(tmp_path_factory.mktemp("cog") / "cog.log", python=cog_python) as server:
        server.ready()
        yield server
