"""Backgrounds with something on them, so that a move of the camera shows also where no sprite is."""

from __future__ import annotations

import torch
from torch import Tensor

from animatediff.bundled.world import Shading

CELL = 16.0
"""Pixels of the square that each dot lies in."""
TABLE = 32
"""Squares after which the dots repeat."""
CONTRAST = 0.28


def dots(seed: int) -> Shading:
    """Lighter and darker soft dots of many sizes, one in each square of an endless grid, at places drawn by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    radius = 2.5 + 3.5 * torch.rand(TABLE, TABLE, generator=generator)
    free = (CELL / 2 - radius - 1)[None]
    offset = (2 * torch.rand(2, TABLE, TABLE, generator=generator) - 1) * free  # of the middle; no dot is cut off
    tone = CONTRAST * (2.0 * torch.randint(2, (TABLE, TABLE), generator=generator) - 1)

    def shading(x: Tensor, y: Tensor) -> Tensor:
        column, row = (x / CELL).floor(), (y / CELL).floor()
        cell = (row.long() % TABLE, column.long() % TABLE)
        dx = x - (column + 0.5) * CELL - offset[0][cell]
        dy = y - (row + 0.5) * CELL - offset[1][cell]
        inside = torch.sigmoid(2.5 * (radius[cell] - (dx**2 + dy**2).sqrt()))
        return 1 + tone[cell] * inside

    return shading
