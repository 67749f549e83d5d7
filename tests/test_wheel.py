"""The wheel holds what its users are told to use, and its type hints count."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.paths import ROOT

from animatediff.files import config_file
from animatediff.render import load_config
from animatediff.training.read import load_train_config

DOCS = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in a wheel that is built from here; weights are left empty, for time."""
    pytest.importorskip("setuptools", "77")
    source = tmp_path_factory.mktemp("wheel") / "source"
    for name in ("animatediff", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"), copy_function=_copy)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    code = "import setuptools.build_meta as build; print(build.build_wheel('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True, timeout=120)
    (wheel,) = (source / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def _copy(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        Path(target).touch()
    else:
        shutil.copyfile(source, target)


def _files(folder: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_of_configs(names: set[str]) -> None:
    assert "animatediff/py.typed" in names
    assert _files("animatediff") - names == set()
    assert {f"animatediff/{name}" for name in _files("configs")} - names == set()
    assert not [name for name in names if not name.startswith("animatediff")], "no other folder of packages"


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_configurations_that_documents_name_ship(document: Path) -> None:
    for name in re.findall(r"configs/[\w/.-]+\.yaml", document.read_text("utf-8")):
        assert (ROOT / name).is_file(), name


def test_configurations_are_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_train_config("configs/training/bundled/motion-lora.yaml").stage == "motion_lora"
    (request,) = load_config("configs/prompts/prompt-travel.yaml")
    assert request.prompt_travel
    assert config_file("configs\\prompts\\prompt-travel.yaml").is_file()
    own = Path("configs/prompts/prompt-travel.yaml")
    own.parent.mkdir(parents=True)
    own.write_text("prompt: a fox")
    assert config_file(own) == own, "one's own comes first"
    for name in ("configs/none.yaml", "configs/../README.md", "README.md", os.devnull):
        assert config_file(name) == Path(name)
