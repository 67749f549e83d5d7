"""The house stands as docs/architecture.md draws it: imports run down the layers and make no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    ("errors", "limits", "logs", "moved", "parse", "ranges", "subjects", "files", "frames", "unfinished", "signatures"),
    ("memory",),
    ("motion", "models", "media", "camera", "sprites", "bundled"),
    ("sampling", "prompts", "weights"),
    ("pipelines",),
    ("render", "training", "evaluation"),
    ("batch",),
    ("cli", "ui", "server", "recipes"),
    ("__main__",),
)
"""From the ground up."""
FORMER = {"animatediff.video", "animatediff.config", "animatediff.control"}
"""Former places of modules, which only point elsewhere."""


def modules() -> dict[str, Path]:
    found = {}
    for root in ("animatediff", "recipes"):
        for path in (ROOT / root).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return {name: path for name, path in found.items() if not any(name.startswith(old) for old in FORMER)}


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, anywhere in the file, for types alone too."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        own = found.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                own.update(full if full in known else node.module for full in names)
            elif isinstance(node, ast.Import):
                own.update(alias.name for alias in node.names)
        found[name] = {target for target in own if target in known and target != name}
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "recipes" else (parts[1] if len(parts) > 1 else "")


def test_every_room_has_a_layer() -> None:
    placed = {name for layer in LAYERS for name in layer}
    assert {room(module) for module in modules()} - placed <= {""}, "a new room belongs into LAYERS and into the docs"


def test_imports_run_down() -> None:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    up = [
        f"{module} -> {target}"
        for module, targets in imports().items()
        for target in targets
        if room(module) and room(target) and level[room(target)] > level[room(module)]
    ]
    assert not up


@pytest.mark.parametrize("of_rooms", [False, True])
def test_there_are_no_circles(of_rooms: bool) -> None:
    """Between files, and between rooms."""
    arrows: dict[str, set[str]] = {}
    for module, targets in imports().items():
        source = room(module) if of_rooms else module
        arrows.setdefault(source, set()).update(room(target) if of_rooms else target for target in targets)
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail[trail.index(node) :], node))
        if node in done:
            return
        for target in sorted(arrows.get(node, ())):
            if target != node:
                visit(target, (*trail, node))
        done.add(node)

    for node in sorted(arrows):
        visit(node, ())


def test_motion_imports_nothing_of_ours() -> None:
    outside = {f"{m} -> {t}" for m, ts in imports().items() for t in ts if room(m) == "motion" and room(t) != "motion"}
    assert not outside


def test_the_pipeline_imports_no_library_before_it_is_used() -> None:
    """diffusers, transformers and PEFT take longer to import than everything else together."""
    code = (
        "import sys; from animatediff.pipelines import AnimateDiffPipeline\n"
        "print(*({'diffusers', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
