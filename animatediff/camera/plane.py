"""A flat scene as a moving camera sees it: views of a drawing, and random paths, for training on synthetic clips."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from animatediff.camera.moves import EASINGS, Move
from animatediff.camera.path import CameraPath, path_of_moves

DISTANCE = 4.0
"""Lengths from the first camera to the flat scene, which faces it."""
LARGEST = {
    "pan-left": 0.6, "pan-right": 0.6, "tilt-up": 0.6, "tilt-down": 0.6, "roll-clockwise": 1.2,
    "roll-anticlockwise": 1.2, "zoom-in": 1.0, "zoom-out": 1.0, "truck-left": 1.2, "truck-right": 1.2,
    "pedestal-up": 1.2, "pedestal-down": 1.2,
}  # fmt: skip
"""Strength of each move at which what stands in the middle is still seen at the end."""
LEAST = 0.25
"""Share of it that a move of a random path has at least."""


def random_moves(rng: random.Random) -> tuple[Move, ...]:
    """One move, or two of different kinds, each with a strength and an easing."""
    names = rng.sample(sorted(LARGEST), 2)
    kinds = {name.partition("-")[0] for name in names}
    chosen = names[: rng.choice((1, 1, 2))] if len(kinds) == 2 else names[:1]
    return tuple(Move(name, LARGEST[name] * rng.uniform(LEAST, 1), rng.choice(tuple(EASINGS))) for name in chosen)


def random_path(seed: int, num_frames: int) -> CameraPath:
    """A path of random moves, the same for the same seed."""
    return path_of_moves(random_moves(random.Random(seed)), num_frames)


def plane_views(path: CameraPath, height: int, width: int) -> Tensor:
    """Views of a flat scene: for each frame (2, 3) float64 the place in the scene that a place in the image shows.

    Both are measured from the middle: the matrix of the first two columns takes pixels to pixels, the last column is a
    shift in halves of width and height. To first order at the middle, which is exact for all moves but turns to the
    side. The scene stands so that half of the way lies before the middle and half behind it.
    """
    fx, fy, *_ = path.in_pixels(height, width).double().unbind(-1)
    half = torch.stack([width / 2 / fx, height / 2 / fy], dim=-1)  # (f, 2): slope of the ray at the edge
    turn, place = path.to_world[:, :3, :3], path.positions
    ahead = turn[:, :, 2]
    way = (DISTANCE - place[:, 2]) / ahead[:, 2]
    shift = (place[:, :2] + way[:, None] * ahead[:, :2]) / (DISTANCE * half)
    sides = turn[:, :, :2] * half[:, None]  # (f, 3, 2): how the ray changes over half an image
    slope = (sides[:, :2] * ahead[:, 2, None, None] - ahead[:, :2, None] * sides[:, 2:]) / ahead[:, 2, None, None] ** 2
    matrix = (DISTANCE - place[:, 2])[:, None, None] * slope / (DISTANCE * half)[:, :, None]
    matrix = matrix * torch.tensor([[1.0, width / height], [height / width, 1.0]]).double()
    size = matrix.det().abs().sqrt().log().mean().exp()
    return torch.cat([matrix, (shift - shift.mean(0))[:, :, None]], dim=-1) / size
