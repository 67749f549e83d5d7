"""The number format of a CPU: chosen by time, remembered, and never in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from animatediff.pipelines import number_probe
from animatediff.pipelines.precision import as_dtype


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    number_probe.fastest_on_cpu.cache_clear()


def remember(**milliseconds: float) -> None:
    file = number_probe.cache_file()
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({number_probe._key(): milliseconds, "another CPU": {"float32": 1.0}}))


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({"float32": 10.9, "bfloat16": 13.9, "float16": 12.0}, torch.float32),  # AVX512-BF16 without AMX
        ({"float32": 10.0, "bfloat16": 1.9, "float16": 12.3}, torch.bfloat16),  # with AMX
        ({"float32": 10.0, "float16": 6.0}, torch.float16),
        ({"float32": 10.0, "bfloat16": 9.5}, torch.float32),  # not worth its rounding
    ],
)
def test_the_fastest_is_chosen_from_what_is_remembered(
    milliseconds: dict[str, float], chosen: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    remember(**milliseconds)
    with caplog.at_level("INFO"):
        assert as_dtype("auto", "cpu") == chosen
    assert f"computing in {str(chosen).removeprefix('torch.')}" in caplog.text
    assert all(f"{ms:g} in {name}" in caplog.text for name, ms in milliseconds.items())


@pytest.mark.parametrize("text", ["", "[]", "{", '{"float32": 1}', "\0"])
def test_a_broken_file_is_measured_anew_and_written(text: str) -> None:
    file = number_probe.cache_file()
    file.parent.mkdir()
    file.write_text(text)
    chosen = as_dtype(None, "cpu")
    taken = json.loads(file.read_text())[number_probe._key()]
    assert chosen == getattr(torch, number_probe.choose(taken))


def test_values_that_are_none_are_measured_anew_and_those_of_others_stay() -> None:
    remember(float32=-1.0)
    as_dtype("auto", "cpu")
    known = json.loads(number_probe.cache_file().read_text())
    assert known["another CPU"] == {"float32": 1.0}
    assert all(ms > 0 for ms in known[number_probe._key()].values())


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "animatediff").write_text("a file where the folder would be")
    assert as_dtype("auto", "cpu") in number_probe.CANDIDATES


def test_measuring_leaves_the_threads_as_they_were() -> None:
    threads = torch.get_num_threads()
    taken = number_probe.measure()
    assert torch.get_num_threads() == threads
    assert torch.float32 in taken
    assert all(0 < ms < 10_000 for ms in taken.values())
