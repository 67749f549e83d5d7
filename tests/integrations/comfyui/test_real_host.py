"""The tests beside this one in the real ComfyUI: `COMFYUI_ROOT=... COMFYUI_PYTHON=... pytest` runs them there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import comfy_host
from support.paths import ROOT


@pytest.mark.slow
@pytest.mark.skipif(comfy_host.is_real(), reason="this is the real host")
def test_the_same_tests_pass_in_the_real_host() -> None:
    """COMFYUI_PYTHON has the requirements of ComfyUI, of AnimateDiff, and pytest; this Python is asked without it."""
    root = os.environ.get("COMFYUI_ROOT")
    if not root:
        pytest.skip("NOT RUN IN THE REAL HOST: set COMFYUI_ROOT to ComfyUI's folder, COMFYUI_PYTHON to its Python")
    assert Path(root, "comfy", "model_patcher.py").is_file(), f"COMFYUI_ROOT={root} is no folder of ComfyUI"
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).parent)],
        cwd=ROOT,
        env={**os.environ, comfy_host.INSIDE: "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
