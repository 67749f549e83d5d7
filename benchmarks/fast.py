"""Fast mode beside the exact run: whether the bundled model paints what it is told, how near the clips are.

python benchmarks/fast.py [--run FOLDER] [--clips 64] [--level LEVEL ...]   the table; goes on where it stopped
python benchmarks/fast.py --sheet FILE                     eight prompts: exact, balanced, max in rows
python benchmarks/fast.py --calibrate --full 10                search the steps of a level (`sampling/fast.py`)

Prompts and seeds are those of held-out combinations that training never saw. "exact, other seeds" is what chance
alone changes in each figure, "exact, other sampler" how far two samplers are from each other.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from rows import columns_of, counted, file_of, markdown, rows_of  # noqa: E402  # the folder is no package

from animatediff.bundled import CAMERA_MOVES, bundled_file, bundled_path, motion_module_path  # noqa: E402
from animatediff.evaluation import camera_moves, measure  # noqa: E402
from animatediff.pipelines import AnimateDiffPipeline  # noqa: E402
from animatediff.pipelines.vae import to_bytes  # noqa: E402
from animatediff.sprites.classifier import classify_clip, load_classifier  # noqa: E402
from animatediff.sprites.words import DIRECTIONS, MOTIONS, caption, combinations, plain_caption  # noqa: E402

SEED = 5_000_000
STEPS = 25
AT_ONCE = 8
"""Clips that go through the UNet together."""
LEVELS: dict[str, dict[str, Any]] = {
    "exact": {},
    "balanced": {"fast": "balanced"},
    "max": {"fast": "max"},
    "exact, other seeds": {"seed": 1_000_000},
    "exact, other sampler": {"sampler": "dpmpp_2m"},
}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One clip to render: what it shall show, and what moves or restyles it."""

    number: int
    obj: str
    background: str
    motion: str
    prompt: str
    part: str = "text"
    """text, the name of a MotionLoRA, or the name of a look."""


def wanted_clips(num: int) -> list[Wanted]:
    """Held-out combinations: `num` clips by text, an eighth as many for each camera move and each of two looks."""
    held_out, rng = combinations(held_out=True), random.Random(SEED)

    def drawn(motion: str) -> tuple[str, str, str]:
        return rng.choice([one for one in held_out if one[2] == motion])

    found: list[Wanted] = []
    for index in range(num):
        one = drawn(MOTIONS[index % len(MOTIONS)])
        found.append(Wanted(len(found), *one, caption(one, rng)))
    for part in (*CAMERA_MOVES, "neon", "paper"):
        for index in range(max(1, num // 16 if part in CAMERA_MOVES else num // 4)):
            one = drawn("still" if part in CAMERA_MOVES else DIRECTIONS[index % len(DIRECTIONS)])
            found.append(Wanted(len(found), *one, plain_caption(one), part))
    return found


def new_pipeline(part: str = "text") -> Any:
    """The bundled model with what a part of the clips needs; float32, silent."""
    pipe = AnimateDiffPipeline.from_pretrained(
        bundled_file("neon") if part == "neon" else bundled_path(), torch_dtype=torch.float32
    )
    pipe.load_motion_module(motion_module_path())
    if part not in ("text", "neon"):
        pipe.load_lora_weights(bundled_file(part))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def render(
    pipe: Any, clips: list[Wanted], fast: str = "off", seed: int = 0, sampler: str | None = None
) -> list[Tensor]:
    """Clips (f, 3, 64, 64) in 0..1, each from the noise of its number."""
    if sampler is not None:
        pipe.set_scheduler(sampler)
    generators = [torch.Generator().manual_seed(SEED + seed + clip.number) for clip in clips]
    prompts = [clip.prompt for clip in clips]
    out = pipe(prompts, generator=generators, num_inference_steps=STEPS, fast=fast, output_type="pt")
    return list(out.frames)


def psnr(a: Tensor, b: Tensor) -> float:
    """Decibels between two clips in 0..1."""
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp(min=1e-10)))


