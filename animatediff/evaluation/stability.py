"""How much neighbouring frames differ, and how much of that movement does not explain."""

from __future__ import annotations

import numpy as np

from animatediff.evaluation.flow import opencv, resize_flow, sample

PERCENT = 100 / 255
"""Brightness levels to percent of full brightness."""


def frame_difference(first: np.ndarray, second: np.ndarray) -> float:
    """Mean absolute difference of two frames, uint8 (h, w, 3), in percent of full brightness."""
    return float(np.abs(first.astype(np.int16) - second).mean()) * PERCENT


def loop_seam(frames: np.ndarray) -> float:
    """How much larger the step from the last frame to the first is than the others: 1 is a seamless loop.

    frames: uint8 (f, h, w, 3). 1.0 where all frames are equal.
    """
    steps = [frame_difference(frames[i], frames[i + 1]) for i in range(len(frames) - 1)]
    difference = float(np.mean(steps)) if steps else 0.0
    return frame_difference(frames[-1], frames[0]) / difference if difference > 0 else 1.0


def warp_error(first: np.ndarray, second: np.ndarray, flow: np.ndarray, valid: np.ndarray) -> float:
    """Difference of a frame and the next one warped back to it by the flow, in percent of full brightness.

    As in Lai et al. 2018 (arXiv 1808.00449), pixels that are covered or leave the frame are left out. The frames are
    uint8 (h, w, 3); flow (h, w, 2) and `valid` (h, w) may be of another size. 0 where no pixel is left.
    """
    cv2 = opencv()
    height, width = first.shape[:2]
    there = resize_flow(flow, width, height)
    kept = cv2.resize(valid.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
    if not kept.any():
        return 0.0
    warped = sample(np.ascontiguousarray(second), there)
    return float(np.abs(first.astype(np.int16) - warped)[kept].mean()) * PERCENT


def mean_length(flow: np.ndarray, weight: np.ndarray) -> float:
    """Mean length of a flow (h, w, 2), each pixel weighed by `weight` (h, w); 0 where all weights are."""
    total = float(weight.sum())
    return float((np.linalg.norm(flow, axis=-1) * weight).sum()) / total if total > 0 else 0.0
