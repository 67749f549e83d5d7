"""How fast clips come out of videos: exact frames by seeking, against decoding each video from its beginning.

`python benchmarks/data.py` writes a video of moving noise (20 s, 640x360, H.264, a keyframe every 10 s, as streamed
footage has it) and reads clips of 16 frames at 256x256 from it, in one thread.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from animatediff.media import VideoWriter, read_video
from animatediff.media.decode import VideoFile
from animatediff.training.data.clip import choose_frames, draw, to_clip
from animatediff.training.data.config import DataConfig

FPS, SECONDS, HEIGHT, WIDTH = 24, 20, 360, 640


def write_clip(path: Path) -> None:
    """A soft pattern that moves, with some noise, so that it costs what footage costs."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 255, (HEIGHT // 8 + 1, WIDTH // 8 + 1, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    noise = rng.integers(0, 12, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    with VideoWriter(path, fps=FPS) as writer:
        for number in range(FPS * SECONDS):
            frame = np.roll(pattern, (number, 2 * number), (0, 1))[:HEIGHT, :WIDTH] // 2 + np.roll(noise, 7 * number, 1)
            writer.write(frame)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--stride", type=int, default=4)
    args = parser.parse_args()
    config = DataConfig(path="x", stride=args.stride)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        write_clip(path)
        print(f"{SECONDS} s at {FPS} fps, {WIDTH}x{HEIGHT}, {path.stat().st_size / 1e6:.1f} MB")
        seconds = {"exact frames": 0.0, "whole video": 0.0}
        for number in range(args.clips):
            drawn = draw(config, number, 0, "a")
            for name in random.Random(number).sample(list(seconds), 2):
                began = time.process_time()
                if name == "exact frames":
                    with VideoFile(path) as video:
                        indices = choose_frames(video.num_frames, config.num_frames, config.stride, drawn.start)
                        clip = to_clip(video.read(indices), config, drawn)
                else:
                    frames, _ = read_video(path)
                    indices = choose_frames(len(frames), config.num_frames, config.stride, drawn.start)
                    clip = to_clip(frames[indices], config, drawn)
                seconds[name] += time.process_time() - began
                assert clip.shape == (16, 3, 256, 256)
        for name, total in seconds.items():
            print(f"{name}: {total / args.clips * 1000:.0f} ms of processor time a clip")


if __name__ == "__main__":
    main()
