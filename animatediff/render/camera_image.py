"""The path of a camera as an image: from above and from the side, to look at before rendering and beside the clip."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import ImageDraw
    from torch import Tensor

    from animatediff.camera import CameraPath

VIEW, PADDING, LINE = 312, 8, 18
"""Pixels of a view's side, around both views, and of a line of text."""
PAPER, PANEL, GRID, INK = (24, 24, 24), (38, 38, 38), (62, 62, 62), (235, 235, 235)
FIRST, LAST = (86, 180, 233), (230, 159, 0)
"""Colours of the first frame and the last; those between are mixed of both."""
VIEWS = {"from above": ((0, 1), (2, 1)), "from the right side": ((2, 1), (1, -1))}
"""Title -> the axis that goes to the right and the one that goes up, each with its sign."""
MARKS = 9
"""Frames at which the camera is drawn, at most."""
FEWEST = 1.0
"""Lengths that a view shows at least, so that a camera which only turns does not fill it."""


def camera_image(path: CameraPath) -> np.ndarray:
    """The path from above (forward is up) and from the right (forward is right), uint8 (h, w, 3).

    Both views have one scale; a grid line a length. A wedge shows where the camera stands and looks, blue at the first
    frame and orange at the last; the thick part of it is the camera's right side, seen from the side its upper one.
    A line below says where the path ends.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    size = (2 * VIEW + 3 * PADDING, VIEW + 2 * LINE + 2 * PADDING)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    span = _span(path)
    for place, (title, axes) in enumerate(VIEWS.items()):
        left = PADDING + place * (VIEW + PADDING)
        _view(draw, path, axes, (left, PADDING + LINE), span)
        draw.text((left, PADDING), title, fill=INK, font=font)
    draw.text((PADDING, size[1] - LINE), str(path), fill=INK, font=font)
    return np.asarray(sheet)


def _span(path: CameraPath) -> float:
    """Lengths that both views show from side to side, around the middle of the path."""
    low, high = path.positions.amin(0), path.positions.amax(0)
    return max(FEWEST, float((high - low).max())) * 1.5


def _view(
    draw: ImageDraw.ImageDraw,
    path: CameraPath,
    axes: tuple[tuple[int, int], tuple[int, int]],
    corner: tuple[int, int],
    span: float,
) -> None:
    """One view. axes: which axis goes to the right and which up, each with its sign."""
    (across, right), (along, up) = axes
    middle = (path.positions.amin(0) + path.positions.amax(0)) / 2
    scale = VIEW / span
    box = (*corner, corner[0] + VIEW - 1, corner[1] + VIEW - 1)

    def at(point: Tensor) -> tuple[float, float]:
        x = float(point[across] - middle[across]) * right * scale
        y = float(point[along] - middle[along]) * up * scale
        return corner[0] + VIEW / 2 + x, corner[1] + VIEW / 2 - y

    draw.rectangle(box, fill=PANEL)
    for number in range(-int(span) - 2, int(span) + 3):  # lines at whole lengths from the first frame
        x = corner[0] + VIEW / 2 + (number - float(middle[across]) * right) * scale
        y = corner[1] + VIEW / 2 - (number - float(middle[along]) * up) * scale
        if box[0] < x < box[2]:
            draw.line((x, box[1], x, box[3]), fill=GRID)
        if box[1] < y < box[3]:
            draw.line((box[0], y, box[2], y), fill=GRID)
    places = [at(point) for point in path.positions]
    for frame, (one, other) in enumerate(pairwise(places)):
        draw.line((one, other), fill=_colour(frame, len(path)), width=2)
    step = max(1, -(-(len(path) - 1) // (MARKS - 1)))
    marked = sorted({*range(0, len(path), step), len(path) - 1})
    reach = 0.11 * span
    for frame in marked:
        pose = path.to_world[frame]
        tip, ahead = pose[:3, 3], pose[:3, 2] * reach
        side = (pose[:3, 0] if across == 0 else -pose[:3, 1]) * reach * 0.55
        colour = _colour(frame, len(path))
        corners = [at(tip), at(tip + ahead - side), at(tip + ahead + side)]
        draw.polygon(corners, outline=colour)
        draw.line((at(tip + ahead), at(tip + ahead + side)), fill=colour, width=3)
        x, y = corners[0]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)


def _colour(frame: int, num_frames: int) -> tuple[int, int, int]:
    share = frame / max(1, num_frames - 1)
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(FIRST, LAST, strict=True))
    return red, green, blue
