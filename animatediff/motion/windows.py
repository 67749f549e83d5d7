"""Context windows for clips longer than a motion module was trained for; no part of the paper.

Which frames attend to each other, how much each window counts, and the blend of what is computed window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

BLENDS = ("pyramid", "flat", "overlap-linear", "gauss")
"""How windows blend where they overlap, by the names of ComfyUI-AnimateDiff-Evolved."""


@dataclass(frozen=True)
class Window:
    """Frames that attend to each other, in the order in which the motion module takes them."""

    frames: tuple[int, ...]
    share: Tensor
    """(f,) float32: fuse weight of this window at each of its frames; the weights of a frame sum to 1."""


def uniform_windows(num_frames: int, length: int, overlap: int) -> list[range]:
    """Cover all frames with windows of `length`; the last one is shifted back, never wrapped.

    >>> uniform_windows(10, 4, 1)
    [range(0, 4), range(3, 7), range(6, 10)]
    """
    _check_overlap(length, overlap)
    if num_frames <= length:
        return [range(num_frames)]
    starts = [*range(0, num_frames - length, length - overlap), num_frames - length]
    return [range(start, start + length) for start in starts]


def closed_windows(num_frames: int, length: int, overlap: int) -> list[list[int]]:
    """Cover a clip whose last frame is followed by its first: windows evenly round the circle, also over the seam.

    A clip that fits into one window gets at least a second one, in whose middle the seam lies.

    >>> closed_windows(6, 4, 1)
    [[0, 1, 2, 3], [3, 4, 5, 0]]
    >>> closed_windows(4, 4, 1)
    [[0, 1, 2, 3], [2, 3, 0, 1]]
    """
    _check_overlap(length, overlap)
    length = min(length, num_frames)
    num_windows = -(-num_frames // max(1, length - overlap))
    num_windows = num_frames if num_frames <= 2 else max(2, num_windows)
    starts = [index * num_frames // num_windows for index in range(num_windows)]
    return [[(start + place) % num_frames for place in range(length)] for start in starts]


def window_weights(length: int, overlap: int, blend: str = "pyramid") -> Tensor:
    """Fuse weights of the frames of one window, before they are made to sum to 1: (length,), all above zero.

    Frames near the middle have neighbours on both sides, so they count most; "flat" lets all count alike.
    """
    place = torch.arange(length, dtype=torch.float32)
    to_edge = torch.minimum(place, place.flip(0)) + 1
    if blend == "pyramid":
        return to_edge
    if blend == "overlap-linear":
        return to_edge.clamp(max=overlap + 1)
    if blend == "gauss":
        return torch.exp(-0.5 * ((place - (length - 1) / 2) / (length / 4)) ** 2)
    assert blend == "flat", f"unknown blend {blend!r}; known are {', '.join(BLENDS)}"
    return torch.ones(length)


def plan_windows(
    num_frames: int, length: int, overlap: int, *, stride: int = 1, closed_loop: bool = False, blend: str = "pyramid"
) -> list[Window]:
    """Plan the windows of a clip and their fuse weights.

    stride: 1 for windows of neighbouring frames; with 2 there are also windows of every second frame, with 3 also of
    every fourth, and so on until one window spans the clip, so that distant frames agree. Each level takes as much time
    as the first. closed_loop: the last frame is followed by the first.
    """
    found: list[list[int]] = []
    step = 1
    for level in range(stride):
        if level and num_frames * 2 <= length * step:
            break  # the level before this one spans the clip
        for phase in range(min(step, num_frames)):
            part = range(phase, num_frames, step)
            windows: Sequence[Sequence[int]] = (
                closed_windows(len(part), length, overlap)
                if closed_loop
                else uniform_windows(len(part), length, overlap)
            )
            found += [[part[place] for place in window] for window in windows]
        step *= 2
    weights = [window_weights(len(frames), min(overlap, len(frames) - 1), blend) for frames in found]
    total = torch.zeros(num_frames)
    for frames, weight in zip(found, weights, strict=True):
        total[frames] += weight
    return [Window(tuple(frames), weight / total[frames]) for frames, weight in zip(found, weights, strict=True)]


def blend_windows(
    residual: Callable[[Tensor, int, Sequence[int]], Tensor], x: Tensor, num_frames: int, windows: Sequence[Window]
) -> Tensor:
    """Compute the residual window by window and add up what overlaps, by weight. x: (b*f, c, h, w), likewise returned.

    residual: takes (b*f, c, h, w), the number f of frames in it, here those of one window, and which these are.
    """
    clips = rearrange(x, "(b f) c h w -> b f c h w", f=num_frames)
    total = torch.zeros_like(clips)
    for window in windows:
        index = torch.tensor(window.frames, device=x.device)
        part = clips.index_select(1, index)
        result = residual(part.flatten(0, 1), len(window.frames), window.frames).view_as(part)
        total.index_add_(1, index, result * window.share.to(x)[:, None, None, None])
    return total.flatten(0, 1)


def _check_overlap(length: int, overlap: int) -> None:
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be at least 0 and less than the window of {length} frames, got {overlap}")
