"""A batch in a process of its own, for tests that kill it: batch_child.py here|ray ROWS FOLDER LOG [PLACE PROMPT]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from animatediff.batch import OnRay, read_jobs, render_jobs
from support.batch_stub import DyingWorker, StubRenderer


def wait_for_the_end(prompt: str) -> None:
    """Say that the place is reached where the test kills this process."""
    print(f"at {prompt}", flush=True)
    sys.stdin.read()


def main() -> None:
    how, rows, folder, log, *at = sys.argv[1:]
    place, prompt = at or ("", "")
    waiting = {place: lambda of: wait_for_the_end(of) if of == prompt else None}
    on_ray = OnRay(workers=2, init={"num_cpus": 2}, worker=DyingWorker) if how == "ray" else None
    renderer = StubRenderer(Path(log), **{name: waiting.get(name, lambda of: None) for name in ("during", "after")})
    report = render_jobs(read_jobs(rows), folder, renderer=renderer, on_ray=on_ray)
    facts = {"rendered": len(report.rendered), "done": report.num_done, "left": report.num_left}
    print(json.dumps(facts | {"failed": [fault.id for fault in report.failed]}), flush=True)


if __name__ == "__main__":
    main()
