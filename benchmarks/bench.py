"""Ours beside the installed diffusers in one run: steps, decoding, memory, import, in each number format.

`make bench`, or `python benchmarks/bench.py [--size half] [--pixels 256] [--frames 8] [--dtypes float32,bfloat16]`.
Both pipelines hold the same random weights once (`random_models.py`) and take turns in one process with one thread;
times are those of the processor, on a GPU (`--device cuda`) of the clock on the wall. Guidance is on. Ratios below 1
are in our favour. `--size sd1` is Stable Diffusion 1.5 (6 GB of memory in float32), `half` has half of its channels.
`--compile` adds a row for the compiled UNet, which compiles for some minutes first.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from random_models import CHANGES, SIDES, pipelines, quiet  # noqa: E402  # the folder is no package
from watch import Run, call  # noqa: E402

IMPORTS = {
    "diffusers": "from diffusers import AnimateDiffPipeline",
    "ours": "from animatediff.pipelines import AnimateDiffPipeline",
}
GOALS = {"step": 0.80, "decode": 0.85, "memory": 1.0, "import": 0.5, "balanced": 0.45, "max": 0.33}
FAST = ("off", "balanced", "max")
ALL = ("float32", "bfloat16", "float16")


def formats_of(device: str) -> list[str]:
    """The number formats to measure: without those for which a CPU has no instructions, which take minutes a step."""
    from animatediff.pipelines.number_probe import measure

    worth = None if device != "cpu" else {str(dtype).removeprefix("torch.") for dtype in measure()}
    return [name for name in ALL if worth is None or name in worth]


def row(*cells: Any) -> None:
    """Print a row of a table at once."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def compared(name: str, theirs: float, ours: float, goal: str = "", digits: int = 2) -> None:
    """Print a row with a ratio."""
    ratio = f"{ours / theirs:.2f}" if theirs else ""
    row(name, f"{theirs:.{digits}f}", f"{ours:.{digits}f}", ratio, f"{GOALS[goal]:.2f}" if goal else "")


def processor_seconds(command: list[str], times: int) -> float:
    """Processor time of a command, the median."""
    taken = []
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)


def of_type(dtype: str, args: argparse.Namespace) -> dict[str, float]:
    """Rows of one number format; returns the seconds of a step of both sides."""
    import torch

    pipes = pipelines(args.size, getattr(torch, dtype), args.device)
    settings: dict[str, Any] = {"num_frames": args.frames, "height": args.pixels, "width": args.pixels}
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for pipe in pipes.values():  # what is loaded and chosen once
        call(pipe, args.device, num_inference_steps=1, num_frames=1, height=64, width=64)
    for turn in range(args.rounds):
        for side in SIDES if turn % 2 else reversed(SIDES):
            runs[side].append(call(pipes[side], args.device, num_inference_steps=args.steps + 1, **settings))
    step, decode, memory = (
        {side: _middle(runs[side], part) for side in SIDES} for part in ("step", "decode", "memory")
    )
    compared(f"{dtype}: a step (s)", *(step[side] for side in SIDES), goal="step")
    compared(f"{dtype}: decoding (s)", *(decode[side] for side in SIDES), goal="decode")
    compared(f"{dtype}: memory beyond the weights (MiB)", *(memory[side] for side in SIDES), goal="memory", digits=0)
    if args.compile:
        compile_unet(pipes["ours"])
        call(pipes["ours"], args.device, num_inference_steps=1, **settings)
        run = call(pipes["ours"], args.device, num_inference_steps=args.steps + 1, **settings)
        compared(f"{dtype}: a step, compiled (s)", step["diffusers"], statistics.median(run.steps))
    return step


def _middle(runs: list[Run], part: str) -> float:
    found = {
        "step": [seconds for run in runs for seconds in run.steps],
        "decode": [run.decode for run in runs],
        "memory": [run.peak.beyond for run in runs],
    }
    return statistics.median(found[part])


def compile_unet(pipe: Any) -> None:
    """Compile our UNet in the way that `--compile` does."""
    pipe.enable_compile()


def fast_modes(dtype: str, args: argparse.Namespace) -> None:
    """Rows of the fast modes: all steps of a schedule against those of the exact mode, ours."""
    import torch

    pipe = pipelines(args.size, getattr(torch, dtype), args.device)["ours"]
    settings: dict[str, Any] = {"num_frames": args.frames, "height": args.pixels, "width": args.pixels}
    seconds = {}
    for level in FAST:
        run = call(pipe, args.device, num_inference_steps=args.fast_steps, fast=level, **settings)
        seconds[level] = sum(run.steps)
    for level in FAST[1:]:
        name = f'{dtype}: {args.fast_steps} steps, fast="{level}" against exact (s)'
        compared(name, seconds["off"], seconds[level], goal=level)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--size", default="half", choices=tuple(CHANGES), help="size of the models")
    parser.add_argument("--pixels", type=int, default=256, help="of the frames, both ways")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after one that is not")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--fast-steps", type=int, default=25, help="steps of the fast modes; 0 leaves them out")
    parser.add_argument("--imports", type=int, default=3, help="times that each import is timed; 0 leaves it out")
    parser.add_argument("--dtypes", help="number formats, with commas; default all that the hardware computes in")
    parser.add_argument("--compile", action="store_true", help="a row for the compiled UNet as well")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    args = parser.parse_args(argv)
    import torch

    from animatediff.pipelines.precision import default_dtype

    torch.set_num_threads(args.threads)
    quiet()
    chosen = str(default_dtype(args.device)).removeprefix("torch.")
    place = torch.cuda.get_device_name() if args.device != "cpu" else f"CPU, {args.threads} thread(s)"
    print(f"{args.size}, {args.frames} frames of {args.pixels}x{args.pixels}; {place}; torch {torch.__version__}")
    dtypes = args.dtypes.split(",") if args.dtypes else formats_of(args.device)
    print(f"`--dtype auto` takes {chosen} here")
    if left_out := [name for name in ALL if name not in dtypes]:
        print(f"left out: {', '.join(left_out)}")
    print()
    row("measured", "diffusers (exact, for fast modes)", "ours", "ratio", "goal")
    row(*["---"] * 5)
    steps = {dtype: of_type(dtype, args) for dtype in dtypes}
    if "bfloat16" in steps and chosen in steps:
        compared(
            f"a step, ours in {chosen} against bfloat16 (s)", steps["bfloat16"]["diffusers"], steps[chosen]["ours"]
        )
    if args.fast_steps:
        fast_modes(chosen if chosen in steps else next(iter(steps)), args)
    if args.imports:
        times = [processor_seconds([sys.executable, "-c", IMPORTS[side]], args.imports) for side in SIDES]
        compared("import (s)", *times, goal="import")
        told = processor_seconds([sys.executable, "-m", "animatediff.cli.main", "--help"], args.imports)
        row("animatediff --help (s)", "", f"{told:.2f}", "", "0.50 s")


if __name__ == "__main__":
    main()
