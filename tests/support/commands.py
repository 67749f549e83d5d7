"""`animatediff animate` as a user calls it, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from animatediff.cli.main import app
from support.fake_pipeline import FakePipeline, loading


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["animate", *arguments])
    return result.exit_code, result.stdout, result.stderr


def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pipeline is called with from now on; it is a fake one."""
    given: dict[str, Any] = {}

    class Watched(FakePipeline):
        def job(self, **arguments: Any) -> Any:
            given.update(arguments)
            return super().job(**arguments)

    loading(monkeypatch, lambda *_: Watched())
    return given


def is_one_message(place: Path, *arguments: str) -> str:
    """A mistake is one message and exit code 2, and leaves nothing in `place`; returns what was said."""
    before = sorted(path.name for path in place.iterdir())
    code, out, err = run(*arguments, "--quiet")
    assert (code, out) == (2, ""), err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(path.name for path in place.iterdir()) == before
    return err
