"""Classifies clips of the sprite world by object, background and motion, from pixels alone.

A small network gives object and pose of each frame, the border gives the background, the trajectory the motion.
`python -m recipes.bundled.classifiers` trains the network and checks it on drawn clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from animatediff.sprites import world
from animatediff.sprites.words import BACKGROUNDS, DIRECTIONS, OBJECTS

MIN_TRAVEL = 4.0
"""Pixels that a sprite must move, from first to last frame, to count as moving."""
MAX_DRIFT = 2.0
"""Pixels that a sprite may move without a motion word."""
MIN_GROWTH = 1.25
"""Last size over first size; shrinking is the inverse."""
MIN_TURN = 90.0
"""Degrees, added up over a clip, clockwise."""
REAL_TRAVEL, REAL_GROWTH, REAL_TURN = 24.0, 1.9, 325.0
"""Averages over drawn clips: pixels of travel, last size over first, degrees."""


class SpriteClassifier(nn.Module):
    """Recognises object, centre, size and heading of the sprite in frames (n, 3, 64, 64) in 0..1."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
            layers += [nn.Conv2d(b, b, 3, padding=1, groups=8), nn.SiLU()] if b > 24 else []
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.SiLU())
        self.obj = nn.Linear(128, len(OBJECTS))
        self.pose = nn.Linear(128, 5)  # x, y, size (in units of 32 px), cosine and sine of the heading

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(frames * 2 - 1)
        return self.obj(y), self.pose(y)


def classifier_path() -> Path:
    """File of the trained classifier that ships with the package."""
    return Path(__file__).parent / "classifier.safetensors"


def load_classifier(path: Path | None = None) -> SpriteClassifier:
    """Load a trained classifier in float32; the one that ships unless another file is given."""
    from safetensors.torch import load_file

    classifier = SpriteClassifier()
    classifier.load_state_dict({name: tensor.float() for name, tensor in load_file(path or classifier_path()).items()})
    return classifier.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Object, background and trajectory of one clip."""

    obj: str
    background: str
    travel: tuple[float, float]
    """Pixels from the first frames to the last, right and down."""
    growth: float
    turn: float
    """Degrees clockwise."""

    def moved(self, motion: str) -> bool:
        """Whether the clip shows the motion that the word names."""
        dx, dy = self.travel
        if motion in DIRECTIONS:
            sx, sy = world.STEP[motion]
            along, aside = dx * sx + dy * sy, abs(dx * sy) + abs(dy * sx)
            return along > MIN_TRAVEL and along > aside
        if motion == "growing":
            return self.growth > MIN_GROWTH
        if motion == "shrinking":
            return self.growth < 1 / MIN_GROWTH
        if motion == "spinning":
            return self.turn > MIN_TURN
        return (dx**2 + dy**2) ** 0.5 < MAX_DRIFT

    @property
    def motion(self) -> str:
        """The motion that shows most, measured by how much of it real clips show; "unclear" if it is none of them."""
        dx, dy = self.travel
        shown = {name: (dx * sx + dy * sy) / REAL_TRAVEL for name, (sx, sy) in world.STEP.items()}
        shown["growing"] = math.log(self.growth) / math.log(REAL_GROWTH)
        shown["shrinking"] = -shown["growing"]
        shown["spinning"] = self.turn / REAL_TURN
        best = max(shown, key=lambda name: shown[name])
        if self.moved(best):
            return best
        rests = self.moved("still") and 1 / MIN_GROWTH <= self.growth <= MIN_GROWTH and abs(self.turn) <= MIN_TURN
        return "still" if rests else "unclear"


@torch.no_grad()
def classify_clip(classifier: SpriteClassifier, frames: Tensor) -> Classification:
    """Classify a clip (f, 3, 64, 64) in 0..1."""
    names, poses = classifier(frames)
    obj = OBJECTS[int(names.log_softmax(1).mean(0).argmax())]
    edge = torch.cat(
        [
            frames[..., :3, :].flatten(2),
            frames[..., -3:, :].flatten(2),
            frames[..., :3].flatten(2),
            frames[..., -3:].flatten(2),
        ],
        2,
    )
    colour = edge.transpose(1, 2).flatten(0, 1).median(0).values
    known = torch.tensor([world.COLOURS[b] for b in BACKGROUNDS]) / 255
    background = BACKGROUNDS[int((known - colour).norm(dim=1).argmin())]
    x, y, size = poses[:, 0] * 32, poses[:, 1] * 32, poses[:, 2]
    angle = torch.atan2(poses[:, 4], poses[:, 3])
    steps = torch.remainder(angle.diff() + torch.pi, 2 * torch.pi) - torch.pi
    return Classification(
        obj=obj,
        background=background,
        travel=(float(x[-2:].mean() - x[:2].mean()), float(y[-2:].mean() - y[:2].mean())),
        growth=float(size[-2:].mean().clamp(min=0.05) / size[:2].mean().clamp(min=0.05)),
        turn=float(torch.rad2deg(steps.sum())),
    )