def described(clip: Tensor, wanted: Wanted, classifiers: tuple[Any, Any]) -> dict[str, Any]:
    """The figures of one clip."""
    found, measured = classify_clip(classifiers[0], clip), measure(to_bytes(clip).numpy())
    moves = [move.name for move in camera_moves(measured)]
    looks = wanted.part in ("neon", "paper")
    return {
        "number": wanted.number, "part": wanted.part, "motion": wanted.motion,
        "object": found.obj == wanted.obj, "background": found.background == wanted.background,
        "moved": moves[:1] == [wanted.part] if wanted.part in CAMERA_MOVES else found.moved(wanted.motion),
        "look": classifiers[1].style(clip) == wanted.part if looks else None,
        "warp_error": measured.warp_error,
    }  # fmt: skip


def run_level(name: str, clips: list[Wanted], folder: Path) -> None:
    """Render and describe the clips of one row, after those that an earlier run has done."""
    from recipes.bundled.style_classifier import load_style_classifier

    level, path = dict(LEVELS[name]), file_of(name, folder)
    done = {row["number"] for row in rows_of(path)}
    classifiers = (load_classifier(), load_style_classifier())
    for part in dict.fromkeys(clip.part for clip in clips):
        left = [clip for clip in clips if clip.part == part and clip.number not in done]
        pipe = new_pipeline(part) if left else None
        for start in range(0, len(left), AT_ONCE):
            now = left[start : start + AT_ONCE]
            frames = render(pipe, now, **level)
            with path.open("a") as lines:
                for clip, wanted in zip(frames, now, strict=True):
                    row = described(clip, wanted, classifiers)
                    exact = folder / f"exact_{wanted.number}.pt"
                    if name == "exact":
                        torch.save(to_bytes(clip), exact)
                    elif exact.exists():
                        row["psnr"] = psnr(to_bytes(clip).float() / 255, torch.load(exact).float() / 255)
                    lines.write(json.dumps(row) + "\n")
            print(name, part, f"{start + len(now)} of {len(left)}", flush=True)


def table(folder: Path) -> str:
    """The figures of all levels that were rendered, as a Markdown table."""

    def text(row: dict[str, Any]) -> bool:
        return row["part"] == "text"

    def spread(name: str) -> Callable[[list[dict[str, Any]]], str]:
        def cell(rows: list[dict[str, Any]]) -> str:
            found = [row[name] for row in rows if text(row) and name in row]
            if not found:
                return ""
            if name == "psnr":
                return f"{statistics.mean(found):.1f} / {min(found):.1f}"
            return f"{statistics.mean(found):.2f} ± {statistics.stdev(found) / len(found) ** 0.5:.2f}"

        return cell

    lines: dict[str, Callable[[list[dict[str, Any]]], str]] = {
        "object right": counted("object", text),
        "background right": counted("background", text),
        "right, left, up, down: moves so": counted("moved", lambda row: text(row) and row["motion"] in DIRECTIONS),
        "growing, shrinking": counted("moved", lambda row: text(row) and row["motion"] in ("growing", "shrinking")),
        "spinning": counted("moved", lambda row: text(row) and row["motion"] == "spinning"),
        "still": counted("moved", lambda row: text(row) and row["motion"] == "still"),
        "camera moves: kind and sign": counted("moved", lambda row: row["part"] in CAMERA_MOVES),
        "neon and paper: own look": counted("look", lambda row: not text(row)),
        "neon and paper: moves as told": counted("moved", lambda row: row["part"] in ("neon", "paper")),
        "warp error (flicker), %": spread("warp_error"),
        "PSNR to the exact clip, dB, mean / worst": spread("psnr"),
    }
    return markdown(columns_of(LEVELS, folder), lines)


