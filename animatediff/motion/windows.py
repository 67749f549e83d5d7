"""Which frames see each other in clips longer than the motion module was trained for."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform_windows(num_frames: int, length: int, overlap: int) -> list[range]:
    """Cover all frames with windows of `length`; the last one is shifted back, never wrapped.

    >>> uniform_windows(10, 4, 1)
    [range(0, 4), range(3, 7), range(6, 10)]
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be at least 0 and less than the window of {length} frames, got {overlap}")
    if num_frames <= length:
        return [range(num_frames)]
    starts = [*range(0, num_frames - length, length - overlap), num_frames - length]
    return [range(start, start + length) for start in starts]


def frame_weights(length: int) -> Tensor:
    """How much each frame of a window counts where windows overlap: a pyramid, (length,), 1 at both ends.

    Frames near the middle have seen neighbours on both sides, so they know best.
    """
    ramp = torch.arange(1, length + 1, dtype=torch.float32)
    return torch.minimum(ramp, ramp.flip(0))
