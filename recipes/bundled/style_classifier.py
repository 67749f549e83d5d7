"""Says which look a clip of the sprite world has: a small network that learns it off drawn pictures.

`python -m recipes.bundled.style_classifier` writes the file that ships and says how it does on drawn clips.
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
from animatediff.sprites.styles import LOOKS
from animatediff.sprites.words import combinations
from animatediff.weights.storage.files import load_tensors, save_tensors
from recipes.bundled.rendering import percent
from recipes.bundled.run import arguments, cosine, set_rate
from recipes.bundled.vae import load_vae

SEED = 9_000
PLAIN = "base"
NAMES = (PLAIN, *LOOKS)
EVERY = slice(None, None, 4)
"""The frames of a drawn clip that are looked at: a look is the same in all."""


class LookJudge(nn.Sequential):
    """Tells the looks apart by their texture: three convolutions and a mean over the picture, which knows no shapes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.SiLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, len(NAMES)),
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Pictures (n, 3, h, w) in 0..1 to a score for each of `NAMES`."""
        return super().forward(input * 2 - 1)

    @torch.no_grad()
    def look(self, clip: Tensor) -> str:
        """The look that the frames (f, 3, h, w), all together, have most likely."""
        return NAMES[int(self(clip).log_softmax(1).mean(0).argmax())]


def look_judge_path() -> Path:
    """File of the trained judge that ships with the package."""
    return Path(__file__).parent / "style_classifier.safetensors"


def load_look_judge(path: Path | None = None) -> LookJudge:
    """A trained judge in float32; the one that ships unless another file is given."""
    judge = LookJudge()
    judge.load_state_dict({name: tensor.float() for name, tensor in load_tensors(path or look_judge_path()).items()})
    return judge.eval().requires_grad_(False)


@torch.no_grad()
def shown(vae: Any, name: str, pictures: Tensor) -> Tensor:
    """Drawn pictures (n, 3, h, w) in a look, as the autoencoder gives them back.

    It has seen the plain look alone: personalised models share it, and no image of theirs can come nearer to a look
    than it lets them.
    """
    painted = pictures if name == PLAIN else LOOKS[name](pictures)
    latents = encode_images(vae, painted, torch.device("cpu"))
    return torch.cat([decode_images(vae, part) for part in latents.split(64)])


def train(args: argparse.Namespace) -> LookJudge:
    """Train the judge on single pictures of combinations that the image model was trained on, in every look.

    Light and noise vary, which are not what makes a look.
    """
    torch.manual_seed(SEED)
    rng, every, vae = random.Random(SEED), combinations(held_out=False), load_vae(args.run)
    poses = [pose for _ in range(args.pictures) for pose in world.poses(rng.choice(every), rng, [rng.random()])]
    drawn = world.render_all(world.scene_of(poses))
    examples = torch.stack([shown(vae, name, drawn) for name in NAMES])
    judge = LookJudge()
    optimiser = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    for step in range(args.steps):
        set_rate(optimiser, cosine(step, args.steps, args.rate))
        look = torch.randint(len(NAMES), (args.batch,))
        seen = examples[look, torch.randint(args.pictures, (args.batch,))]
        seen = seen * (0.9 + 0.2 * torch.rand(args.batch, 1, 1, 1)) + 0.02 * torch.randn_like(seen)
        loss = functional.cross_entropy(judge(seen), look)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return judge


def check(judge: LookJudge, vae: Any, num: int = 48) -> list[bool]:
    """Whether the judge is right about clips of held-out combinations and other seeds, drawn in every look."""
    rng, held_out, right = random.Random(SEED + 1), combinations(held_out=True), []
    for i in range(num):
        scene, _ = world.clips(1, SEED + 10 + i, [rng.choice(held_out)])
        clip = world.render(scene)[EVERY]
        right += [judge.look(shown(vae, name, clip)) == name for name in NAMES]
    return right


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=800, batch=32)
    parser.add_argument("--rate", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--pictures", type=int, default=600, help="drawn pictures to learn from, each in every look")
    parser.add_argument("--check", type=int, default=48, help="drawn clips to be checked on")
    parser.add_argument("--judge", type=Path, default=look_judge_path(), help="file of the judge")
    parser.set_defaults(run=bundled_path())  # all that is needed of it is its autoencoder
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    save_tensors(args.judge, {name: tensor.half() for name, tensor in train(args).state_dict().items()})
    print(f"looks named right: {percent(check(load_look_judge(args.judge), load_vae(args.run), args.check))}")


if __name__ == "__main__":
    main()
