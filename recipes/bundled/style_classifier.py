"""Classifies clips of the sprite world by their style: a small network that learns it from drawn images.

`python -m recipes.bundled.style_classifier` writes the file that ships and prints how it does on drawn clips.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from animatediff.bundled import bundled_path
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.sprites import world
from animatediff.sprites.styles import STYLES
from animatediff.sprites.words import combinations
from animatediff.weights.storage.files import load_tensors, save_tensors
from recipes.bundled.fit import Schedule, arguments, fit
from recipes.bundled.rendering import percent
from recipes.bundled.vae import load_vae

SEED = 9_000
PLAIN = "base"
NAMES = (PLAIN, *STYLES)
EVERY = slice(None, None, 4)
"""The frames of a drawn clip that are classified: the style is the same in all."""


class StyleClassifier(nn.Sequential):
    """Tells styles apart by their texture: three convolutions and a mean over the image, which knows no shapes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(NAMES)),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Images (n, 3, h, w) in 0..1 to a score for each of `NAMES`."""
        return super().forward(input * 2 - 1)

    @torch.no_grad()
    def style(self, clip: Tensor) -> str:
        """The style that the frames (f, 3, h, w), all together, have most likely."""
        return NAMES[int(self(clip).log_softmax(1).mean(0).argmax())]


def style_classifier_path() -> Path:
    """File of the trained classifier that ships with the package."""
    return Path(__file__).parent / "style_classifier.safetensors"


def load_style_classifier(path: Path | None = None) -> StyleClassifier:
    """Load a trained classifier in float32; the one that ships unless another file is given."""
    classifier = StyleClassifier()
    classifier.load_state_dict(
        {name: tensor.float() for name, tensor in load_tensors(path or style_classifier_path()).items()}
    )
    return classifier.eval().requires_grad_(False)


@torch.no_grad()
def in_style(vae: Any, name: str, images: Tensor) -> Tensor:
    """Drawn images (n, 3, h, w) in a style, as the autoencoder gives them back.

    It was trained on the plain style alone: personalised models share it, and no image of theirs can come nearer to a
    style than it allows.
    """
    painted = images if name == PLAIN else STYLES[name](images)
    latents = encode_images(vae, painted, torch.device("cpu"))
    return torch.cat([decode_images(vae, part) for part in latents.split(64)])


def train(args: argparse.Namespace) -> StyleClassifier:
    """Train on single images of combinations that the image model was trained on, in every style.

    Light and noise vary: they are no part of a style.
    """
    torch.manual_seed(SEED)
    rng, every, vae = random.Random(SEED), combinations(held_out=False), load_vae(args.run)
    poses = [pose for _ in range(args.images) for pose in world.poses(rng.choice(every), rng, [rng.random()])]
    drawn = world.render_all(world.scene_of(poses))
    examples = torch.stack([in_style(vae, name, drawn) for name in NAMES])
    classifier = StyleClassifier()

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        style = torch.randint(len(NAMES), (args.batch,))
        images = examples[style, torch.randint(args.images, (args.batch,))]
        images = images * (0.9 + 0.2 * torch.rand(args.batch, 1, 1, 1)) + 0.02 * torch.randn_like(images)
        return functional.cross_entropy(classifier(images), style), {}

    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.01)
    fit(classifier, optimizer, loss, Schedule(peak=args.rate, steps=args.steps))
    return classifier


def check(classifier: StyleClassifier, vae: Any, num: int = 48) -> list[bool]:
    """Whether the classifier is right about clips of held-out combinations and other seeds, drawn in every style."""
    rng, held_out, right = random.Random(SEED + 1), combinations(held_out=True), []
    for i in range(num):
        scene, _ = world.clips(1, SEED + 10 + i, [rng.choice(held_out)])
        clip = world.render(scene)[EVERY]
        right += [classifier.style(in_style(vae, name, clip)) == name for name in NAMES]
    return right


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, steps=800, batch=32)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--images", type=int, default=600, help="drawn images to learn from, each in every style")
    parser.add_argument("--check", type=int, default=48, help="drawn clips to be checked on")
    parser.add_argument("--classifier", type=Path, default=style_classifier_path(), help="file of the classifier")
    parser.set_defaults(run=bundled_path())  # all that is needed of it is its autoencoder
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    save_tensors(args.classifier, {name: tensor.half() for name, tensor in train(args).state_dict().items()})
    print(
        f"styles named right: {percent(check(load_style_classifier(args.classifier), load_vae(args.run), args.check))}"
    )


if __name__ == "__main__":
    main()
