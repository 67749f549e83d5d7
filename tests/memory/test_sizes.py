"""Amounts of memory as people write them, and memory that is free within the limits of a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from animatediff.errors import UserError
from animatediff.memory.free import UNKNOWN, free_of_machine
from animatediff.memory.sizes import parse_size


@pytest.mark.parametrize(
    ("given", "size"),
    [("6GB", 6 * 10**9), ("500 mb", 5 * 10**8), ("1,5g", 15 * 10**8), ("2GiB", 2**31), (10**9, 10**9)],
)
def test_sizes_are_read(given: object, size: int) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize("given", ["6 XB", "GB", "", "6", 6, True, "-1GB", "inf", "nan", 1e400, [1], "9" * 30 + "GB"])
def test_what_is_no_size_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="6GB"):
        parse_size(given)


def test_free_memory_is_that_of_the_container(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    (cgroups / "a" / "b").mkdir(parents=True)
    assert free_of_machine(proc, cgroups) == 8000 * 1024
    for folder, limit in ((cgroups / "a", "3000000"), (cgroups / "a" / "b", "max")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("1000000")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 200000\n")
    assert free_of_machine(proc, cgroups) == 3000000 - 1000000 + 200000
    (cgroups / "a" / "b" / "memory.max").write_text("1500000")
    assert free_of_machine(proc, cgroups) == 700000


def test_a_machine_that_tells_nothing_has_some(tmp_path: Path) -> None:
    assert 10**6 < free_of_machine(tmp_path, tmp_path) <= UNKNOWN
