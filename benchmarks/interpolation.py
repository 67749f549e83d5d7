"""Interpolation against true frames in between: sprite clips drawn at three times the rate.

`python benchmarks/interpolation.py [--clips 16] [--seed 11]`: PSNR of the frames in between over clips that move, for
repeated frames, plain blending, and optical flow; the table of docs/media.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from animatediff.media.interpolate import interpolated
from animatediff.sprites.words import MOTIONS
from animatediff.sprites.world import clips, render_all

TIMES = 3
LENGTH = 16
Method = Callable[[np.ndarray], np.ndarray]


def repeated(frames: np.ndarray) -> np.ndarray:
    return np.repeat(frames, TIMES, axis=0)


def blended(frames: np.ndarray) -> np.ndarray:
    after = np.concatenate([frames[1:], frames[-1:]])
    shares = [index / TIMES for index in range(TIMES)]
    mixed = np.stack([frames * (1 - share) + after * share for share in shares], axis=1)
    return mixed.reshape(-1, *frames.shape[1:]).round()


def by_flow(frames: np.ndarray) -> np.ndarray:
    return np.stack(list(interpolated(frames, 8, 8 * TIMES)))


METHODS: dict[str, Method] = {"repeated": repeated, "blended": blended, "optical flow": by_flow}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--seed", type=int, default=11)
    asked = parser.parse_args()
    count = TIMES * (LENGTH - 1) + 1
    scene, _ = clips(3 * asked.clips, asked.seed, num_frames=count)
    images = (render_all(scene).permute(0, 2, 3, 1) * 255).round().byte().numpy().reshape(-1, count, 64, 64, 3)
    motions = [MOTIONS[index] for index in scene.motion[::count].tolist()]
    moving = [clip for clip, motion in zip(images, motions, strict=True) if motion != "still"][: asked.clips]
    between = [index for index in range(count) if index % TIMES]
    for name, method in METHODS.items():
        start = time.perf_counter()
        made = [method(clip[::TIMES]) for clip in moving]
        seconds = time.perf_counter() - start
        errors = [
            ((own[:count][between] - clip[between].astype(float)) ** 2) for own, clip in zip(made, moving, strict=True)
        ]
        ratios = [10 * np.log10(255**2 / np.maximum(error.mean((1, 2, 3)), 1e-2)).mean() for error in errors]
        each = 1000 * seconds / len(moving) / (LENGTH - 1)
        print(
            f"{name:12}  {np.mean(ratios):5.1f} dB  worst clip {min(ratios):5.1f} dB  {each:5.1f} ms a pair of frames"
        )


if __name__ == "__main__":
    main()
