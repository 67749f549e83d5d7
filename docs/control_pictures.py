"""Renders the strips of frames in docs/control.md and docs/bundled.md, with the commands that stand above them there.

`python docs/control_pictures.py [NAME ...]` writes docs/control/NAME.png; all of them by default. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from animatediff.bundled import world
from animatediff.bundled.words import Combination
from animatediff.pipelines.decode import to_bytes
from animatediff.video import read_video

HERE = Path(__file__).parent
FRAMES = 8
"""In a strip, evenly over the clip."""
SCALE = 2

COMMANDS = {
    "image": '"a car moving right on a blue background" --image car.png',
    "last-image": '"a fox moving right on a green background" --image first.png --last-image last.png',
    "video": '"a duck moving right on a purple background" --video fox.webp --strength 0.7',
    "zoom": '"a turtle on a yellow background" --motion-lora ZoomIn',
    "pan": '"a turtle on a yellow background" --motion-lora PanLeft',
    "roll": '"a fish on a purple background" --motion-lora RollingClockwise',
    "scribble": (
        '"a rocket moving up on a green background" --sparsectrl bundled/sparsectrl_scribble '
        "--control-image rocket.png --control-preprocess scribble"
    ),
    "still": '"a fox moving right on a green background" --motion-scale 0.6',
    "neon": '"a fox moving right on a green background" --model bundled/neon',
    "paper": '"a fox moving right on a green background" --lora bundled/paper',
    "long": '"a snail spinning on a purple background" --num-frames 64',
    "upscale": '"a fox moving right on a green background" --upscale 2 --upscale-strength 0.3',
}  # fmt: skip
"""Options after `animatediff animate`; the seed is 3 for all."""

CLIPS: dict[str, Combination] = {
    "car": ("car", "blue", "right"), "fox": ("fox", "green", "right"), "rocket": ("rocket", "green", "up"),
}  # fmt: skip
"""Drawn clips of which the commands are given pictures."""


def write_inputs(folder: Path) -> None:
    """What the commands are given: car.png, first.png, last.png, rocket.png, fox.webp."""
    clips = {}
    for name, combination in CLIPS.items():
        pictures = world.render(world.clips(1, 11, [combination])[0])
        clips[name] = [Image.fromarray(picture) for picture in to_bytes(pictures).numpy()]
    clips["car"][0].save(folder / "car.png")
    clips["rocket"][0].save(folder / "rocket.png")
    clips["fox"][0].save(folder / "first.png")
    clips["fox"][-1].save(folder / "last.png")
    first, *rest = clips["fox"]
    first.save(folder / "fox.webp", save_all=True, append_images=rest, duration=125, lossless=True)


def strip(frames: np.ndarray) -> Image.Image:
    """Some of the frames (f, h, w, 3) side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    picture = Image.fromarray(np.concatenate(list(chosen), axis=1))
    scale = SCALE * 64 / frames.shape[1]
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which strips; all by default")
    names = parser.parse_args().names or list(COMMANDS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder)
        for name in names:
            options = [*shlex.split(COMMANDS[name]), "--seed", "3", "--out", f"{name}.webp", "--quiet"]
            subprocess.run([sys.executable, "-m", "animatediff.cli.main", "animate", *options], cwd=folder, check=True)
            strip(read_video(folder / f"{name}.webp")[0]).save(HERE / "control" / f"{name}.png")
            print(f"docs/control/{name}.png")


if __name__ == "__main__":
    main()
