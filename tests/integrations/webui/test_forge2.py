"""Golden cases of all families in the UNet of a real Forge, whose checkpoints of SDXL are too large to start it with.

What the whole program gives is tried in `test_hosts.py` and `test_page.py`.
"""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from support.golden import FAMILIES, TOLERANCE
from support.paths import ROOT


def test_motion_modules_of_all_families_in_its_unet() -> None:
    root, python = os.environ.get("FORGE2_ROOT"), os.environ.get("FORGE2_PYTHON")
    if not root or not python:
        pytest.skip("NOT TRIED IN Forge: set FORGE2_ROOT (its folder) and FORGE2_PYTHON (its Python)")
    ran = subprocess.run(
        [python, "-m", "support.forge_unet", root],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert set(found) == set(FAMILIES)
    for family, result in found.items():
        assert result["difference"] <= TOLERANCE, family
        assert result["motion"] > 0.1, family
        assert result["restored"], family
