"""Kill a render by SIGKILL at random moments, let the same request go on, and compare the files to the bit.

    python benchmarks/resume.py --kills 20

Each render is a process of its own, which is killed a random moment after a random call of a model (POSIX alone). The
state is saved whenever it can be, which is far more often than any user would ask for.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import OneFile, Renderer, Resume, build_request

CASES: tuple[dict[str, Any], ...] = (
    {"scheduler": "euler_a", "num_frames": 8, "window": 4, "steps": 3},
    {"scheduler": "dpmpp_2m_sde", "num_frames": 6, "window": 4, "steps": 3, "freeinit": 2, "guidance_scale": 1.0},
    {"scheduler": "unipc", "num_frames": 8, "window": 4, "steps": 4, "long_mode": "motion"},
    {"scheduler": "heun", "num_frames": 6, "steps": 2, "upscale": 2.0},
    {"scheduler": "ddim", "num_frames": 6, "steps": 12, "fast": "balanced"},
)
"""Settings of the renders, in turn."""
LATEST_S = 0.05
"""Seconds after a call of a model at which the process dies at the latest."""


def request_of(case: dict[str, Any]) -> Any:
    settings = {name: value for name, value in case.items() if name != "scheduler"}
    return build_request({"prompt": "a fox moving right", "seed": 7, "width": 32, "height": 32, **settings})


def in_a_process(pipe: Any, case: dict[str, Any], file: Path, kill_at: int | None = None, after_s: float = 0.0) -> int:
    """Render in a child; returns its exit status, -9 where it was killed, else 0."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        pipe.set_scheduler(case["scheduler"])
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

        pipe.unet.register_forward_pre_hook(count)
        pipe.vae.decoder.register_forward_pre_hook(count)
        to = OneFile(str(file), resume=Resume(save_every=0.0))
        Renderer.of(pipe).render([request_of(case)], to)
        file.with_suffix(".calls").write_text(str(calls))
        os._exit(0)
    except BaseException as error:  # a child must not go on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the random moments")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="one of the renders alone")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    pipe = AnimateDiffPipeline.from_bundled()
    equal, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        wanted: dict[int, tuple[bytes, int]] = {}
        for number in range(given.kills):
            which = number % len(CASES) if given.case is None else given.case
            case, whole = CASES[which], Path(place) / f"whole-{which}.mp4"
            if which not in wanted:
                assert in_a_process(pipe, case, whole) == 0
                wanted[which] = whole.read_bytes(), int(whole.with_suffix(".calls").read_text())
            content, calls = wanted[which]
            folder = Path(place) / str(number)
            folder.mkdir()
            file, kill_at, after_s = folder / "fox.mp4", chance.randint(1, calls), chance.uniform(0, LATEST_S)
            killed = in_a_process(pipe, case, file, kill_at, after_s) == -signal.SIGKILL
            left = sorted(path.name for path in folder.iterdir())
            again = in_a_process(pipe, case, file)
            made = int(file.with_suffix(".calls").read_text())
            nothing_left = {path.name for path in folder.iterdir()} <= {"fox.mp4", "fox.mp4.json", "fox.calls"}
            same = again == 0 and file.read_bytes() == content and nothing_left
            equal += same
            end = "killed" if killed else "done before"
            named = " ".join(f"{name}={value}" for name, value in case.items())
            print(
                f"{number + 1:3}  {end} {1000 * after_s:3.0f} ms after call {kill_at} "
                f"of {calls}; {made} more calls; {'equal' if same else f'NOT EQUAL, left: {left}'}  ({named})",
                flush=True,
            )
    print(f"{equal} of {given.kills} results equal to the bit, in {time.monotonic() - began:.0f} s")
    raise SystemExit(equal != given.kills)


if __name__ == "__main__":
    main()
