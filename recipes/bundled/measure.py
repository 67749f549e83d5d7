"""Step 6: measure the bundled model on 256 prompts whose combinations and seeds training never used.

`python -m recipes.bundled.measure` prints the tables of `docs/bundled.md`. Background and motion are told by the
classifier that ships, the shape of each frame by templates (`animatediff/sprites/shapes.py`).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from animatediff.sprites.classifier import classify_clip, load_classifier
from animatediff.sprites.words import DIRECTIONS, MOTIONS, OBJECTS, Combination, caption, combinations
from recipes.bundled.fit import arguments
from recipes.bundled.rendering import clip_of, new_pipeline, percent, write_sheet
from recipes.bundled.shape import Shape, as_rows, figures, real_frames, shape_table, shapes_of

SEED = 2_000_000


def prompts(num: int) -> list[tuple[Combination, str]]:
    """Held-out combinations, each motion equally often, and one way of saying each."""
    held_out = combinations(held_out=True)
    rng = random.Random(SEED)
    drawn = [rng.choice([c for c in held_out if c[2] == MOTIONS[i % len(MOTIONS)]]) for i in range(num)]
    return [(combination, caption(combination, rng)) for combination in drawn]


def render_and_classify(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Render and classify this part of the prompts, after those that an earlier run has done."""
    pipe = new_pipeline(args.model, args.motion, args.device)
    classifier = load_classifier()
    path, sheet = args.run / f"measure_{args.part}.json", []
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    mine = [(i, *prompt) for i, prompt in enumerate(prompts(args.clips)) if i % args.parts == args.part]
    for i, combination, text in mine[len(rows) :]:
        began = time.perf_counter()
        clip = clip_of(pipe, text, SEED + i, args.sampling_steps, guidance_scale=args.guidance)
        found = classify_clip(classifier, clip)
        obj, background, motion = combination
        rows.append({
            "prompt": text, "object": obj, "background": background, "motion": motion, "found": found.__dict__,
            "shapes": as_rows(shapes_of(clip[::2], obj)),
            "real": as_rows(shapes_of(real_frames(pipe.vae, combination, SEED + i), obj)),
            "background_right": found.background == background,
            "motion_right": found.moved(motion), "seconds": time.perf_counter() - began,
        })  # fmt: skip
        sheet.append(clip)
        path.write_text(json.dumps(rows))
        right = percent([shape["right"] for shape in rows[-1]["shapes"]])
        print(i, text, right, rows[-1]["background_right"], rows[-1]["motion_right"], flush=True)
    write_sheet(sheet[: args.sheet], args.run / f"sheet_{args.part}.png")
    return rows


def shapes_in(rows: list[dict[str, Any]]) -> tuple[list[Shape], list[Shape]]:
    """The rendered and the real frames of some clips."""
    rendered, real = ([Shape(**shape) for row in rows for shape in row[key]] for key in ("shapes", "real"))
    return rendered, real


def shapes_by_part(rows: list[dict[str, Any]]) -> str:
    """Figures of shape by motion and by object, real frames first, as a Markdown table."""
    rendered, real = shapes_in(rows)
    parts = {"drawn, once through the autoencoder": (real, real), "all": (rendered, real)}
    for key, words in (("motion", MOTIONS), ("object", OBJECTS)):
        for word in words:
            if some := [row for row in rows if row[key] == word]:
                parts[word] = shapes_in(some)
    return shape_table(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """The figures of `docs/bundled.md`, as a Markdown table."""
    named, share, worst = figures(*shapes_in(rows))

    def right(name: str, motions: tuple[str, ...]) -> str:
        return percent([row[name] for row in rows if row["motion"] in motions])

    lines = [
        ("background right", right("background_right", MOTIONS), "98 %"),
        ("frames named right by templates", named, "95 %"),
        ("correlation, share of real frames'", share, "0.95"),
        ("- worst tenth of the frames", worst, "0.85"),
        ("moves more than 4 px in the direction named", right("motion_right", DIRECTIONS), "95 %"),
        *((f"- {word}", right("motion_right", (word,)), "") for word in DIRECTIONS),
        *((word, right("motion_right", (word,)), "80 %") for word in ("growing", "shrinking", "spinning")),
        ("no motion word, or still: moves less than 2 px", right("motion_right", ("still",)), "100 %"),
    ]
    head = "| over clips of held-out combinations and seeds | measured | goal |\n|---|---|---|\n"
    return head + "\n".join(f"| {name} | {value} | {goal} |" for name, value, goal in lines)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=256, help="prompts in all")
    parser.add_argument("--sampling-steps", type=int, help="steps of the sampler; default as recommended")
    parser.add_argument("--guidance", type=float, help="guidance scale; default as recommended")
    parser.add_argument("--part", type=int, default=0, help="which part of the prompts to render")
    parser.add_argument("--parts", type=int, default=1, help="in how many parts to divide them")
    parser.add_argument("--model", type=Path, help="another image model than the bundled one")
    parser.add_argument("--motion", type=Path, help="its motion module")
    parser.add_argument("--sheet", type=int, default=12, help="clips to show on the sheet of frames")
    parser.add_argument("--join", action="store_true", help="only join the parts that were rendered before")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.join:
        rows = [row for path in sorted(args.run.glob("measure_*.json")) for row in json.loads(path.read_text())]
    else:
        rows = render_and_classify(args)
    print(table(rows), shapes_by_part(rows), sep="\n\n")


if __name__ == "__main__":
    main()
