"""Clips of the sprite world at any rate, and how far frames are from what the world draws between them."""

from __future__ import annotations

import random

import numpy as np

from animatediff.sprites.world import poses, render, scene_of


def sprite_clip(motion: str, num_frames: int, *, obj: str = "fox", seed: int = 3) -> np.ndarray:
    """A whole motion in so many frames: uint8 (f, 64, 64, 3)."""
    progress = [index / (num_frames - 1) for index in range(num_frames)]
    return drawn(poses((obj, "green", motion), random.Random(seed), progress))


def spinning_loop(num_frames: int) -> np.ndarray:
    """One full turn, after which the first frame follows the last: uint8 (f, 64, 64, 3)."""
    (pose,) = poses(("car", "blue", "spinning"), random.Random(1), [0.0])
    return drawn([{**pose, "angle": 360 * index / num_frames} for index in range(num_frames)])


def drawn(rows: list[dict[str, float]]) -> np.ndarray:
    return (render(scene_of(rows)).permute(0, 2, 3, 1) * 255).round().byte().numpy()


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over frames of the peak signal-to-noise ratio, in dB."""
    error = ((first.astype(float) - second) ** 2).reshape(len(first), -1).mean(1)
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-3))).mean())
