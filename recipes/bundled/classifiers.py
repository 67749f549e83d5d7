"""Trains the classifier of `animatediff/sprites/classifier.py` and checks it on drawn clips, whose truth is known.

It learns from images whose colours are shuffled or taken away, so that it must tell objects by their shapes.
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
from animatediff.sprites.classifier import (
    SpriteClassifier,
    classifier_path,
    classify_clip,
    load_classifier,
)
from animatediff.sprites.styles import STYLES
from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS, Combination, combinations
from animatediff.weights.storage.files import save_tensors
from recipes.bundled.fit import Schedule, arguments, fit
from recipes.bundled.vae import encode, load_vae

SEED = 6_000


def pose_of(scene: world.Scene) -> Tensor:
    """True poses in the classifier's units: (n, 5)."""
    heading = torch.deg2rad(torch.where(scene.mirror < 0, 180.0, scene.angle))
    return torch.stack([scene.x / 32 - 1, scene.y / 32 - 1, scene.size / 32, heading.cos(), heading.sin()], 1)


def recoloured(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Frames with colours that say nothing: a third grey, a third with exchanged channels, all in other light."""
    n = len(frames)
    draw = torch.rand(n, generator=generator).to(frames.device)
    order = torch.stack([torch.randperm(3, generator=generator) for _ in range(n)]).to(frames.device)
    mixed = torch.gather(frames, 1, order[:, :, None, None].expand_as(frames))
    grey = frames.mean(1, keepdim=True).expand_as(frames)
    col = (slice(None), None, None, None)
    frames = torch.where((draw < 0.34)[col], grey, torch.where((draw < 0.67)[col], mixed, frames))
    light = 0.7 + 0.6 * torch.rand(n, 3, 1, 1, generator=generator).to(frames.device)
    return (frames * light + 0.02 * torch.randn(frames.shape, generator=generator).to(frames.device)).clamp(0, 1)


def real_frames(
    num_clips: int, seed: int, folder: Path, combos: list[Combination] | None = None
) -> tuple[Tensor, world.Scene]:
    """Frames of drawn clips, every second clip once through the autoencoder."""
    scene, _ = world.clips(num_clips, seed, combos)
    frames = world.render_all(scene)
    vae = load_vae(folder)
    half = (torch.arange(num_clips) % 2 == 1).repeat_interleave(world.NUM_FRAMES)
    with torch.no_grad():
        through = [vae.decode(z).sample for z in encode(vae, frames[half]).split(64)]
    frames[half] = (torch.cat(through) / 2 + 0.5).clamp(0, 1)
    return frames, scene


def learning_frames(num: int, folder: Path) -> tuple[Tensor, world.Scene]:
    """Single images of all combinations, two in five of them turned any way, a quarter through the autoencoder.

    Turned sprites are the hardest to classify, and clips drawn as for training hold few of them. Two in five images are
    painted in another style, so that clips of personalised models can be classified too.
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
        for place, paint in enumerate(STYLES.values()):
            part = slice(i + place, min(i + 64, num), 5)
            frames[part] = paint(frames[part])
    vae = load_vae(folder)
    with torch.no_grad():
        for i in range(0, num // 4, 64):
            part = slice(i, min(i + 64, num // 4))
            frames[part] = (vae.decode(encode(vae, frames[part])).sample / 2 + 0.5).clamp(0, 1)
    return frames, scene


def train(args: argparse.Namespace) -> None:
    """Train the classifier, write it, and print how it does on drawn clips."""
    torch.manual_seed(SEED)
    frames, scene = learning_frames(args.images, args.run)
    frames, scene = frames.to(args.device), scene.to(args.device)
    truth = pose_of(scene)
    classifier = SpriteClassifier().to(args.device)
    generator = torch.Generator().manual_seed(SEED)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(frames), (args.batch,), generator=generator).to(args.device)
        names, poses = classifier(recoloured(frames[index], generator))
        pose_loss = functional.smooth_l1_loss(poses, truth[index], beta=0.1)
        return functional.cross_entropy(names, scene.obj[index]) + 3 * pose_loss, {}

    optimizer = torch.optim.AdamW(classifier.parameters(), lr=args.rate, weight_decay=0.01)
    fit(classifier, optimizer, loss, Schedule(peak=args.rate, steps=args.steps), log_every=200)
    save_tensors(args.classifier, {name: tensor.half().cpu() for name, tensor in classifier.state_dict().items()})
    check(args)


def check(args: argparse.Namespace) -> dict[str, float]:
    """Print and return how often the classifier is right on drawn clips of other seeds, half decoded from latents."""
    classifier = load_classifier(args.classifier)
    every = combinations(held_out=True) + combinations(held_out=False)
    frames, scene = real_frames(args.check, 10**6 + 7, args.run, every)
    generator = torch.Generator().manual_seed(1)
    clips = frames.unflatten(0, (args.check, world.NUM_FRAMES))
    first = world.take(scene, slice(0, None, world.NUM_FRAMES))
    right: dict[str, list[bool]] = {}
    for i, clip in enumerate(clips):
        found, motion = classify_clip(classifier, clip), MOTIONS[int(first.motion[i])]
        right.setdefault("object", []).append(found.obj == OBJECTS[int(first.obj[i])])
        right.setdefault("background", []).append(found.background == BACKGROUNDS[int(first.background[i])])
        right.setdefault(f"motion: {motion}", []).append(found.moved(motion))
        right.setdefault("motion, named", []).append(found.motion == motion)
        for style, paint in STYLES.items():
            right.setdefault(f"motion, {style}", []).append(classify_clip(classifier, paint(clip)).moved(motion))
        shuffled = classify_clip(classifier, recoloured(clip, generator))
        right.setdefault("object, colours taken away", []).append(shuffled.obj == OBJECTS[int(first.obj[i])])
    shares = {name: sum(values) / len(values) for name, values in sorted(right.items())}
    for name, share in shares.items():
        print(f"{name:28} {100 * share:6.1f} % of {len(right[name])}")
    return shares


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, steps=2400, batch=64)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--images", type=int, default=12_000, help="drawn images to learn from")
    parser.add_argument("--check", type=int, default=256, help="drawn clips to be checked on")
    parser.add_argument("--classifier", type=Path, default=classifier_path(), help="file of the classifier")
    parser.add_argument("--only-check", action="store_true", help="check a classifier that was trained before")
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
