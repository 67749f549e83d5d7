"""Install what the extension needs into the environment of the host, which runs this file when it starts."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import launch  # pyright: ignore[reportMissingImports]  # the host's own

HERE = Path(__file__).resolve().parent
NEEDED = ("einops", "av")


def is_missing(name: str) -> bool:
    """Whether a package cannot be imported here."""
    return importlib.util.find_spec(name) is None


for package in NEEDED:
    if is_missing(package):
        launch.run_pip(f"install {package}", f"{package}, for AnimateDiff")
in_checkout = (HERE.parents[1] / "animatediff" / "motion" / "ldm.py").is_file()
if not in_checkout and is_missing("animatediff"):
    # other packages have had this name, so none is fetched by it
    print(
        "AnimateDiff: this folder is a copy, and the package `animatediff` is not installed here; link the folder from "
        "its repository instead, or run: pip install --no-deps PATH_OF_THE_REPOSITORY"
    )
