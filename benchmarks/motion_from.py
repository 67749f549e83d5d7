"""Movement taken from a video: whether the bundled model moves so, and shows what the text or image says.

python benchmarks/motion_from.py [--run FOLDER] [--pairs 64] [--row ROW ...]   the table; goes on where it stopped
python benchmarks/motion_from.py --sheet FILE              a few pairs of rows: every third frame of source and result

A pair is a drawn clip of an object that moves, and another object and background that the clip shall show by a text
without a word of motion; training saw neither of the two in this motion. Cameras are drawn scenes at rest that a camera
moves over. In each row a clip begins from the same noise.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from rows import columns_of, counted, file_of, markdown, rows_of  # noqa: E402  # the folder is no package

from animatediff.bundled import CAMERA_MOVES, bundled_file  # noqa: E402
from animatediff.camera import Move, path_of_video  # noqa: E402
from animatediff.camera.path import path_of_moves  # noqa: E402
from animatediff.camera.plane import LARGEST, plane_views  # noqa: E402
from animatediff.evaluation import camera_moves, measure  # noqa: E402
from animatediff.pipelines.vae import to_bytes  # noqa: E402
from animatediff.sprites import world  # noqa: E402
from animatediff.sprites.classifier import classify_clip, load_classifier  # noqa: E402
from animatediff.sprites.words import DIRECTIONS, Combination, combinations, plain_caption  # noqa: E402
from recipes.bundled.rendering import new_pipeline, write_rows  # noqa: E402
from recipes.bundled.results import KINDS  # noqa: E402

SEED = 8_000_000
AT_ONCE = 4
"""Clips that go through the UNet together."""
OTHERS = ("growing", "shrinking", "spinning")
ROWS: dict[str, dict[str, Any]] = {
    "motion_from": {"motion_from": True},
    "no video (chance)": {},
    "video, strength 0.7": {"video": True, "strength": 0.7},
    "video, strength 0.8": {"video": True, "strength": 0.8},
    "video, strength 0.9": {"video": True, "strength": 0.9},
    "motion_from, with an image": {"motion_from": True, "images": True},
    "fast balanced": {"motion_from": True, "fast": "balanced"},
    "camera, the path of the video": {"camera": True},
}


@dataclass(frozen=True)
class Pair:
    """A source and what the clip shall show."""

    number: int
    source: Combination
    wanted: Combination
    camera: str | None = None
    """Move of the camera over the source, by the names of `CAMERA_MOVES`."""

    @property
    def motion(self) -> str:
        """What the clip shall do."""
        return self.camera or self.source[2]

    @property
    def prompt(self) -> str:
        """Object and background alone."""
        return plain_caption((*self.wanted[:2], "still"))

    def clip(self) -> Tensor:
        """The drawn source (16, 3, 64, 64)."""
        scene, _ = world.clips(1, SEED + self.number, [self.source])
        if self.camera is None:
            return world.render(scene)
        move = KINDS[self.camera][0]
        path = path_of_moves([Move(move, 0.8 * LARGEST[move])], world.NUM_FRAMES)
        return world.render(scene, view=plane_views(path, world.SIZE, world.SIZE))

    def image(self) -> Tensor:
        """A drawn image (3, 64, 64) of what the clip shall show, at rest."""
        scene, _ = world.clips(1, SEED + 500_000 + self.number, [(*self.wanted[:2], "still")], num_frames=1)
        return world.render(scene)[0]


def pairs_of(num: int, cameras: int) -> list[Pair]:
    """Held-out pairs: three in four travel, the rest grow, shrink and spin; then so many moves of the camera."""
    rng, held_out = random.Random(SEED), combinations(held_out=True)
    travels, others = num - num // 4, num // 4
    motions = [DIRECTIONS[i % 4] for i in range(travels)] + [OTHERS[i % 3] for i in range(others)]
    names = [CAMERA_MOVES[i % 8] for i in range(cameras)]
    found: list[Pair] = []
    for motion in (*motions, *names):
        own = motion if motion not in CAMERA_MOVES else "still"
        source = rng.choice([one for one in held_out if one[2] == own])
        fits = [one for one in held_out if one[2] == own and one[0] != source[0] and one[1] != source[1]]
        found.append(Pair(len(found), source, rng.choice(fits), motion if motion in CAMERA_MOVES else None))
    return found


def rendered(pipe: Any, pairs: list[Pair], row: dict[str, Any], steps: int | None) -> list[Tensor]:
    """Clips (f, 3, 64, 64) in 0..1, each from the noise of its number."""
    settings: dict[str, Any] = dict(row)
    for name in ("motion_from", "video"):
        if settings.get(name):
            settings[name] = torch.stack([pair.clip().transpose(0, 1) for pair in pairs])
    if settings.get("camera"):
        settings["camera"] = [path_of_video(to_bytes(pair.clip()).numpy()) for pair in pairs]
    generators = [torch.Generator().manual_seed(SEED + pair.number) for pair in pairs]
    if settings.pop("images", False):  # one image a call
        from PIL import Image

        clips = []
        for index, pair in enumerate(pairs):
            own = {"images": Image.fromarray(to_bytes(pair.image()[None])[0].numpy()), "image_mode": "sparsectrl"}
            own |= {"motion_from": settings["motion_from"][index : index + 1]}
            own |= {"generator": generators[index], "num_inference_steps": steps, "output_type": "pt"}
            clips.append(pipe(pair.prompt, **{**settings, **own}).frames[0])
        return clips
    prompts = [pair.prompt for pair in pairs]
    return list(pipe(prompts, generator=generators, num_inference_steps=steps, output_type="pt", **settings).frames)


def described(clip: Tensor, pair: Pair, classifier: Any) -> dict[str, Any]:
    """The figures of one clip."""
    found = classify_clip(classifier, clip)
    if pair.camera is not None:
        moves = [move.name for move in camera_moves(measure(to_bytes(clip).numpy()))]
        moved, shown = moves[:1] == [pair.camera], " ".join(moves)
    else:
        moved = found.moved(pair.motion)
        dx, dy = found.travel
        shown = f"{dx:.1f} {dy:.1f} x{found.growth:.2f} {found.turn:.0f}"
    return {
        "number": pair.number, "motion": pair.motion, "moved": moved, "shown": shown,
        "object": found.obj == pair.wanted[0], "background": found.background == pair.wanted[1],
        "source": found.obj == pair.source[0],
    }  # fmt: skip


def run_row(name: str, pairs: list[Pair], folder: Path, steps: int | None) -> None:
    """Render and describe the clips of one row, after those that an earlier run has done."""
    path = file_of(name, folder)
    done = {row["number"] for row in rows_of(path)}
    left = [pair for pair in pairs if pair.number not in done and (pair.camera or "camera" not in ROWS[name])]
    if not left:
        return
    pipe, classifier = new_pipeline(), load_classifier()
    if "images" in ROWS[name]:
        pipe.load_sparsectrl(bundled_file("sparsectrl_rgb"))
    if "camera" in ROWS[name]:
        pipe.load_camera_control(bundled_file("camera_control"))
    for start in range(0, len(left), AT_ONCE):
        now = left[start : start + AT_ONCE]
        clips = rendered(pipe, now, ROWS[name], steps)
        with path.open("a") as lines:
            for clip, pair in zip(clips, now, strict=True):
                torch.save(to_bytes(clip), folder / f"{path.stem}_{pair.number}.pt")
                lines.write(json.dumps(described(clip, pair, classifier)) + "\n")
        print(name, f"{start + len(now)} of {len(left)}", flush=True)


def table(folder: Path) -> str:
    """The figures of all rows that were rendered, as a Markdown table."""

    def of_motion(row: dict[str, Any]) -> bool:
        return row["motion"] not in CAMERA_MOVES

    lines = {"right, left, up, down: moves so": counted("moved", lambda row: row["motion"] in DIRECTIONS)}
    lines |= {word: counted("moved", lambda row, word=word: row["motion"] == word) for word in OTHERS}
    lines["all: moves as the source"] = counted("moved", of_motion)
    lines["object of the text"] = counted("object", of_motion)
    lines["background of the text"] = counted("background", of_motion)
    lines["object of the source"] = counted("source", of_motion)
    lines["camera: kind and sign"] = counted("moved", lambda row: row["motion"] in CAMERA_MOVES)
    lines["camera: object and background of the text"] = _both
    return markdown(columns_of(ROWS, folder), lines)


def _both(rows: list[dict[str, Any]]) -> str:
    found = [row["object"] and row["background"] for row in rows if row["motion"] in CAMERA_MOVES]
    return f"{sum(found)} of {len(found)}" if found else ""


def sheet(path: Path, pairs: list[Pair], folder: Path) -> None:
    """Source and result of the first pair of each motion and of two cameras: every third frame."""
    seen: set[str] = set()
    rows = []
    for pair in pairs:
        result = folder / f"motion_from_{pair.number}.pt"
        if pair.motion in seen or not result.exists() or (pair.camera and pair.camera not in ("ZoomIn", "PanLeft")):
            continue
        seen.add(pair.motion)
        clip = torch.load(result).permute(0, 3, 1, 2).float() / 255
        rows.append([*pair.clip()[::3], torch.ones(3, 64, 8), *clip[::3]])
    write_rows(rows, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--run", type=Path, default=ROOT / "outputs" / "motion_from", help="folder of figures and clips"
    )
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--cameras", type=int, default=16, help="pairs with a move of the camera, besides")
    parser.add_argument("--steps", type=int, help="steps of the sampler (as the model recommends)")
    parser.add_argument("--row", action="append", choices=ROWS, help="rows to render, all by default")
    parser.add_argument("--first", type=int, help="pairs of each row that are rendered, the first ones")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    pairs = pairs_of(args.pairs, args.cameras)
    if args.sheet is not None:
        sheet(args.sheet, pairs, args.run)
        return
    args.run.mkdir(parents=True, exist_ok=True)
    for name in args.row or ROWS:
        run_row(name, pairs[: args.first], args.run, args.steps)
    print(table(args.run))


if __name__ == "__main__":
    main()