def sheet(path: Path) -> None:
    """Eight prompts, one of each motion: three rows each, exact, balanced, max; every third frame."""
    from recipes.bundled.rendering import write_rows

    pipe, clips = new_pipeline(), wanted_clips(8)[:8]
    rendered = {name: render(pipe, clips, **LEVELS[name]) for name in ("exact", "balanced", "max")}
    rows = [list(rendered[name][index][::3]) for index in range(len(clips)) for name in rendered]
    write_rows(rows, path)
    for clip, *faster in zip(clips, rendered["balanced"], rendered["max"], strict=True):
        print(clip.prompt, [round(psnr(one, rendered["exact"][clip.number]), 1) for one in faster])


# -- calibration -----------------------------------------------------------------------------------------------------


def spread_steps(num: int, gamma: float) -> list[int]:
    """So many of the steps, from the first to the last; gamma above 1 is dense early."""
    found = {round((STEPS - 1) * (index / (num - 1)) ** gamma) for index in range(num)}
    while len(found) < num:
        found.add(min(set(range(STEPS)) - found))
    return sorted(found)


def calibrate(num_full: int, seconds: float, seed: int, clips: int = 4) -> None:
    """Find full steps that give back the exact clips best: spaced by three rules, then single moves.

    The worst clip counts half as much as the mean, in decibels. Prompts are others than those of the table.
    """
    rng, pipe = random.Random(seed), new_pipeline()
    pool = combinations(held_out=False)
    chosen = [rng.choice([one for one in pool if one[2] == motion]) for motion in MOTIONS][::2][:clips]
    wanted = [Wanted(-1 - index, *one, caption(one, rng)) for index, one in enumerate(chosen)]
    exact = rendered_by(pipe, wanted, None)

    def tried(full: frozenset[int]) -> tuple[float, list[int]]:
        found = [psnr(one, other) for one, other in zip(rendered_by(pipe, wanted, full), exact, strict=True)]
        mean, worst = statistics.mean(found), min(found)
        print(f"{mean:.1f} {worst:.1f} {sorted(full)}", flush=True)
        return mean + worst / 2, sorted(full)

    best = max(tried(frozenset(spread_steps(num_full, gamma))) for gamma in (1.0, 1.5, 2.0))
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        leaves = rng.choice(best[1][1:])
        free = [step for step in range(1, STEPS) if step not in best[1]]
        comes = rng.choice([step for step in free if abs(step - leaves) <= 3] or free)
        best = max(best, tried(frozenset(best[1]) - {leaves} | {comes}))
    print("best", best[1])


def rendered_by(pipe: Any, wanted: list[Wanted], full: frozenset[int] | None) -> list[Tensor]:
    """Clips with full steps of one's own; None for all."""
    generators = [torch.Generator().manual_seed(SEED + clip.number) for clip in wanted]
    job = pipe.job(prompt=[clip.prompt for clip in wanted], generator=generators, num_inference_steps=STEPS)
    latents = pipe.sample(dataclasses.replace(job, fast=None if full is None else lambda num_steps: full))
    return list(torch.cat(list(pipe.decode(latents, job))).unflatten(0, (len(wanted), -1)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "outputs" / "fast", help="folder of figures and clips")
    parser.add_argument("--clips", type=int, default=64, help="clips by text; camera moves and looks come besides")
    parser.add_argument("--level", action="append", choices=LEVELS, help="rows to render, all by default")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--full", type=int, default=10, help="full steps of the level to calibrate")
    parser.add_argument("--seconds", type=float, default=600, help="time of the search")
    parser.add_argument("--seed", type=int, default=0, help="of the search")
    args = parser.parse_args()
    if args.sheet is not None:
        sheet(args.sheet)
    elif args.calibrate:
        calibrate(args.full, args.seconds, args.seed)
    else:
        args.run.mkdir(parents=True, exist_ok=True)
        for name in args.level or LEVELS:
            run_level(name, wanted_clips(args.clips), args.run)
        print(table(args.run))


if __name__ == "__main__":
    main()
