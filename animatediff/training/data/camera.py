"""Camera moves over stills and clips: smooth crops that zoom, pan, tilt and roll, for training MotionLoRAs.

Named by what the camera does. ZoomIn: things grow. PanRight: the camera moves right, so things move left. TiltUp: the
camera moves up, so things move down. RollingClockwise: things turn clockwise.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.errors import unknown
from animatediff.training.data.config import Move

MOVES: tuple[str, ...] = get_args(Move)
ZOOM = 1.5
"""Growth of things from the first to the last frame, at strength 1."""
TRAVEL = 1 / 3
"""Way of the camera in pans and tilts, in widths or heights of the image, at strength 1."""
ROLL_DEGREES = 40.0
"""Angle that things turn by, at strength 1."""


def camera_path(move: str, num_frames: int, strength: float = 1.0) -> Tensor:
    """Views of the camera, a matrix for each frame: (num_frames, 2, 3) float64.

    A frame's matrix takes a place in the image, measured from its middle, to the place in the scene that is seen
    there: a scale and a turn, and in the last column a shift in halves of the image's width and height. Zooms and
    pans pass through the plain view halfway; rolls begin with it. Raises UserError for an unknown move.
    """
    if move not in MOVES:
        raise unknown("camera move", move, MOVES)
    zooms, x, y, angles = (torch.zeros(num_frames, dtype=torch.float64) for _ in range(4))
    share = torch.linspace(0, 1, num_frames, dtype=torch.float64) * strength
    middle = share - strength / 2
    if move in ("ZoomIn", "ZoomOut"):
        zooms = middle * math.log(ZOOM) * (1 if move == "ZoomIn" else -1)  # constant relative growth
    elif move in ("PanRight", "PanLeft"):
        x = middle * 2 * TRAVEL * (1 if move == "PanRight" else -1)
    elif move in ("TiltDown", "TiltUp"):
        y = middle * 2 * TRAVEL * (1 if move == "TiltDown" else -1)
    else:  # things turn clockwise when the camera turns anticlockwise
        angles = torch.deg2rad(share * ROLL_DEGREES) * (-1 if move == "RollingClockwise" else 1)
    scale = torch.exp(-zooms)
    cos, sin = scale * angles.cos(), scale * angles.sin()
    return torch.stack([torch.stack([cos, -sin, x], -1), torch.stack([sin, cos, y], -1)], -2)


def camera_clip(
    image: Tensor,
    move: str,
    num_frames: int,
    strength: float = 1.0,
    *,
    height: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Film a still or, frame by frame, a clip with a moving camera.

    image: float (3, h, w) or (1, 3, h, w), or (num_frames, 3, h, w), in any range. The views are as large as they can
    be without showing what lies outside of it. Returns (num_frames, 3, height, width), by default of the given size,
    in the same range.
    """
    source = image[None] if image.ndim == 3 else image
    if len(source) not in (1, num_frames):
        raise ValueError(f"expected one image or num_frames={num_frames} of them, got {tuple(image.shape)}")
    source_h, source_w = source.shape[-2:]
    height, width = height or source_h, width or source_w
    path = camera_path(move, num_frames, strength)
    # Halves of width and height differ, and rolling mixes them: work in pixels of the view.
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    matrix = path.clone()
    matrix[:, :, 2] *= half
    corners = torch.tensor([[x, y, 1.0] for x in (-1, 1) for y in (-1, 1)], dtype=torch.float64)
    corners[:, :2] *= half
    reach = (matrix @ corners.T).abs().amax((0, 2))  # how far all views together go from the middle
    scale = min(source_w / 2 / reach[0].item(), source_h / 2 / reach[1].item())  # pixels of the source a view pixel
    views = scale * path[:, 0, :2].norm(dim=-1)
    if views.mean() > 1:  # shrink the source first, averaging, so that no pixel is jumped over
        factor = views.mean().item()
        size = (max(1, round(source_h / factor)), max(1, round(source_w / factor)))
        source = functional.interpolate(source, size, mode="bicubic", antialias=True, align_corners=False)
    grid = _grid(matrix, height, width) * scale / torch.tensor([source_w / 2, source_h / 2], dtype=torch.float64)
    low, high = image.amin(), image.amax()
    clip = functional.grid_sample(
        source.expand(num_frames, -1, -1, -1), grid.to(source.dtype), "bicubic", "border", align_corners=False
    )
    return clip.clamp(low, high)  # bicubic weights overshoot at edges


def _grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Places (f, h, w, 2) that the pixel centres of a view see, in its pixels from the middle."""
    x = torch.arange(width, dtype=torch.float64) + 0.5 - width / 2
    y = torch.arange(height, dtype=torch.float64) + 0.5 - height / 2
    places = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width).double()], -1)
    return torch.einsum("fij,hwj->fhwi", matrix, places)
