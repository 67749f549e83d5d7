"""Sanity checks before hours are spent: does the image model follow the words, and does time run forwards?

`python -m recipes.bundled.sanity [--model FOLDER] [--motion FILE]`; by default of the model that ships.
"""

from __future__ import annotations

import argparse
import itertools
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.sprites import world
from animatediff.sprites.words import DIRECTIONS, caption, combinations, plain_caption
from recipes.bundled.text import token_ids
from recipes.bundled.vae import encode

SEED = 5_000
TIMESTEPS = (700, 850, 950)


def embed(pipe: Any, captions: list[str]) -> Tensor:
    """Prompt embeddings of captions: (n, 32, 128)."""
    return pipe.text_encoder(token_ids(pipe.tokenizer, captions)).last_hidden_state


@torch.no_grad()
def reaction(pipe: Any) -> dict[str, float]:
    """Check the image model: how much its output at pure noise, t = 900, changes when one word is exchanged."""
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))

    def output(obj: str, background: str, motion: str) -> Tensor:
        embeddings = embed(pipe, [plain_caption((obj, background, motion))] * len(noise))
        return pipe.unet(noise, 900, embeddings).sample

    def change(a: Tensor, b: Tensor) -> float:
        return float((a - b).norm() / a.norm())

    base = output("fox", "green", "right")
    directions = [output("fox", "green", d) for d in DIRECTIONS]
    return {
        "direction": min(change(a, b) for a, b in itertools.combinations(directions, 2)),
        "object": change(base, output("fish", "green", "right")),
        "background": change(base, output("fox", "red", "right")),
        "size": change(output("fox", "green", "growing"), output("fox", "green", "shrinking")),
    }


def held_out_clips(pipe: Any, num: int = 16) -> tuple[Tensor, Tensor]:
    """Latents (n, 16, 4, 16, 16) and prompt embeddings of travelling clips that training never sees."""
    pool = [c for c in combinations(held_out=True) if c[2] in DIRECTIONS]
    rng, moments = random.Random(10**6), [i / (world.NUM_FRAMES - 1) for i in range(world.NUM_FRAMES)]
    drawn = [rng.choice(pool) for _ in range(num)]
    texts = [caption(combination, rng) for combination in drawn]
    scene = world.scene_of([pose for combination in drawn for pose in world.poses(combination, rng, moments)])
    return encode(pipe.vae, world.render(scene)).unflatten(0, (num, world.NUM_FRAMES)), embed(pipe, texts)


@torch.no_grad()
def forwards_and_reversed(pipe: Any, timestep: int) -> tuple[float, float, float]:
    """Check the motion module: loss of drawn clips, of the same reversed, and how often the first is lower (0..1)."""
    clips, embeddings = held_out_clips(pipe)
    generator = torch.Generator().manual_seed(SEED)
    scheduler, losses = pipe.scheduler, []
    for clip, text in zip(clips, embeddings, strict=True):
        noise = torch.randn(clip.shape, generator=generator)
        t = torch.full((len(clip),), timestep)
        pipe.attachment.frames.num_frames = len(clip)
        for latents in (clip, clip.flip(0)):
            out = pipe.unet(scheduler.add_noise(latents, noise, t), t, text.expand(len(clip), -1, -1)).sample
            losses.append(float(functional.mse_loss(out, scheduler.get_velocity(latents, noise, t))))
    forwards, backwards = losses[::2], losses[1::2]
    won = sum(a < b for a, b in zip(forwards, backwards, strict=True)) / len(forwards)
    return sum(forwards) / len(forwards), sum(backwards) / len(backwards), won


def main(argv: list[str] | None = None) -> None:
    from animatediff.pipelines import AnimateDiffPipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=bundled_path(), help="folder of the image model")
    parser.add_argument("--motion", type=Path, default=motion_module_path(), help="file of the motion module")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    pipe = AnimateDiffPipeline.from_pretrained(args.model, torch_dtype="float32")
    for name, change in reaction(pipe).items():
        print(f"exchanging the {name:10} changes the output by {100 * change:5.1f} % (wanted: above 10 %)")
    if args.motion.exists():
        pipe.load_motion_module(args.motion)
        for timestep in TIMESTEPS:
            a, b, won = forwards_and_reversed(pipe, timestep)
            print(f"t = {timestep}: loss forwards {a:.3f}, reversed {b:.3f}, forwards lower in {100 * won:.0f} %")


if __name__ == "__main__":
    main()
