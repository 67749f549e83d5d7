"""From the frames of a video to a clip: start and crop drawn by seed, frames cut and resized."""

from __future__ import annotations

import hashlib
import random
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from animatediff.media.kinds import BadMedia
from animatediff.training.data.camera import camera_clip
from animatediff.training.data.config import DataConfig


@dataclass(frozen=True)
class Draw:
    """Random values of one clip."""

    start: float
    """Beginning of the clip, 0 (as early as possible) to 1 (as late as possible)."""
    x: float
    """Place of the crop in an image that is too wide, 0 (left) to 1 (right)."""
    y: float
    """Place of the crop in an image that is too high, 0 (top) to 1 (bottom)."""
    mirrored: bool


def draw(config: DataConfig, epoch: int, index: int | str, name: str) -> Draw:
    """Draw the random values of one item in one epoch, as a function of the arguments alone.

    With a cache only `cache_variants` draws exist for an item. They hang on its name, so that adding files leaves the
    entries of the others in use.
    """
    rng = random.Random(f"{config.seed}/{epoch}/{index}")
    if config.cache is not None:
        rng = random.Random(f"{config.seed}/variant {rng.randrange(config.cache_variants)}/{name}")
    start, x, y, flip = rng.random(), rng.random(), rng.random(), rng.random()
    return Draw(start, x, y, config.flip and flip < 0.5)


def clip_key(config: DataConfig, drawn: Draw, name: str, identity: str) -> str:
    """Name exactly these frames: `name`, and a hash of the file's `identity` and of everything done to it."""
    made_by = [identity, asdict(drawn), config.num_frames, config.stride, config.height, config.width, config.resize]
    made_by += [config.fps] if config.fps is not None else []
    made_by += [config.camera, config.camera_strength] if config.camera else []
    return f"{name}#{hashlib.sha256(repr(made_by).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"


def choose_frames(num_available: int, num_frames: int, stride: int, start: float) -> list[int]:
    """Choose the frames of a clip; `start` in 0..1. The stride shrinks for videos that are too short for it.

    Raises BadMedia where even neighbouring frames are too few.

    >>> choose_frames(100, 4, 8, 1.0), choose_frames(10, 4, 8, 0.0)
    ([75, 83, 91, 99], [0, 3, 6, 9])
    """
    if num_available < num_frames:
        raise BadMedia(f"has {num_available} frames, {num_frames} are needed", "shorter than a clip")
    if num_frames > 1:
        stride = min(stride, (num_available - 1) // (num_frames - 1))
    free = num_available - (num_frames - 1) * stride  # possible first frames
    first = min(int(start * free), free - 1)
    return [first + stride * i for i in range(num_frames)]


def cut(frames: np.ndarray, height: int, width: int, drawn: Draw) -> np.ndarray:
    """Cut the largest part with the shape of height x width from frames (f, h, w, 3)."""
    h, w = frames.shape[1:3]
    new_h, new_w = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    top, left = round(drawn.y * (h - new_h)), round(drawn.x * (w - new_w))
    return frames[:, top : top + new_h, left : left + new_w]


def resized(frames: np.ndarray, height: int, width: int) -> Tensor:
    """Resize uint8 (f, h, w, 3) to uint8 (f, 3, height, width); bicubic, averaged where it shrinks."""
    # Channels last in memory, which is how frames come and what torch's uint8 resizing is fast on.
    images = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    if images.shape[-2:] == (height, width):
        return images
    return functional.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)


def to_clip(frames: np.ndarray, config: DataConfig, drawn: Draw) -> Tensor:
    """Make a clip of uint8 frames (f, h, w, 3): float32 (num_frames, 3, height, width) in -1..1.

    One frame is enough where a camera moves over it.
    """
    height, width = config.height, config.width
    if config.camera is not None:
        images = torch.from_numpy(np.ascontiguousarray(cut(frames, height, width, drawn))).permute(0, 3, 1, 2)
        clip = camera_clip(
            images.float() / 255, config.camera, config.num_frames, config.camera_strength, height=height, width=width
        )
        clip = clip * 2 - 1
    else:
        if config.resize == "crop":
            frames = cut(frames, height, width, drawn)
        if config.resize == "pad":
            scale = min(height / frames.shape[1], width / frames.shape[2])
            inner = [max(1, round(size * scale)) for size in frames.shape[1:3]]
            images = resized(frames, *inner)
            top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
            images = functional.pad(images, (left, width - inner[1] - left, top, height - inner[0] - top))
        else:
            images = resized(frames, height, width)
        clip = images.float() / 127.5 - 1
    return (clip.flip(-1) if drawn.mirrored else clip).contiguous()
