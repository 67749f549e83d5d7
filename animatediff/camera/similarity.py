"""The one similarity transform that most of an image follows, fitted so that moving objects do not pull it."""

from __future__ import annotations

import numpy as np

from animatediff.media.flow import IDENTITY, AnalysedImage, Matrix, Tracker, pixel_grid, transform_flow

ROUNDS = 4
"""How often the flow is searched at most, each time from the movement found before."""
SETTLED_PX = 0.5
"""A fit within this many analysed pixels (root mean square) of the guess needs no further round."""
SCALES_PX = (32.0, 16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.5, 0.5)
"""Misfit, in analysed pixels, beyond which a pixel hardly counts, fit by fit; the first fit takes all equally."""
EVERY = (slice(None, None, 2), slice(None, None, 2))
"""The fit looks at every second pixel, both ways: the flow is smoother than that."""
LEAST_TEXTURE = 8.0
"""Sum of what can be tracked over those pixels, below which there is nothing to fit."""
TIE = 1e-4
"""Pull of each unknown to no movement, relative to the data's: it decides what the texture leaves open."""


def can_be_tracked(image: AnalysedImage) -> bool:
    """Whether an image shows enough to see a movement of the whole by; one of a single colour does not."""
    return float(image.tracked[EVERY].sum()) >= LEAST_TEXTURE


def fit_similarity(flow: np.ndarray, texture: np.ndarray, valid: np.ndarray) -> Matrix:
    """The similarity transform of a flow (h, w, 2); `texture` (h, w, 3) as of `AnalysedImage`, `valid` bool (h, w).

    Least squares on the misfit seen through the texture, repeated with weights that fall with the misfit
    (Geman-McClure), whose scale shrinks from fit to fit so that the first does not decide (graduated non-convexity,
    Blake and Zisserman 1987). Movement that the texture cannot tell, as along the only edge, is taken to be none.
    """
    height, width = valid.shape
    xx, xy, yy = (texture[..., i][EVERY].ravel() * valid[EVERY].ravel() for i in range(3))
    seen = xx + yy > 1e-3
    if (xx + yy).sum() < LEAST_TEXTURE:
        return IDENTITY
    x, y = (np.broadcast_to(v, (height, width))[EVERY].ravel()[seen] for v in pixel_grid(height, width))
    one, none = np.ones_like(x), np.zeros_like(x)
    # flow = (M - 1) x is linear in p = (a - 1, c, tx, ty) with M = [[a, -c, tx], [c, a, ty]]; n pixels, rows (n, 4)
    rows_x, rows_y = np.stack([x, -y, one, none], 1).astype(float), np.stack([y, x, none, one], 1).astype(float)
    u, v = flow[..., 0][EVERY].ravel()[seen], flow[..., 1][EVERY].ravel()[seen]
    xx, xy, yy = xx[seen], xy[seen], yy[seen]
    radius = np.hypot(height, width) / 4
    units = np.array([radius, radius, 1.0, 1.0])  # analysed pixels that one of each unknown moves the image by
    p = np.zeros(4)
    for scale in SCALES_PX:
        du, dv = u - rows_x @ p, v - rows_y @ p
        misfit = (xx * du * du + 2 * xy * du * dv + yy * dv * dv) / (xx + yy)
        weight = np.ones_like(misfit) if scale == SCALES_PX[0] else (1 + misfit / scale**2) ** -2
        wxx, wxy, wyy = weight * xx, weight * xy, weight * yy
        cross = (rows_x * wxy[:, None]).T @ rows_y
        normal = (rows_x * wxx[:, None]).T @ rows_x + (rows_y * wyy[:, None]).T @ rows_y + cross + cross.T
        normal += np.diag(units**2) * TIE * (wxx + wyy).sum()
        p = np.linalg.solve(normal, rows_x.T @ (wxx * u + wxy * v) + rows_y.T @ (wxy * u + wyy * v))
    return np.array([[1 + p[0], -p[1], p[2]], [p[1], 1 + p[0], p[3]]])


def track(tracker: Tracker, first: AnalysedImage, second: AnalysedImage) -> tuple[Matrix, np.ndarray, np.ndarray]:
    """The transform from one image to the next, the flow (h, w, 2) it was fitted to, and where that is valid."""
    flow, valid = tracker.checked_flow(first, second)
    guess, matrix = IDENTITY, fit_similarity(flow, first.texture, valid)
    for _ in range(ROUNDS - 1):
        change = transform_flow(matrix, *valid.shape) - transform_flow(guess, *valid.shape)
        if np.sqrt((change**2).sum(-1).mean()) < SETTLED_PX:
            break
        guess = matrix
        flow, valid = tracker.checked_flow(first, second, guess)
        matrix = fit_similarity(flow, first.texture, valid)
    return matrix, flow, valid
