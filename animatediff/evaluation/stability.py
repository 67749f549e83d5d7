"""How much neighbouring frames differ, and how much of that movement does not explain."""

from __future__ import annotations

import numpy as np

from animatediff.media.flow import opencv, resize_flow, sample
from animatediff.media.seam import PERCENT


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
