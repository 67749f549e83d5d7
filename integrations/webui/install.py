"""Install what the extension needs into the environment of the host, which runs this file when it starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import launch  # pyright: ignore[reportMissingImports]  # the host's own

PACKAGE = "animatediff"
HERE = Path(__file__).resolve().parent


def checkout() -> Path | None:
    """The repository that this extension is a folder of, if it was linked and not copied from there."""
    root = HERE.parent.parent
    return root if (root / "animatediff" / "motion" / "ldm.py").is_file() else None


def missing(*names: str) -> list[str]:
    """Those of these packages that cannot be imported here."""
    return [name for name in names if importlib.util.find_spec(name) is None]


if checkout() is None and missing(PACKAGE):
    # without its dependencies: hosts pin versions of theirs, and the parts used here need no others
    launch.run_pip(f"install --no-deps {PACKAGE}", "animatediff")
for name in missing("einops", "av"):
    launch.run_pip(f"install {name}", f"{name}, for AnimateDiff")
