"""What clips longer than the motion module knows cost: time per frame and step, and peak memory, for both ways.

`python benchmarks/long_clips.py [--frames 16 64 256] [--steps 2] [--size 64] [--overlap 4]`. The bundled model in
float32, one thread, guidance on; each row in a process of its own. Times are CPU times, which other work on the machine
hardly changes. Linear cost is a flat column of times; "memory" is what the process held at most while rendering, above
what it held with the model loaded, and flat where it does not grow with the clip.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODES = ("unet", "motion")


def rss_mib() -> float:
    """Memory that this process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(mode: str, num_frames: int, args: argparse.Namespace) -> dict[str, float]:
    """Render one clip in this process."""
    import torch

    from animatediff.pipelines import AnimateDiffPipeline

    torch.set_num_threads(1)
    pipe = AnimateDiffPipeline.from_bundled()
    settings: dict[str, Any] = {
        "height": args.size, "width": args.size, "num_inference_steps": args.steps, "long_mode": mode, "window": 16,
        "overlap": args.overlap,
    }  # fmt: skip
    pipe("a fox moving right on a green background", num_frames=1, **dict(settings, window=1, overlap=0))  # warm up
    loaded = rss_mib()
    times = {"denoise": 0.0, "decode": 0.0}
    last = time.process_time()

    def on_progress(progress: Any) -> None:
        nonlocal last
        now = time.process_time()
        times[progress.phase] += now - last
        last = now

    pipe("a fox moving right on a green background", num_frames=num_frames, on_progress=on_progress, **settings)
    return {
        "ms_per_frame_step": 1000 * times["denoise"] / num_frames / args.steps,
        "ms_per_frame_decode": 1000 * times["decode"] / num_frames,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - loaded,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels along each side")
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--row", nargs=2, metavar=("MODE", "FRAMES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measure(args.row[0], int(args.row[1]), args)))
        return
    own = [f"--{name}={getattr(args, name)}" for name in ("steps", "size", "overlap")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    print("| long_mode | frames | ms per frame and step | ms per frame, decoding | memory, MiB |")
    print("|---|---|---|---|---|")
    for mode in MODES:
        for num_frames in args.frames:
            command = [sys.executable, __file__, *own, "--row", mode, str(num_frames)]
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            row = json.loads(out.splitlines()[-1])
            print(
                f"| {mode} | {num_frames} | {row['ms_per_frame_step']:.1f} | {row['ms_per_frame_decode']:.1f} | "
                f"{row['memory_mib']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
