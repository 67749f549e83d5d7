"""Files of strangers: each is read or refused by one message, within 5 s and 1 GB, and does nothing to a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hostile.samples import SAMPLES

TESTS = Path(__file__).parent

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits of memory are those of Linux")


def _json(*command: str) -> Any:
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.strip(), done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> dict[str, Any]:
    """How each sample ended; of several processes of one test run the first tries them, which takes half a minute."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    kept = folder / "hostile.json"
    with FileLock(folder / "hostile.lock"):
        if not kept.exists():
            kept.write_text(json.dumps(_json(str(TESTS / "hostile" / "run.py"))))
        return json.loads(kept.read_text())


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(ends: dict[str, Any], name: str) -> None:
    end, sample = ends[name], SAMPLES[name]
    assert end["status"] == 0, f"ended by {end['status']} after {end['seconds']:.1f} s"
    assert not end["error"] and "Traceback" not in end["output"]
    output = end["output"]
    assert sample.message in " ".join(output.split()) or sample.message in output, output
    assert end["code"] == sample.code
    assert not [letter for letter in output if ord(letter) < 32 and letter != "\n"], "control characters are escaped"
    if sample.code:
        said = output.strip().splitlines()
        assert [line for line in said if line.startswith("animatediff: ")] == said[-1:], "one message, the last line"


def test_changed_files_are_read_or_refused() -> None:
    """`python tests/fuzz.py --count N` tries more."""
    assert _json(str(TESTS / "fuzz.py"), "--count", "300", "--json") == []
