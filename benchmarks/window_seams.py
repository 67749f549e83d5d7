"""Whether one sees where the windows of a long clip meet: how much neighbouring frames differ there and elsewhere.

`python benchmarks/window_seams.py [--frames 256] [--prompt TEXT] [--overlap 0]` renders with the bundled model, in both
ways (`--long-mode`) and all at its defaults unless said, and prints a row each: mean absolute difference of neighbours
(0..255) where a window begins or ends, elsewhere, and the ratio; 1 is no seam. The clip is kept as `--out`.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import torch

from animatediff.media import write_video
from animatediff.motion.windows import uniform_windows
from animatediff.pipelines import AnimateDiffPipeline

WINDOW = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--prompt", default="a snail spinning on a purple background")
    parser.add_argument("--overlap", type=int, default=WINDOW // 4)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--mode", nargs="+", default=["unet", "motion"])
    parser.add_argument("--out", type=Path, help="folder for the clips")
    args = parser.parse_args()
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    windows = uniform_windows(args.frames, WINDOW, args.overlap)
    edges = {window.start for window in windows[1:]} | {window.stop for window in windows[:-1]}
    print("| long_mode | frames | windows | at their edges | elsewhere | ratio | seconds | peak MiB |")
    print("|---|---|---|---|---|---|---|---|")
    for mode in args.mode:
        began = time.perf_counter()
        frames = pipe(
            args.prompt,
            num_frames=args.frames,
            window=WINDOW,
            overlap=args.overlap,
            long_mode=mode,
            num_inference_steps=args.steps,
            generator=torch.Generator().manual_seed(args.seed),
            output_type="np",
        ).frames[0]
        change = 255 * np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))  # of frame i + 1 against i
        at_edge = np.isin(np.arange(1, len(frames)), list(edges))
        edge, inside = change[at_edge].mean(), change[~at_edge].mean()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"| {mode} | {args.frames} | {len(windows)} | {edge:.2f} | {inside:.2f} | {edge / inside:.2f} | "
            f"{time.perf_counter() - began:.0f} | {peak:.0f} |",
            flush=True,
        )
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            write_video((frames * 255).round().astype(np.uint8), args.out / f"{mode}.mp4")


if __name__ == "__main__":
    main()
