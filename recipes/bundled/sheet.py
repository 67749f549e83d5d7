"""A contact sheet that moves: clips of combinations drawn at random among those that training never saw, not chosen.

`python -m recipes.bundled.sheet [--clips 24] [--seed 24] [--out docs/bundled_sheet.webp]` renders them as the model
recommends, side by side in one animation, and prints their prompts, row by row.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from torch import Tensor

from animatediff.media import write_video
from animatediff.pipelines.vae import to_bytes
from animatediff.sprites.words import Combination, caption, combinations
from recipes.bundled.fit import arguments
from recipes.bundled.rendering import clip_of, new_pipeline

COLUMNS, GAP, FPS, QUALITY = 8, 4, 8, 90


def drawn_prompts(num: int, seed: int) -> list[tuple[Combination, str]]:
    """Held-out combinations and one way of saying each, both drawn by `seed`."""
    rng = random.Random(seed)
    chosen = [rng.choice(combinations(held_out=True)) for _ in range(num)]
    return [(combination, caption(combination, rng)) for combination in chosen]


def side_by_side(clips: list[Tensor], columns: int = COLUMNS) -> Tensor:
    """Clips (f, 3, h, w) in 0..1 in rows of `columns`, white between them: (f, 3, H, W)."""
    rows = []
    for start in range(0, len(clips), columns):
        row = clips[start : start + columns]
        row += [torch.ones_like(clips[0])] * (columns - len(row))
        rows.append(torch.cat([torch.nn.functional.pad(c, (0, GAP, 0, GAP), value=1.0) for c in row], dim=3))
    return torch.cat(rows, dim=2)[:, :, :-GAP, :-GAP]


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--clips", type=int, default=24, help="clips on the sheet")
    parser.add_argument("--seed", type=int, default=24, help="draws the prompts; clip i begins at seed + i")
    parser.add_argument("--sampling-steps", type=int, help="steps of the sampler; default as recommended")
    parser.add_argument("--model", type=Path, help="another image model than the bundled one")
    parser.add_argument("--motion", type=Path, help="its motion module")
    parser.add_argument("--out", type=Path, default=Path("docs/bundled_sheet.webp"), help="file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    pipe = new_pipeline(args.model, args.motion, args.device)
    wanted = drawn_prompts(args.clips, args.seed)
    clips = [clip_of(pipe, text, args.seed + i, args.sampling_steps) for i, (_, text) in enumerate(wanted)]
    write_video(to_bytes(side_by_side(clips)).numpy(), args.out, fps=FPS, quality=QUALITY)
    for i, (_, text) in enumerate(wanted):
        print(f"{i // COLUMNS + 1}.{i % COLUMNS + 1} {text}")


if __name__ == "__main__":
    main()
