"""Figures of shape: how often templates name the object of a frame, and how near it comes to what real frames reach.

Real frames are drawn ones that went once through the autoencoder: nothing that the model paints can be nearer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from animatediff.sprites import world
from animatediff.sprites.shapes import match_shapes, named
from animatediff.sprites.words import Combination
from recipes.bundled.rendering import percent
from recipes.bundled.vae import encode

WORST = 0.1
"""The share of frames that count as the worst."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What templates say of one frame."""

    named: str | None
    """The object that resembles it most, if one does."""
    right: bool
    """Whether that is the object of the prompt."""
    correlation: float
    """Of the prompt's object, at its best pose."""


def shapes_of(frames: Tensor, obj: str) -> list[Shape]:
    """Compare frames (n, 3, h, h) in 0..1, which should show `obj`, with drawn sprites at every pose."""
    result = []
    for matches in match_shapes(frames):
        name = named(matches)
        result.append(Shape(named=name, right=name == obj, correlation=matches[obj].correlation))
    return result


def as_rows(shapes: Sequence[Shape]) -> list[dict[str, Any]]:
    """The same for a JSON file; `Shape(**row)` reads it back."""
    return [shape.__dict__ for shape in shapes]


@torch.no_grad()
def once_through(vae: Any, frames: Tensor) -> Tensor:
    """Encode and decode frames (n, 3, 64, 64) in 0..1; on the CPU again, wherever the autoencoder is."""
    latents = encode(vae, frames.to(vae.device))
    return (torch.cat([vae.decode(z).sample for z in latents.split(64)]) / 2 + 0.5).clamp(0, 1).cpu()


def real_frames(vae: Any, combination: Combination, seed: int, every: int = 4) -> Tensor:
    """Every fourth frame of a drawn clip, once through the autoencoder: (n, 3, 64, 64) in 0..1."""
    scene, _ = world.clips(1, seed, [combination])
    return once_through(vae, world.render(world.take(scene, slice(None, None, every))))


def mean_correlation(shapes: Sequence[Shape], worst: float = 1.0) -> float:
    """Mean over frames, or over this share of them where it is lowest."""
    values = sorted(shape.correlation for shape in shapes)
    values = values[: max(1, round(len(values) * worst))]
    return sum(values) / len(values)


def figures(shapes: Sequence[Shape], real: Sequence[Shape]) -> tuple[str, str, str]:
    """Named right; mean correlation, and that of the worst tenth, each as a share of the real frames'."""
    share = mean_correlation(shapes) / mean_correlation(real)
    worst = mean_correlation(shapes, WORST) / mean_correlation(real, WORST)
    return percent([shape.right for shape in shapes]), f"{share:.3f}", f"{worst:.3f}"


def shape_table(parts: dict[str, tuple[list[Shape], list[Shape]]]) -> str:
    """A Markdown table of the figures by name; each from frames and the real ones beside them."""
    head = "| frames | named right | correlation, share of real frames' | worst tenth |\n|---|---|---|---|\n"
    lines = [f"| {name} | " + " | ".join(figures(*both)) + " |" for name, both in parts.items()]
    return head + "\n".join(lines)
