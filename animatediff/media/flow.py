"""Dense optical flow between two frames, and the pixels in which it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from animatediff.errors import UserError

ANALYSED_SIDE = 256
"""Frames are scaled to the area of a square of this side: one set of limits for every size."""
ENLARGED = 2.0
"""Small frames are enlarged by this at most: more makes them soft, and the flow of soft images is small."""
SMALLEST_SIDE = 32
"""Pixels that the flow's coarsest level needs."""
NOISE = 4.0
"""Brightness levels (of 255) a pixel, under which a gradient is no texture to track."""
CONSISTENT_PX = 1.0
"""There and back again may miss the start by this many analysed pixels, and a tenth of the way more."""

Matrix = np.ndarray
"""A similarity transform as (2, 3): x' = M[:, :2] x + M[:, 2], x and x' measured from the middle of the frame."""

IDENTITY: Matrix = np.eye(2, 3)


def opencv(what: str = "measuring motion", extra: str = "train") -> Any:
    """The module `cv2`. Raises UserError, which says what needs it, where it is missing or broken."""
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"{what} needs OpenCV ({error}); it is in the extra `{extra}`:"
            f" pip install 'animatediff[{extra}]', or opencv-python-headless alone"
        ) from error
    return cv2


@dataclass(frozen=True)
class AnalysedImage:
    """A frame made ready for the flow: grey, at the analysed size."""

    grey: np.ndarray
    """uint8 (h, w)."""
    scale: float
    """Analysed pixels a pixel of the frame."""

    @classmethod
    def of(cls, frame: np.ndarray, side: int = ANALYSED_SIDE, enlarged: float = ENLARGED) -> AnalysedImage:
        """From a frame, uint8 (h, w, 3), at the area of a square of this side, enlarged by `enlarged` at most."""
        cv2 = opencv()
        height, width = frame.shape[:2]
        size = analysed_size(width, height, side, enlarged)
        scale = (size[0] * size[1] / (width * height)) ** 0.5
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
        return cls(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), scale)

    @cached_property
    def texture(self) -> np.ndarray:
        """How well each pixel can be tracked, 0 to 1, and along which axis: float32 (h, w, 3) = (xx, xy, yy).

        The structure tensor of a small neighbourhood, divided so that its trace goes from 0 (noise) to 1 (texture):
        of an edge only the movement across it is known, of a corner all, of a flat patch nothing.
        """
        cv2 = opencv()
        dx = cv2.Scharr(self.grey, cv2.CV_32F, 1, 0) / 32
        dy = cv2.Scharr(self.grey, cv2.CV_32F, 0, 1) / 32
        tensor = cv2.GaussianBlur(np.stack([dx * dx, dx * dy, dy * dy], -1), (0, 0), 2.0)
        trace = tensor[..., 0] + tensor[..., 2]
        noise = (NOISE / max(1.0, self.scale)) ** 2  # enlarging makes gradients smaller
        return tensor * (trace / (trace**2 + noise**2))[..., None]

    @cached_property
    def tracked(self) -> np.ndarray:
        """How well each pixel can be tracked along any axis, 0 to 1: float32 (h, w)."""
        return self.texture[..., 0] + self.texture[..., 2]


def analysed_size(width: int, height: int, side: int = ANALYSED_SIDE, enlarged: float = ENLARGED) -> tuple[int, int]:
    """Width and height at which frames of this size are looked at.

    >>> analysed_size(64, 64), analysed_size(768, 432)
    ((128, 128), (341, 192))
    """
    scale = min(enlarged, side / (width * height) ** 0.5)
    return max(SMALLEST_SIDE, round(width * scale)), max(SMALLEST_SIDE, round(height * scale))


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x (1, w) and y (h, 1), float32, measured from the middle of the frame."""
    x = np.arange(width, dtype=np.float32) - (width - 1) / 2
    y = np.arange(height, dtype=np.float32) - (height - 1) / 2
    return x[None, :], y[:, None]


def transform_flow(matrix: Matrix, height: int, width: int) -> np.ndarray:
    """The flow of a similarity transform: float32 (h, w, 2)."""
    x, y = pixel_grid(height, width)
    (a, b, tx), (c, d, ty) = matrix.astype(np.float32)
    return np.stack([(a - 1) * x + b * y + tx, c * x + (d - 1) * y + ty], -1)


def targets(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's flow (h, w, 2) ends: column and row, each (h, w)."""
    height, width = flow.shape[:2]
    return flow[..., 0] + np.arange(width, dtype=np.float32), flow[..., 1] + np.arange(height, dtype=np.float32)[
        :, None
    ]


def sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """What lies where the flow (h, w, 2) leads, linearly interpolated, edges repeated."""
    cv2 = opencv()
    return cv2.remap(image, *targets(flow), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def lands_inside(flow: np.ndarray) -> np.ndarray:
    """Whether each pixel's flow (h, w, 2) ends in the frame: bool (h, w)."""
    column, row = targets(flow)
    return (column >= 0) & (column <= flow.shape[1] - 1) & (row >= 0) & (row <= flow.shape[0] - 1)


def resize_flow(flow: np.ndarray, width: int, height: int) -> np.ndarray:
    """The same flow in pixels of a frame of another size."""
    cv2 = opencv()
    ratio = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    return cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR) * ratio


def inverse(matrix: Matrix) -> Matrix:
    """The transform that undoes this one."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], 1)


class Tracker:
    """Flow from one image to the next: Dense Inverse Search (Kroeger et al. 2016, arXiv 1603.03590)."""

    def __init__(self) -> None:
        cv2 = opencv()
        self._search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, first: AnalysedImage, second: AnalysedImage, guess: Matrix = IDENTITY) -> np.ndarray:
        """Where each pixel of `first` goes in `second`: float32 (h, w, 2), in analysed pixels.

        The search begins at the `guess`, a movement of the whole image, so that far and turning ones are found too.
        """
        ahead = transform_flow(guess, *first.grey.shape)
        rest = self._search.calc(first.grey, sample(second.grey, ahead), None)
        return rest + sample(ahead, rest)

    def checked_flow(
        self, first: AnalysedImage, second: AnalysedImage, guess: Matrix = IDENTITY
    ) -> tuple[np.ndarray, np.ndarray]:
        """The flow, and where to believe it: bool (h, w), true where the way back leads to the start."""
        there = self.flow(first, second, guess)
        back = sample(self.flow(second, first, inverse(guess)), there)
        miss, length = np.linalg.norm(there + back, axis=-1), np.linalg.norm(there, axis=-1)
        return there, lands_inside(there) & (miss < CONSISTENT_PX + 0.1 * length)
