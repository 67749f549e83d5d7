"""Trains the reader of `reader.py` and checks it on real clips, before it may judge any other.

It learns from pictures whose colours are shuffled or taken away, so that it must look at shapes.
`python -m recipes.bundled.classifiers` writes the file that ships; with `--only-check` it only checks that file.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled import bundled_path
from animatediff.sprites import world
from animatediff.sprites.classifier import FrameReader, load_reader, read_clip, reader_path, save_reader
from animatediff.sprites.styles import LOOKS
from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS, Combination, combinations
from recipes.bundled.run import arguments, cosine, set_rate
from recipes.bundled.vae import encode, load_vae

SEED = 6_000


def pose_of(scene: world.Scene) -> Tensor:
    """True poses in the reader's units: (n, 5)."""
    heading = torch.deg2rad(torch.where(scene.mirror < 0, 180.0, scene.angle))
    return torch.stack([scene.x / 32 - 1, scene.y / 32 - 1, scene.size / 32, heading.cos(), heading.sin()], 1)


def recoloured(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames with colours that say nothing: a third grey, a third with exchanged channels, all in other light."""
    n = len(frames)
    draw = torch.rand(n, generator=generator)
    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(n)])
    mixed = torch.gather(frames, 1, order[:, :, None, None].expand_as(frames))
    grey = frames.mean(1, keepdim=True).expand_as(frames)
    col = (slice(None), None, None, None)
    frames = torch.where((draw < 0.34)[col], grey, torch.where((draw < 0.67)[col], mixed, frames))
    light = 0.7 + 0.6 * torch.rand(n, 3, 1, 1, generator=generator)
    return (frames * light + 0.02 * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def real_frames(
    num_clips: int, seed: int, folder: Path, combos: list[Combination] | None = None
) -> tuple[Tensor, world.Scene]:
    """Frames of real clips, every second clip once through the autoencoder."""
    scene, _ = world.clips(num_clips, seed, combos)
    frames = world.render_all(scene)
    vae = load_vae(folder)
    half = (torch.arange(num_clips) % 2 == 1).repeat_interleave(world.NUM_FRAMES)
    with torch.no_grad():
        through = [vae.decode(z).sample for z in encode(vae, frames[half]).split(64)]
    frames[half] = (torch.cat(through) / 2 + 0.5).clamp(0, 1)
    return frames, scene


def learning_frames(num: int, folder: Path) -> tuple[Tensor, world.Scene]:
    """Single pictures of all combinations, two in five of them turned any way, a quarter through the autoencoder.

    Turned sprites are the hardest to read, and clips drawn as for training hold few of them. Two in five pictures are
    painted in another look, so that personalised models can be read too.
    """
    rng = random.Random(SEED)
    every = combinations(held_out=False) + combinations(held_out=True)
    rows = []
    for _ in range(num):
        motion = "spinning" if rng.random() < 0.4 else rng.choice(MOTIONS)
        rows += world.poses(rng.choice([c for c in every if c[2] == motion]), rng, [rng.random()])
    scene = world.scene_of(rows)
    frames = world.render_all(scene)
    for i in range(0, num, 64):
        for place, paint in enumerate(LOOKS.values()):
            part = slice(i + place, min(i + 64, num), 5)
            frames[part] = paint(frames[part])
    vae = load_vae(folder)
    with torch.no_grad():
        for i in range(0, num // 4, 64):
            part = slice(i, min(i + 64, num // 4))
            frames[part] = (vae.decode(encode(vae, frames[part])).sample / 2 + 0.5).clamp(0, 1)
    return frames, scene


def train(args: argparse.Namespace) -> None:
    """Train the reader, write it, and print how it does on real clips."""
    torch.manual_seed(SEED)
    frames, scene = learning_frames(args.pictures, args.run)
    truth = pose_of(scene)
    reader = FrameReader()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=args.rate, weight_decay=0.01)
    generator = torch.Generator().manual_seed(SEED)
    for step in range(args.steps):
        set_rate(optimiser, cosine(step, args.steps, args.rate))
        index = torch.randint(len(frames), (args.batch,), generator=generator)
        names, poses = reader(recoloured(frames[index], generator))
        loss = functional.cross_entropy(names, scene.obj[index]) + 3 * functional.smooth_l1_loss(
            poses, truth[index], beta=0.1
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    save_reader(reader, args.reader)
    check(args)


def check(args: argparse.Namespace) -> dict[str, float]:
    """The reader on real clips of other seeds, half of them decoded from latents: shares that are right, printed."""
    reader = load_reader(args.reader)
    every = combinations(held_out=True) + combinations(held_out=False)
    frames, scene = real_frames(args.check, 10**6 + 7, args.run, every)
    generator = torch.Generator().manual_seed(1)
    clips = frames.unflatten(0, (args.check, world.NUM_FRAMES))
    first = world.take(scene, slice(0, None, world.NUM_FRAMES))
    right: dict[str, list[bool]] = {}
    for i, clip in enumerate(clips):
        reading, motion = read_clip(reader, clip), MOTIONS[int(first.motion[i])]
        right.setdefault("object", []).append(reading.obj == OBJECTS[int(first.obj[i])])
        right.setdefault("background", []).append(reading.background == BACKGROUNDS[int(first.background[i])])
        right.setdefault(f"motion: {motion}", []).append(reading.moved(motion))
        right.setdefault("motion, named", []).append(reading.motion == motion)
        for look, paint in LOOKS.items():
            right.setdefault(f"motion, {look}", []).append(read_clip(reader, paint(clip)).moved(motion))
        shuffled = read_clip(reader, recoloured(clip, generator))
        right.setdefault("object, colours taken away", []).append(shuffled.obj == OBJECTS[int(first.obj[i])])
    shares = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    for name, share in shares.items():
        print(f"{name:28} {100 * share:6.1f} % of {len(right[name])}")
    return shares


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=2400, batch=64)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--pictures", type=int, default=12_000, help="real pictures to learn from")
    parser.add_argument("--check", type=int, default=256, help="real clips to be checked on")
    parser.add_argument("--reader", type=Path, default=reader_path(), help="file of the reader")
    parser.add_argument("--only-check", action="store_true", help="check a reader that was trained before")
    parser.set_defaults(run=bundled_path())  # all that is needed of it is its autoencoder
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    random.seed(SEED)
    if args.only_check:
        check(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
