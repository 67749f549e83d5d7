"""Renders the moving clips of README.md and of the site's first pages with the bundled model.

`python docs/clips.py [NAME ...]` writes docs/clips/NAME.webp, three times as large. Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from animatediff.media import read_video

HERE = Path(__file__).parent
SIZE = 192
"""Pixels a side; the model's own frames have 64."""
QUALITY = 60
"""Of WebP: all clips together stay below 400 KB."""
FOX = '"a fox moving right on a green background"'

COMMANDS = {
    "fox": FOX,
    "neon": f"{FOX} --model bundled/neon",
    "travel": (
        '--prompt-head "a fox moving right" --prompt-at 0="a green background" --prompt-at 16="a blue background" '
        '--prompt-at 32="a purple background" --num-frames 40'
    ),
    "zoom": '"a turtle on a yellow background" --motion-lora ZoomIn',
    "image": '"a car moving right on a blue background" --image car.png',
    "loop": '"a boat spinning on a purple background" --closed-loop',
}
"""Options after `animatediff animate`; the seed is 3 for all."""
STILL = '"a car on a blue background" --num-frames 1'
"""What makes `car.png`, which `image` begins with."""


def animate(options: str, out: str, folder: Path) -> None:
    """Run the command in a folder."""
    words = ["animate", *shlex.split(options), "--seed", "3", "--out", out, "--quiet"]
    subprocess.run([sys.executable, "-m", "animatediff.cli.main", *words], cwd=folder, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which clips; all by default")
    names = parser.parse_args().names or list(COMMANDS)
    (HERE / "clips").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if "image" in names:
            animate(STILL, "car.png", folder)
        for name in names:
            animate(COMMANDS[name], f"{name}.apng", folder)
            frames, fps = read_video(folder / f"{name}.apng")
            first, *rest = [Image.fromarray(frame).resize((SIZE, SIZE), Image.Resampling.LANCZOS) for frame in frames]
            path = HERE / "clips" / f"{name}.webp"
            first.save(
                path, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=QUALITY, method=6
            )
            print(f"docs/clips/{name}.webp: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
