"""What the frames of a video show: ready-made conditions of ControlNets (poses, lines, depth, normals), or a scene."""

from __future__ import annotations

import numpy as np

from animatediff.media.sketch import is_drawing

POSE, LINES, DRAWING, DEPTH, NORMAL, SCENE = "pose", "lines", "drawing", "depth", "normal", "scene"

DARK, LIT = 40, 64
"""Largest channel, 0..255, up to which a pixel is background and from which on it is drawn; video codecs blur."""
COLOURFUL = 0.5
"""Saturation (spread of the channels by the largest) from which on a pixel has a colour of its own."""
GREY = 14
"""Mean spread of the channels, 0..255, up to which a frame has no colour."""
HUES = 4
"""Different hues, of 12, that skeletons of OpenPose have at least: a limb has its own."""
SMOOTH = 2.0
"""Mean step from pixel to pixel, 0..255, up to which a grey frame is a surface without texture."""


def shown(frames: np.ndarray) -> str:
    """What most of the frames show, of a few from all over a video; uint8 (n, h, w, 3).

    `pose`: skeletons in OpenPose's colours on black; `lines`: white on black; `drawing`: dark lines on white; `depth`:
    grey surfaces without texture; `normal`: a map of normals; else `scene`.
    """
    found = [_shown(frame) for frame in frames]
    best = max(dict.fromkeys(found), key=found.count)
    return best if found.count(best) * 2 > len(found) else SCENE


def _shown(frame: np.ndarray) -> str:
    from PIL import Image

    pixels = frame.astype(np.float32)
    top, low = pixels.max(axis=-1), pixels.min(axis=-1)
    dark, lit = float((top <= DARK).mean()), top >= LIT
    if lit.mean() < 1e-4:
        return SCENE  # an empty frame may be of anything
    colour = (top - low) / np.maximum(top, 1)
    of_lit = float((colour[lit] > COLOURFUL).mean())
    if dark > 0.7 and of_lit > 0.3 and _thin(lit) and _hues(pixels[lit & (colour > COLOURFUL)]) >= HUES:
        return POSE
    if float((top - low).mean()) <= GREY:
        if dark > 0.6 and _thin(lit):
            return LINES
        if is_drawing(Image.fromarray(frame)) and _thin(top < 128):
            return DRAWING
        smooth = SMOOTH * max(1.0, 128 / min(top.shape))
        if _texture(pixels.mean(axis=-1)) <= smooth and np.ptp(np.percentile(top, (2, 98))) > 60:
            return DEPTH
    elif _are_normals(pixels):
        return NORMAL
    return SCENE


def _hues(pixels: np.ndarray) -> int:
    """Number of hues, of 12, that a share of the pixels (n, 3) has each."""
    top, low = pixels.max(axis=-1), pixels.min(axis=-1)
    spread = np.maximum(top - low, 1)
    red, green, blue = pixels.T
    sector = np.where(
        top == red,
        (green - blue) / spread % 6,
        np.where(top == green, (blue - red) / spread + 2, (red - green) / spread + 4),
    )
    counts = np.bincount((sector * 2).round().astype(int) % 12, minlength=12)
    return int((counts > 0.02 * len(pixels)).sum())


def _thin(mask: np.ndarray) -> bool:
    """Whether hardly anything is left of a mask (h, w) when it loses a border: it is lines, not surfaces."""
    count = mask.sum()
    if not count or mask.mean() > 0.4:
        return False
    reach = max(2, round(min(mask.shape) / 100))  # a stroke is so many pixels wide to either side
    h, w = mask.shape
    around = np.pad(mask, reach)
    steps = ((0, reach), (0, -reach), (reach, 0), (-reach, 0))
    inner = mask & np.logical_and.reduce(
        [around[reach + y : reach + y + h, reach + x : reach + x + w] for y, x in steps]
    )
    return float(inner.sum() / count) < 0.15


def _texture(grey: np.ndarray) -> float:
    """Mean step from pixel to pixel, of the blocks of a grey image that all but a quarter are smoother than.

    Edges between surfaces are in few blocks, and do not count.
    """
    steps = np.abs(np.diff(grey, axis=1))[:-1] + np.abs(np.diff(grey, axis=0))[:, :-1]
    size = 8
    h, w = (side // size * size for side in steps.shape)
    if not h or not w:
        return float(steps.mean())
    blocks = steps[:h, :w].reshape(h // size, size, w // size, size).mean(axis=(1, 3))
    return float(np.percentile(blocks, 75))


def _are_normals(pixels: np.ndarray) -> bool:
    """Whether nearly all pixels (h, w, 3) are vectors of length 1, and most of them look at the camera."""
    vectors = pixels / 127.5 - 1
    length = np.linalg.norm(vectors, axis=-1)
    return bool((np.abs(length - 1) < 0.12).mean() > 0.8 and vectors[..., 2].mean() > 0.3)
