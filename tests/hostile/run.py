"""Run each sample in a process of its own, within limits of time and memory; prints JSON: name -> its end.

Processes part from one that has imported everything, so that memory is that of the sample alone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]


def main() -> None:
    import torch
    from fuzz import SECONDS, limit_memory
    from typer.testing import CliRunner

    import animatediff.evaluation
    import animatediff.media
    import animatediff.render.render
    import animatediff.weights.inspect  # noqa: F401
    from animatediff.cli import animate
    from animatediff.cli.main import app
    from hostile.samples import SAMPLES

    torch.set_num_threads(1)
    animate.command()
    CliRunner().invoke(app, ["evaluate", "nothing.mp4"])
    ends: dict[str, Any] = {}
    for name, sample in SAMPLES.items():
        with tempfile.TemporaryDirectory(prefix="hostile") as folder, tempfile.TemporaryFile() as report:
            arguments = sample.make(Path(folder))
            pid = os.fork()
            if pid == 0:
                _run(app, arguments, report.fileno(), SECONDS, limit_memory)
            _, status, usage = os.wait4(pid, 0)
            report.seek(0)
            end = json.loads(report.read() or b"{}")
            ends[name] = end | {"status": status, "seconds": usage.ru_utime + usage.ru_stime}
    print(json.dumps(ends))


def _run(app: Any, arguments: list[str], report: int, seconds: int, limit_memory: Any) -> None:
    import resource

    from typer.testing import CliRunner

    try:
        limit_memory()
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        result = CliRunner().invoke(app, arguments)
        error = "" if result.exception is None or isinstance(result.exception, SystemExit) else repr(result.exception)
        end = {"code": result.exit_code, "output": result.output, "error": error}
    except BaseException:
        end = {"code": -1, "output": "", "error": traceback.format_exc()}
    os.write(report, json.dumps(end).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
