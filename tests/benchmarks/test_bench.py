"""The benchmarks run to their end at tiny sizes on a CPU, so that they work where a GPU is at hand."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import diffusers
import pytest
from support.paths import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a benchmark by name; what it changes for the process is put back."""
    verbosity, level = diffusers.utils.logging.get_verbosity(), logging.getLogger("animatediff").level
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)

    def named(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield named
    for name in set(sys.modules) - known:
        if (file := getattr(sys.modules[name], "__file__", None)) and file.startswith(str(FOLDER)):
            del sys.modules[name]
    diffusers.utils.logging.set_verbosity(verbosity)
    logging.getLogger("animatediff").setLevel(level)


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of every row of a table."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {cells[0]: cells[1:] for cells in lines}


def test_every_part_of_the_gpu_benchmark_runs_on_a_cpu(load, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = load("gpu")
    assert gpu.main(["--device", "cpu"]) == 0
    text = capsys.readouterr().out
    found = rows(text)
    assert "failed" not in text and "Traceback" not in text
    assert [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")] == list(gpu.PARTS)
    assert found["UNet v1"][1] == "yes"
    assert float(found["attention of 69,535 sequences"][0]) < 1e-5
    assert float(found["vae tiling"][0]) < 1e-5, "one tile here"
    ways = [line.split("|")[2].strip() for line in text.splitlines() if line.startswith(("| sd1", "| sdxl"))]
    assert ways[:10] == ["diffusers", "exact", "balanced", "max", "compiled"] * 2
    assert float(found["4-sparsectrl-rgb"][1]) > 0


def test_what_does_not_fit_into_the_budget_is_said(load, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = load("gpu")
    assert gpu.main(["golden", "speed", "--device", "cpu", "--budget", "0"]) == 0
    text = capsys.readouterr().out
    assert "the rest of golden is left out: time is up" in text and "the rest of speed is left out" in text
    with pytest.raises(SystemExit):
        gpu.main(["spead"])
    assert "unknown part 'spead'; known are golden, paths" in capsys.readouterr().err


def test_both_sides_of_the_table_do_the_same_work(load, capsys: pytest.CaptureFixture[str]) -> None:
    bench = load("bench")
    tiny = ["--size", "tiny", "--pixels", "64", "--frames", "2", "--steps", "1", "--rounds", "1"]
    bench.main([*tiny, "--fast-steps", "12", "--imports", "0", "--dtypes", "float32"])
    found = rows(capsys.readouterr().out)
    for name in ("a step (s)", "decoding (s)", "memory beyond the weights (MiB)"):
        theirs, ours = (float(cell) for cell in found[f"float32: {name}"][:2])
        assert theirs >= 0 and ours >= 0
    assert 0 < float(found['float32: 12 steps, fast="max" against exact (s)'][2]) < 1


def test_both_sides_have_one_copy_of_the_weights(load) -> None:
    models = load("random_models")
    import torch

    for size in ("tiny", "tiny-sdxl"):
        pipes = models.pipelines(size, torch.float32)
        unet = pipes["ours"].unet
        own = {value.data_ptr() for value in [*unet.parameters(), *pipes["ours"].attachment.adapter.parameters()]}
        assert {value.data_ptr() for value in pipes["diffusers"].unet.parameters()} == own
