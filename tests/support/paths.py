"""Where the files of the repository and of its tests are."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
"""The golden cases, one folder a family."""
KEY_SHAPES = ROOT / "tests" / "data" / "key_shapes.json.gz"
"""Keys and shapes of published weight files."""
