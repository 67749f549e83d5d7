"""The pack as it is published: what the registry demands, its documentation, its example workflows, imports."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from support.paths import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PACK = ROOT / "integrations" / "comfyui"
PAGE = (ROOT / "docs" / "comfyui.md").read_text(encoding="utf-8")


def test_the_pyproject_has_what_the_registry_demands() -> None:
    found = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = found["project"], found["tool"]["comfy"]
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?", project["name"]) and len(project["name"]) < 100
    assert not project["name"].lower().startswith("comfyui")
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"].keys() <= {"text", "file"} and project["license"]
    assert "Repository" in project.get("urls", {}) or "`Repository`" in PAGE  # a fact of whoever publishes
    assert "animatediff" in project["dependencies"]
    assert any(line.startswith("Operating System :: ") for line in project["classifiers"])
    assert re.fullmatch(r"[a-z0-9-]+", comfy["PublisherId"]) and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"]) and comfy["includes"] == []
    assert (PACK / "requirements.txt").read_text().split() == project["dependencies"]


def test_the_documentation_holds_the_table_of_old_nodes() -> None:
    folder = PACK / "ade"
    spec = importlib.util.spec_from_file_location(
        "documented_ade", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = sys.modules["documented_ade"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = importlib.import_module("documented_ade.page").markdown()
    assert table in PAGE, f"docs/comfyui.md is to hold:\n{table}"


def test_every_example_has_its_pictures_and_stands_in_the_documentation() -> None:
    examples = sorted((PACK / "example_workflows").glob("*.json"))
    assert len(examples) == 8
    for file in examples:
        page = json.loads(file.read_text(encoding="utf-8"))
        types = {node["type"] for node in page["nodes"]}
        assert any(kind.startswith("AnimateDiff") for kind in types) and "SaveVideo" in types
        assert not any(kind.startswith(("ADE_", "VHS_")) for kind in types)
        assert file.with_suffix(".jpg").stat().st_size < 60_000
        assert (ROOT / "docs" / "comfyui" / f"{file.stem}.webp").stat().st_size < 150_000
        assert f"comfyui/{file.stem}.webp" in PAGE


def test_every_node_and_input_that_the_documentation_names_is_one() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path(PACK, "nodes").glob("*.py"))
    rows = re.findall(r"^\| (AnimateDiff [^|]+) \|([^|]*)\|", PAGE, re.MULTILINE)
    assert len(rows) == 13
    for title, inputs in rows:
        assert f'display_name="{title}"' in sources, title
        for name in re.findall(r"`([a-z_]+)`", inputs):
            assert f'"{name}"' in sources, (title, name)
