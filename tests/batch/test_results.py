"""A folder of results over several runs: what is done stays, what is killed goes on, what fails is listed."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.batch_stub import StubRenderer
from support.paths import ROOT

from animatediff.batch import BadRowsError, OnRay, Progress, RenderRow, Report, read_jobs, render_jobs, results
from animatediff.errors import UserError
from animatediff.media.read import read_video
from animatediff.render import load_result, sidecar_of

CHILD = ROOT / "tests" / "support" / "batch_child.py"


def table(path: Path, rows: list[str], header: str = "id,prompt,seed") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def many(path: Path, count: int = 40) -> Path:
    return table(path, [f"r{number},clip {number},{number}" for number in range(count)])


def child(*arguments: object) -> subprocess.Popen[str]:
    """A batch in a process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, CHILD, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )


def facts_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a child says at its end."""
    out, _ = process.communicate("", timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Each video, and when it was written."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("*.mp4")}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(rows: Path, folder: Path, **settings: Any) -> tuple[Report, list[str]]:
    """The report of a run here, and the prompts that it rendered."""
    log = folder.parent / "log.txt"
    log.write_text("")
    report = render_jobs(read_jobs(rows), folder, renderer=settings.pop("renderer", StubRenderer(log)), **settings)
    return report, log.read_text().splitlines()


def test_forty_rows_killed_twice(tmp_path: Path) -> None:
    """In the middle of a clip, and when a file is there that is not in the list yet."""
    rows, folder, log = many(tmp_path / "rows.csv"), tmp_path / "out", tmp_path / "log.txt"
    before: dict[str, tuple[int, int]] = {}
    for place, number in (("during", 13), ("after", 27)):
        process = child("here", rows, folder, log, place, f"clip {number}")
        assert process.stdout is not None and process.stdout.readline() == f"at clip {number}\n"
        if place == "during":
            with pytest.raises(UserError, match=f"another run .process {process.pid} on .* writes its results here"):
                render_jobs(read_jobs(rows), folder, renderer=StubRenderer(log))
        process.kill()  # SIGKILL
        process.communicate()
        now = stamps(folder)
        assert len(now) == number + (place == "after")
        assert before.items() <= now.items()
        before = now
    with (folder / "results.jsonl").open("a") as file:
        file.write('{"id": "r2')  # as a killed run may leave it
    facts = facts_of(child("here", rows, folder, log))
    assert facts == {"rendered": 12, "done": 28, "left": 0, "failed": []}
    assert before.items() <= stamps(folder).items()
    assert sorted(log.read_text().splitlines()) == sorted(f"clip {number}" for number in range(40)), "each once"
    assert sorted(path.name for path in folder.glob("*.mp4")) == sorted(f"r{number}.mp4" for number in range(40))
    listed = [
        line["id"]
        for line in map(json.loads, (folder / "results.jsonl").read_text().replace('{"id": "r2\n', "").splitlines())
    ]
    assert sorted(listed) == sorted(f"r{number}" for number in range(40))
    assert not list(folder.glob(".*.part")), "what was half-written is gone"
    for number in (0, 13, 27, 39):
        path = folder / f"r{number}.mp4"
        assert len(read_video(path)[0]) == 3 and load_result(path).seed == (number,) and sidecar_of(path).is_file()


def test_what_is_done_and_what_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows, folder = tmp_path / "rows.csv", tmp_path / "out"
    table(rows, ["a,clip a,1", "b,clip b,2", "c,clip c,3", "d,clip d,4", "e,clip e,"])
    report, rendered = run(rows, folder)
    assert rendered == ["clip a", "clip b", "clip c", "clip d", "clip e"] and not report.failed
    assert run(rows, folder)[1] == []
    (folder / "results.jsonl").unlink()
    assert run(rows, folder)[1] == [], "results tell it themselves"
    assert len(lines_of(folder / "results.jsonl")) == 5

    table(rows, ["a,clip a,7", "b,clip b,2", "c,clip c,3", "d,clip d,4", "e,clip e,", "f,clip f,6"])
    (folder / "c.mp4").unlink()
    whole = (folder / "d.mp4").read_bytes()
    (folder / "d.mp4").write_bytes(whole[: len(whole) // 2])
    report, rendered = run(rows, folder)
    assert rendered == ["clip a", "clip c", "clip d", "clip f"] and report.num_done == 2
    assert "line 2 (a): its settings are others than those of a.mp4; rendered again" in caplog.text
    assert "line 5 (d): d.mp4 is not whole; rendered again" in caplog.text
    assert load_result(folder / "a.mp4").seed == (7,)
    assert (folder / "d.mp4").read_bytes() == whole


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    rows, folder = table(tmp_path / "rows.csv", ["a,clip a,1", "b,clip b,2"]), tmp_path / "out"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"mine")
    with pytest.raises(
        BadRowsError, match=r"rows.csv, line 2 \(a\): .*a.mp4: is there already, and no result of a batch"
    ):
        run(rows, folder)
    report, rendered = run(rows, folder, keep_going=True)
    assert rendered == ["clip b"] and [fault.id for fault in report.failed] == ["a"]
    assert (folder / "a.mp4").read_bytes() == b"mine"


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"no Ray cluster at {address} .*; `ray` without an address starts one"):
            run(many(tmp_path / "rows.csv", 2), tmp_path / "out", on_ray=OnRay(address=address))


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["rows.csv", "--ray"], "local"),
        (["--ray", "rows.csv"], "local"),
        (["rows.csv", "--ray", "--quiet"], "local"),
        (["--ray", "auto", "rows.csv"], "auto"),
        (["rows.csv", "--ray", "10.0.0.1:6379"], "10.0.0.1:6379"),
        (["--ray=ray://head:10001", "rows.csv"], "ray://head:10001"),
    ],
)
def test_the_address_of_a_cluster_may_be_left_out(
    arguments: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from animatediff.cli import batch

    given: dict[str, Any] = {}
    monkeypatch.setattr(batch, "run", lambda path, values, **settings: given.update(settings, path=path))
    batch.command().main(arguments, standalone_mode=False)
    assert given["path"] == Path("rows.csv") and given["on_ray"].address == address


class Refusing(StubRenderer):
    """A renderer that refuses some clips when they are checked, and fails at others."""

    checked = 0

    def prepare(self, requests: Any, **settings: Any) -> Any:
        self.checked += 1
        assert settings["fetch"] is False, "what is only checked is not fetched"
        if bad := next((request for request in requests if "refused" in request.prompt[0]), None):
            raise UserError(f"seed={bad.seed[0]} does not fit")
        return list(requests)

    def render(self, requests: Any, to: Any, **settings: Any) -> Any:
        prompt = requests[0].prompt[0]
        if "memory" in prompt:
            raise MemoryError
        if "error" in prompt:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
        if "full" in prompt:
            raise UserError("the disk is full") from OSError(errno.ENOSPC, "No space left on device")
        return super().render(requests, to, **settings)


def test_all_rows_are_checked_before_the_first_is_rendered(tmp_path: Path) -> None:
    rows, folder, log = tmp_path / "rows.csv", tmp_path / "out", tmp_path / "log.txt"
    table(rows, [*(f"r{n},clip {n},{n}" for n in range(100)), "x,refused,5", "y,clip,-7", "z,refused,6"])
    renderer = Refusing(log)
    with pytest.raises(BadRowsError) as error:
        run(rows, folder, renderer=renderer)
    assert str(error.value).splitlines() == [
        f"{rows}: 3 bad rows, nothing is rendered",
        f"{rows}, line 102 (x): column 'seed': seed=5 does not fit",
        f"{rows}, line 103 (y): column 'seed': seed[0]='-7': expected a seed of 64 bits, 0 to 2**64 - 1, or -1 for a "
        "random one",
        f"{rows}, line 104 (z): column 'seed': seed=6 does not fit",
    ]
    assert stamps(folder) == {} and renderer.checked < 30, "good rows are checked together"
    assert [(line["id"], line["tries"]) for line in lines_of(folder / "failed.jsonl")] == [("x", 0), ("y", 0), ("z", 0)]
    report, rendered = run(rows, folder, renderer=renderer, check=True, keep_going=True)
    assert rendered == [] and report.num_left == 100 and len(report.failed) == 3
    report, rendered = run(rows, folder, renderer=renderer, keep_going=True)
    assert len(rendered) == 100 and [fault.id for fault in report.failed] == ["x", "y", "z"]


def test_a_format_that_cannot_hold_what_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,prompt,video,audio,out\na,clip a,a.mp4,yes,a.gif\nb,clip b,,,\n")
    with pytest.raises(BadRowsError, match=r"line 2 \(a\): column 'audio': .*a.gif: holds no sound"):
        run(tmp_path / "rows.csv", tmp_path / "out")
    assert run(tmp_path / "rows.csv", tmp_path / "out", keep_going=True)[1] == ["clip b"]


def test_a_file_of_bad_rows_ends_early(tmp_path: Path) -> None:
    rows = table(tmp_path / "rows.csv", [f"r{n},refused,{n}" for n in range(1000)])
    renderer = Refusing(tmp_path / "log.txt")
    with pytest.raises(BadRowsError, match="20 or more bad rows"):
        run(rows, tmp_path / "out", renderer=renderer)
    assert renderer.checked < 60


def test_what_fails_is_listed_and_tried_again(tmp_path: Path) -> None:
    rows, folder, log = tmp_path / "rows.csv", tmp_path / "out", tmp_path / "log.txt"
    table(rows, ["a,out of memory,1", "b,clip b,2", "c,an error,3", "d,clip d,4"])
    report, rendered = run(rows, folder, renderer=Refusing(log))
    assert rendered == ["clip b", "clip d"] and report.num_left == 0
    reasons = {line["id"]: line["reason"] for line in lines_of(folder / "failed.jsonl")}
    assert reasons.keys() == {"a", "c"}
    assert reasons["a"].startswith("out of memory: try fewer") and "mat1 and mat2 shapes" in reasons["c"]
    report, rendered = run(rows, folder)
    assert rendered == ["out of memory", "an error"] and not report.failed
    assert not (folder / "failed.jsonl").exists()


def test_a_clip_of_other_settings_keeps_its_drawn_seed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for steps in (1, 2):
        run(table(tmp_path / "rows.csv", [f"a,clip a,{steps}", "b,clip b,1"], "id,prompt,steps"), folder)
    first, _, again = lines_of(folder / "results.jsonl")
    assert first["id"] == again["id"] == "a" and first["fingerprint"] != again["fingerprint"]
    assert first["seed"] == again["seed"] == load_result(folder / "a.mp4").seed[0]
    run(table(tmp_path / "rows.csv", ["a,clip a,2,7"], "id,prompt,steps,seed"), folder)
    assert load_result(folder / "a.mp4").seed == (7,), "one that is given is taken"


def test_a_full_disk_ends_the_run(tmp_path: Path) -> None:
    rows, log = tmp_path / "rows.csv", tmp_path / "log.txt"
    table(rows, ["a,clip a,1", "b,a full disk,2", "c,clip c,3"])
    report, rendered = run(rows, tmp_path / "out", renderer=Refusing(log))
    assert rendered == ["clip a"] and report.num_left == 1
    assert [fault.reason for fault in report.failed] == ["the disk is full"]


def test_a_full_disk_that_takes_no_list_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(path: Path, *_: object) -> None:
        raise UserError(f"{path}: the disk is full") from OSError(errno.ENOSPC, "No space left on device")

    rows = table(tmp_path / "rows.csv", ["b,a full disk,2", "c,clip c,3"])
    monkeypatch.setattr(results, "write_text", no_space)
    monkeypatch.setattr(results, "_append", no_space)
    report, _ = run(rows, tmp_path / "out", renderer=Refusing(tmp_path / "log.txt"))
    assert [fault.reason for fault in report.failed] == ["the disk is full"] and report.num_left == 1


def test_a_cancelled_run_keeps_what_is_done(tmp_path: Path) -> None:
    rows, folder, log = many(tmp_path / "rows.csv", 6), tmp_path / "out", tmp_path / "log.txt"
    stop: list[str] = []
    renderer = StubRenderer(log, during=lambda prompt: stop.append(prompt) if prompt == "clip 3" else None)
    report, rendered = run(rows, folder, renderer=renderer, cancel=lambda: bool(stop))
    assert rendered == ["clip 0", "clip 1", "clip 2"] and report.num_left == 3
    assert sorted(stamps(folder)) == ["r0.mp4", "r1.mp4", "r2.mp4"] and not list(folder.glob(".*.part"))
    assert run(rows, folder)[1] == ["clip 3", "clip 4", "clip 5"]


def test_rows_of_one_model_follow_each_other(tmp_path: Path) -> None:
    rows = [f"clip {n},{sampler}" for n, sampler in enumerate(["ddim", "euler_a", "ddim", "lcm", "euler_a", "ddim"])]
    seen: list[Progress] = []
    table(tmp_path / "rows.csv", rows, header="prompt,scheduler")
    _, rendered = run(tmp_path / "rows.csv", tmp_path / "out", on_progress=seen.append)
    assert rendered == ["clip 0", "clip 2", "clip 5", "clip 1", "clip 4", "clip 3"]
    assert [(progress.step, progress.total) for progress in seen] == [(n, 6) for n in range(1, 7)]
    assert seen[0].time_left is None and seen[1].time_left is not None and seen[-1].time_left == 0


def test_on_a_local_ray_of_two_workers_of_which_one_is_killed(tmp_path: Path) -> None:
    """Forty rows, one of which kills its worker the first time; one more kills every worker."""
    pytest.importorskip("ray")
    folder, log = tmp_path / "out", tmp_path / "log.txt"
    rows = [f"r{n},clip {n}{' dies once' * (n == 11)},{n}" for n in range(40)]
    path = table(tmp_path / "rows.csv", [*rows[:20], "poison,dies always,1", *rows[20:]])
    facts = facts_of(child("ray", path, folder, log))
    assert facts == {"rendered": 40, "done": 0, "left": 0, "failed": ["poison"]}
    assert sorted(log.read_text().splitlines()) == sorted(row.split(",")[1] for row in rows), "each once"
    assert sorted(line["id"] for line in lines_of(folder / "results.jsonl")) == sorted(f"r{n}" for n in range(40))
    assert sorted(stamps(folder)) == sorted(f"r{n}.mp4" for n in range(40))
    assert load_result(folder / "r11.mp4").seed == (11,)
    ((line),) = lines_of(folder / "failed.jsonl")
    assert line["tries"] == 2 and "workers died over it 2 times" in line["reason"]


def test_the_worker_in_plain_python(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    worker = RenderRow({"folder": tmp_path / "out", "format": "gif", "n_prompt": "blurry"}, renderer=StubRenderer(log))
    row = {"id": "fox", "prompt": "a fox", "seed": 3, "video": None, "upscale": float("nan"), "shot": None}
    done = worker(row)
    assert done == {**row, "file": str(tmp_path / "out" / "fox.gif"), "seed": 3, "error": None}
    assert load_result(done["file"]).negative_prompt == ("blurry",)
    assert worker(row) == done and log.read_text() == "a fox\n", "rendered once"
    bad = worker({"prompt": "a fox", "stesp": 3})
    assert bad["file"] is None and "did you mean 'steps'" in bad["error"]
    travel = worker({"prompt": "a fox", "seed": "9", "prompt_travel": "1=a boat|2=a car", "loras": ""})
    assert load_result(travel["file"]).prompt_travel == ({1: "a boat", 2: "a car"},)
    assert "write a row for each" in worker({"prompt": "a fox", "seed": "1|2"})["error"]
    assert "write a row for each" in worker({"prompt": ["a", "b"]})["error"]
    assert worker({"prompt": "a fox", "seed": 4})["error"] is None, "the worker goes on"
    with pytest.raises(UserError, match="did you mean 'steps'"):
        RenderRow({"stesp": 1})


def test_ctrl_c_ends_the_command_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from animatediff.batch import run as run_module
    from animatediff.cli.main import app

    monkeypatch.chdir(tmp_path)
    many(tmp_path / "rows.csv", 4)
    log = tmp_path / "log.txt"

    def interrupt(prompt: str) -> None:
        if prompt == "clip 2" and log.read_text().count("\n") == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(run_module, "_Late", lambda jobs: StubRenderer(log, during=interrupt))
    result = CliRunner().invoke(app, ["batch", "rows.csv"])
    assert result.exit_code == 130
    assert "2 rendered; 2 not rendered, the same command goes on with them" in result.stderr
    assert len(result.stdout.splitlines()) == 2
    log.write_text("")
    result = CliRunner().invoke(app, ["batch", "rows.csv", "--quiet"])
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.splitlines() == ["samples/rows/r2.mp4", "samples/rows/r3.mp4"]
