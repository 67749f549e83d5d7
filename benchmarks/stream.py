"""Whether a stream stays as it begins: memory, time a frame, and what is seen, over 1,000 frames of `long_mode` fifo.

`python benchmarks/stream.py [--frames 1000] [--steps 16] [--prompt TEXT] [--out DIR]` takes frames of the bundled model
at its own size from `pipe.stream`, without end, and prints a row for each stretch: memory of the process and CPU time a
frame, and what is measured on windows of 16 of its frames: warp error (`animatediff evaluate`), and how many show the
object, the background and the motion of the prompt by the classifier of sprites. Usual clips of 16 frames of the same
prompt, of as many seeds as there are windows in the first stretch, stand in the first row. With `--out`, the frames as
stream.mp4 and eight of them, evenly spaced, as stream.png.
"""

from __future__ import annotations

import argparse
import resource
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from watch import rss_mib  # the folder is no package

from animatediff.evaluation import measure
from animatediff.media import VideoWriter
from animatediff.media.image_file import write_image
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import to_bytes
from animatediff.sprites.classifier import classify_clip, load_classifier
from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS

WINDOW = 16
SHOWN = 8


class Judge:
    """What clips of one prompt show."""

    def __init__(self, prompt: str) -> None:
        words = prompt.split()
        self.classifier = load_classifier()
        self.obj, self.background = (next(w for w in words if w in known) for known in (OBJECTS, BACKGROUNDS))
        self.motion = next((word for word in words if word in MOTIONS), "still")

    def __call__(self, frames: np.ndarray) -> tuple[float, bool, bool, bool]:
        """Warp error in percent; object, background and motion right. frames: uint8 (16, h, w, 3)."""
        found = classify_clip(self.classifier, torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255)
        right = (found.obj == self.obj, found.background == self.background, found.moved(self.motion))
        return measure(frames).warp_error, *right


def row(title: str, clips: list[tuple[float, bool, bool, bool]], memory: str, seconds: str) -> None:
    errors, *right = zip(*clips, strict=True)
    named = " | ".join(f"{100 * np.mean(one):.0f} %" for one in right)
    spread = f"{np.mean(errors):.2f} ({min(errors):.2f} to {max(errors):.2f})"
    print(f"| {title} | {memory} | {seconds} | {spread} | {named} |", flush=True)


def usual(pipe: Any, args: argparse.Namespace, judge: Judge, num_clips: int) -> list[tuple[float, bool, bool, bool]]:
    """Clips of 16 frames, each of a seed of its own."""
    found = []
    for seed in range(num_clips):
        generator = torch.Generator().manual_seed(args.seed + seed)
        clip = pipe(args.prompt, num_inference_steps=args.steps, generator=generator, output_type="pt").frames[0]
        found.append(judge(to_bytes(clip).numpy()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--stretches", type=int, nargs="+", default=[100, 500, 1000], help="where each ends")
    parser.add_argument("--prompt", default="a fox on a green background")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--overlap", type=int)
    parser.add_argument("--clips", type=int, default=8, help="usual clips to compare with")
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    judge = Judge(args.prompt)
    ends = [0, *(end for end in args.stretches if end < args.frames), args.frames]
    print("| frames | memory, MiB | CPU s a frame | warp error, % | object | background | motion |")
    print("|---|---|---|---|---|---|---|")
    row(f"{args.clips} clips of 16", usual(pipe, args, judge, args.clips), f"{rss_mib():.0f}", "")
    stream = pipe.stream(
        args.prompt, num_frames=None, num_inference_steps=args.steps, overlap=args.overlap,
        generator=torch.Generator().manual_seed(args.seed), output_type="pil",
    )  # fmt: skip
    shown = {round(place * (args.frames - 1) / (SHOWN - 1)) for place in range(SHOWN)}
    sheet: list[np.ndarray] = []
    args.out = args.out or Path("samples/stream")
    with VideoWriter(args.out / "stream.mp4", fps=pipe.defaults.fps, overwrite=True) as writer:
        for begin, end in pairwise(ends):
            clips, window, took = [], list[np.ndarray](), list[float]()
            for number in range(begin, end):
                last = time.process_time()
                frame = np.asarray(next(stream))
                took.append(time.process_time() - last)
                writer.write(frame[None])
                sheet += [frame] if number in shown else []
                window.append(frame)
                if len(window) == WINDOW:
                    clips.append(judge(np.stack(window)))
                    window.clear()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            seconds = float(np.median(took))
            row(f"{begin + 1} to {end}", clips, f"{rss_mib():.0f}, peak {peak:.0f}", f"{seconds:.2f}")
            write_image(np.concatenate(sheet, axis=1), args.out / "stream.png")


if __name__ == "__main__":
    main()
