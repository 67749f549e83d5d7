"""Renders the strips of frames in docs/, with the commands that stand above them there.

`python docs/control_pictures.py [NAME ...]` writes docs/control/NAME.png; all of them by default, but for those
that need a ControlNet or an IP-Adapter, which do not ship: `--nets FOLDER` is where `control_nets.py` wrote
`controlnet` and `ip-adapter`. Minutes on a CPU.
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

from animatediff.camera import camera_path
from animatediff.camera.plane import plane_views
from animatediff.media import read_video
from animatediff.media.sketch import sketch
from animatediff.pipelines.vae import to_bytes
from animatediff.sprites import world
from animatediff.sprites.words import Combination

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
    "two-moves": '"a duck on a yellow background" --motion-lora ZoomIn:0.8 --motion-lora RollingClockwise',
    "camera-path": (
        '"a fish on a purple background" --camera-control bundled/camera_control '
        '--camera "zoom-in:0.8, roll-clockwise:0.8"'
    ),
    "camera-video": '"a fish on a purple background" --camera-control bundled/camera_control --camera walk.webp',
    "scribble": (
        '"a rocket moving up on a green background" --sparsectrl bundled/sparsectrl_scribble '
        "--control-image rocket.png --control-preprocess scribble"
    ),
    "controlnet": (
        '"a fox moving right on a purple background" --controlnet controlnet --controlnet-video fox.webp '
        "--controlnet-preprocess scribble"
    ),
    "ip-adapter": '"moving right" --ip-adapter ip-adapter/ip-adapter.safetensors --ip-adapter-image fish.png',
    "drive": (
        '"moving right" --drive fox.webp --image fish.png --controlnet controlnet --drive-kind scribble '
        "--ip-adapter ip-adapter/ip-adapter.safetensors"
    ),
    "prompt-travel": (
        '--prompt-head "a fox moving right" --prompt-at 0="a green background" --prompt-at 16="a blue background" '
        '--prompt-at 32="a purple background" --num-frames 40'
    ),
    "still": '"a fox moving right on a green background" --motion-scale 0.6',
    "neon": '"a fox moving right on a green background" --model bundled/neon',
    "paper": '"a fox moving right on a green background" --lora bundled/paper',
    "long": '"a snail spinning on a purple background" --num-frames 64',
    "upscale": '"a fox moving right on a green background" --upscale 2 --upscale-strength 0.3',
}  # fmt: skip
"""Options after `animatediff animate`; the seed is 3 for all."""

NETS = ("controlnet", "ip-adapter")
"""What does not ship, of which some strips need one or both."""
WITH_NETS = (*NETS, "drive")
"""Strips that need them."""
FOLLOWED = {"controlnet": "fox.webp"}
"""Strips that show above the clip the outlines of what it follows."""
LED = {"drive": "fox.webp", "camera-video": "walk.webp"}
"""Strips that show above the clip the video that leads it."""
SEEN = {"ip-adapter": "fish.png", "drive": "fish.png"}
"""Strips that begin with the image prompt of the clip."""

CLIPS: dict[str, Combination] = {
    "car": ("car", "blue", "right"), "fox": ("fox", "green", "right"), "rocket": ("rocket", "green", "up"),
    "fish": ("fish", "purple", "still"), "walk": ("boat", "blue", "still"),
}  # fmt: skip
"""Drawn clips whose frames are inputs of the commands."""
WALK = "zoom-in:0.6, pan-left:0.3"
"""What the camera does in one of them."""


def write_inputs(folder: Path) -> None:
    """Write the inputs of the commands: car.png, rocket.png, fish.png, first.png, last.png, fox.webp, walk.webp."""
    clips = {}
    for name, combination in CLIPS.items():
        scene, _ = world.clips(1, 11, [combination])
        views = plane_views(camera_path(WALK, 16), world.SIZE, world.SIZE) if name == "walk" else None
        images = world.render(scene, view=views)
        clips[name] = [Image.fromarray(image) for image in to_bytes(images).numpy()]
    for name in ("car", "rocket", "fish"):
        clips[name][0].save(folder / f"{name}.png")
    clips["fox"][0].save(folder / "first.png")
    clips["fox"][-1].save(folder / "last.png")
    for name in ("fox", "walk"):
        first, *rest = clips[name]
        first.save(folder / f"{name}.webp", save_all=True, append_images=rest, duration=125, lossless=True)


def strip(frames: np.ndarray) -> Image.Image:
    """Some of the frames (f, h, w, 3) side by side."""
    chosen = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    image = Image.fromarray(np.concatenate(list(chosen), axis=1))
    width = SCALE * 64 * FRAMES
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def above(upper: Image.Image, lower: Image.Image) -> Image.Image:
    """Stack two images, the lower one as wide as the upper one."""
    lower = lower.resize((upper.width, round(lower.height * upper.width / lower.width)), Image.Resampling.LANCZOS)
    return Image.fromarray(np.concatenate([np.asarray(upper), np.asarray(lower.convert("RGB"))]))


def strip_of(name: str, folder: Path) -> Image.Image:
    """The strip of a clip, with the outlines, the image prompt or the timeline of prompts that belong to it."""
    image = strip(read_video(folder / f"{name}.webp")[0])
    if name in FOLLOWED:
        followed = read_video(folder / FOLLOWED[name])[0]
        lines = [np.asarray(sketch(Image.fromarray(frame), "scribble").convert("RGB")) for frame in followed]
        image = above(strip(np.stack(lines)), image)
    if name in LED:
        image = above(strip(read_video(folder / LED[name])[0]), image)
    if name in SEEN:
        given = Image.open(folder / SEEN[name]).convert("RGB").resize((image.height, image.height))
        gap = np.full((image.height, SCALE * 4, 3), 255, np.uint8)
        image = Image.fromarray(np.concatenate([np.asarray(given), gap, np.asarray(image)], axis=1))
    timeline = folder / f"{name}.prompts.png"
    return above(image, Image.open(timeline)) if timeline.exists() else image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which strips; all by default")
    parser.add_argument("--nets", type=Path, help="folder that holds what control_nets.py wrote")
    args = parser.parse_args()
    names = args.names or [name for name in COMMANDS if args.nets or name not in WITH_NETS]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder)
        for name in NETS if args.nets else ():
            (folder / name).symlink_to((args.nets / name).absolute())
        for name in names:
            options = [*shlex.split(COMMANDS[name]), "--seed", "3", "--out", f"{name}.webp", "--quiet"]
            subprocess.run([sys.executable, "-m", "animatediff.cli.main", "animate", *options], cwd=folder, check=True)
            strip_of(name, folder).save(HERE / "control" / f"{name}.png")
            print(f"docs/control/{name}.png")


if __name__ == "__main__":
    main()
