"""What clips longer than the motion module knows cost: time per frame and step, and peak memory, for both ways.

`python benchmarks/long_clips.py [--frames 16 64 256] [--steps 2] [--size 64] [--overlap 4] [--format mp4]`. The bundled
model in float32, one thread, guidance on; from the request to the file, decoding and writing included; each row in a
process of its own. Times are CPU times, which other work on the machine hardly changes. Linear cost is a flat column of
times; "memory" is what the process held at most (ru_maxrss) above what it held with the model loaded and a clip of one
window written, and flat where it does not grow with the clip.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from watch import rss_mib  # the folder is no package

ROOT = Path(__file__).resolve().parent.parent
MODES = ("unet", "motion")


def measure(mode: str, num_frames: int, args: argparse.Namespace) -> dict[str, float]:
    """Render one clip into a file, in this process."""
    import torch

    from animatediff.render import Event, OneFile, Renderer, build_request

    torch.set_num_threads(1)
    renderer = Renderer()
    times = dict.fromkeys(("load", "denoise", "decode", "write"), 0.0)
    last = time.process_time()

    def on_event(event: Event) -> None:
        nonlocal last
        now = time.process_time()
        times[event.phase] += now - last
        last = now

    with tempfile.TemporaryDirectory() as folder:

        def render(frames: int, **changes: int) -> None:
            nonlocal last
            values = {
                "prompt": "a fox moving right on a green background", "seed": 1, "num_frames": frames,
                "height": args.size, "width": args.size, "steps": args.steps, "long_mode": mode, "window": 16,
                "overlap": args.overlap, "out": f"{folder}/clip.{args.format}", **changes,
            }  # fmt: skip
            request = build_request(values)
            last = time.process_time()
            renderer.render([request], OneFile(request.out), on_event=on_event)

        render(16, steps=1)  # warm up: the model, the codec, the buffers of one window
        loaded = rss_mib()
        times = dict.fromkeys(times, 0.0)
        render(num_frames)
    return {
        "ms_per_frame_step": 1000 * times["denoise"] / num_frames / args.steps,
        "ms_per_frame_decode": 1000 * (times["decode"] + times["write"]) / num_frames,
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - loaded,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=64, help="pixels along each side")
    parser.add_argument("--overlap", type=int, default=4)
    parser.add_argument("--format", default="mp4", help="suffix of the file")
    parser.add_argument("--row", nargs=2, metavar=("MODE", "FRAMES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row is not None:
        print(json.dumps(measure(args.row[0], int(args.row[1]), args)))
        return
    own = [f"--{name}={getattr(args, name)}" for name in ("steps", "size", "overlap", "format")]
    # what is freed goes back to the system at once: holes that the allocator keeps are not needed by a clip
    allocator = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
    environment = {**os.environ, **allocator, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    print("| long_mode | frames | ms per frame and step | ms per frame, decoding and writing | memory, MiB |")
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
