"""The eight sprites, drawn in code: flat stickers that look to the right, bold enough to be told apart at 30 pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from animatediff.sprites.words import OBJECTS

CANVAS = 640  # drawn large, then reduced: soft edges without a drawing library
ATLAS = 80  # pixels of a stored sprite; scenes show it at 20 to 44
RIM = 33  # width in canvas pixels of the white sticker rim
DARK = (40, 36, 48)
WHITE = (252, 250, 244)

Point = tuple[float, float]
Colour = tuple[int, int, int]


class Pen:
    """Draws shapes given in units of the sprite: x and y from -1 to 1, y downwards."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (CANVAS, CANVAS), (0, 0, 0, 0))
        self.draw = ImageDraw.Draw(self.image)

    def _at(self, point: Point) -> Point:
        half = CANVAS / 2
        return half + point[0] * half * 0.88, half + point[1] * half * 0.88  # 0.88 leaves room for the rim

    def polygon(self, points: list[Point], colour: Colour) -> None:
        self.draw.polygon([self._at(p) for p in points], fill=colour)

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        (x0, y0), (x1, y1) = self._at((centre[0] - rx, centre[1] - ry)), self._at((centre[0] + rx, centre[1] + ry))
        self.draw.ellipse((x0, y0, x1, y1), fill=colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, radius: float = 0.0) -> None:
        (px0, py0), (px1, py1) = self._at((x0, y0)), self._at((x1, y1))
        self.draw.rounded_rectangle((px0, py0, px1, py1), radius=radius * CANVAS / 2, fill=colour)

    def sector(self, centre: Point, rx: float, ry: float, start: float, end: float, colour: Colour) -> None:
        """A filled slice of an ellipse from `start` to `end` degrees, clockwise from the right."""
        (x0, y0), (x1, y1) = self._at((centre[0] - rx, centre[1] - ry)), self._at((centre[0] + rx, centre[1] + ry))
        self.draw.pieslice((x0, y0, x1, y1), start, end, fill=colour)

    def eye(self, centre: Point, radius: float = 0.1) -> None:
        self.ellipse(centre, radius, radius, DARK)


def fox(pen: Pen) -> None:
    orange, deep = (242, 120, 20), (150, 62, 8)
    pen.polygon([(-0.45, 0.1), (-0.95, -0.6), (-0.5, -0.75), (-0.2, 0.0)], orange)  # bushy tail, raised
    pen.polygon([(-0.95, -0.6), (-0.8, -0.95), (-0.5, -0.75), (-0.72, -0.6)], WHITE)
    pen.box(-0.6, -0.05, 0.4, 0.45, orange, 0.2)
    for x in (-0.52, -0.28, 0.08, 0.3):
        pen.box(x - 0.08, 0.3, x + 0.1, 0.92, deep)
    pen.polygon([(0.15, -0.62), (0.2, -0.98), (0.42, -0.68)], deep)  # ears
    pen.polygon([(0.42, -0.65), (0.58, -0.98), (0.7, -0.55)], orange)
    pen.polygon([(0.1, -0.55), (0.62, -0.68), (0.98, -0.1), (0.5, 0.2), (0.12, 0.15)], orange)
    pen.polygon([(0.5, 0.2), (0.98, -0.1), (0.62, -0.1), (0.35, 0.1)], WHITE)
    pen.ellipse((0.94, -0.1), 0.09, 0.09, DARK)
    pen.eye((0.55, -0.32))


def fish(pen: Pen) -> None:
    body, fin = (20, 200, 225), (0, 95, 150)
    pen.polygon([(-0.3, 0.0), (-0.98, -0.65), (-0.8, 0.0), (-0.98, 0.65)], fin)
    pen.polygon([(-0.3, -0.4), (0.1, -0.9), (0.4, -0.4)], fin)
    pen.polygon([(-0.2, 0.4), (0.0, 0.85), (0.3, 0.4)], fin)
    pen.ellipse((0.2, 0.0), 0.76, 0.55, body)
    pen.box(-0.06, -0.5, 0.12, 0.5, WHITE)
    pen.ellipse((0.58, -0.15), 0.2, 0.2, WHITE)
    pen.eye((0.62, -0.15), 0.11)


def car(pen: Pen) -> None:
    red = (215, 25, 40)
    pen.polygon([(-0.62, -0.05), (-0.42, -0.62), (0.22, -0.62), (0.55, -0.05)], red)
    pen.polygon([(-0.42, -0.08), (-0.3, -0.46), (-0.08, -0.46), (-0.08, -0.08)], (170, 225, 255))
    pen.polygon([(0.06, -0.08), (0.06, -0.46), (0.18, -0.46), (0.38, -0.08)], (170, 225, 255))
    pen.box(-0.98, -0.1, 0.98, 0.4, red, 0.16)
    pen.box(0.76, 0.0, 0.98, 0.16, (255, 235, 120))
    for x in (-0.52, 0.52):
        pen.ellipse((x, 0.4), 0.3, 0.3, DARK)
        pen.ellipse((x, 0.4), 0.12, 0.12, (200, 205, 210))


def duck(pen: Pen) -> None:
    yellow, beak = (255, 215, 30), (240, 110, 10)
    pen.polygon([(-0.98, -0.25), (-0.5, 0.0), (-0.55, 0.5)], yellow)  # tail
    pen.ellipse((-0.15, 0.35), 0.7, 0.5, yellow)
    pen.ellipse((0.3, -0.38), 0.42, 0.42, yellow)
    pen.polygon([(0.62, -0.55), (0.99, -0.3), (0.62, -0.12)], beak)
    pen.ellipse((-0.25, 0.32), 0.36, 0.24, (215, 150, 0))
    pen.polygon([(-0.25, 0.75), (0.05, 0.75), (0.15, 0.98), (-0.25, 0.98)], beak)
    pen.eye((0.4, -0.46))


def rocket(pen: Pen) -> None:
    body, fin = (226, 230, 238), (130, 30, 200)
    pen.polygon([(-0.4, 0.0), (-0.85, -0.8), (-0.05, -0.3)], fin)
    pen.polygon([(-0.4, 0.0), (-0.85, 0.8), (-0.05, 0.3)], fin)
    pen.polygon([(-0.6, -0.25), (-0.99, 0.0), (-0.6, 0.25)], (255, 160, 20))
    pen.box(-0.65, -0.33, 0.42, 0.33, body, 0.06)
    pen.polygon([(0.4, -0.33), (0.72, -0.2), (0.99, 0.0), (0.72, 0.2), (0.4, 0.33)], fin)
    pen.ellipse((0.1, 0.0), 0.2, 0.2, (30, 60, 140))


def boat(pen: Pen) -> None:
    hull = (125, 70, 25)
    pen.polygon([(-0.02, -0.98), (-0.02, 0.2), (0.78, 0.2)], WHITE)  # the larger sail leans to the bow
    pen.polygon([(-0.14, -0.75), (-0.14, 0.2), (-0.7, 0.2)], (235, 60, 130))
    pen.box(-0.14, -0.98, -0.02, 0.4, DARK)
    pen.polygon([(-0.85, 0.3), (0.99, 0.3), (0.6, 0.88), (-0.65, 0.88)], hull)
    pen.polygon([(-0.85, 0.3), (0.99, 0.3), (0.9, 0.44), (-0.8, 0.44)], (235, 200, 140))


def turtle(pen: Pen) -> None:
    shell, skin = (15, 110, 50), (150, 215, 60)
    for x in (-0.45, 0.3):
        pen.box(x - 0.16, 0.25, x + 0.16, 0.7, skin, 0.08)
    pen.polygon([(-0.7, 0.15), (-0.98, 0.4), (-0.6, 0.4)], skin)
    pen.box(0.45, -0.05, 0.75, 0.35, skin)
    pen.ellipse((0.74, -0.08), 0.25, 0.25, skin)
    pen.sector((-0.1, 0.35), 0.72, 0.92, 180, 360, shell)
    for x in (-0.42, -0.1, 0.22):
        pen.ellipse((x, -0.05 if x == -0.1 else 0.12), 0.13, 0.16, (120, 190, 70))
    pen.eye((0.82, -0.12), 0.08)


def snail(pen: Pen) -> None:
    body, shell = (245, 190, 150), (225, 30, 140)
    pen.polygon([(-0.98, 0.75), (-0.5, 0.45), (0.5, 0.4), (0.6, -0.2), (0.95, -0.2), (0.95, 0.5), (0.75, 0.75)], body)
    pen.polygon([(0.62, -0.15), (0.5, -0.75), (0.6, -0.78), (0.75, -0.15)], body)
    pen.polygon([(0.78, -0.15), (0.86, -0.78), (0.96, -0.75), (0.92, -0.15)], body)
    pen.ellipse((0.55, -0.8), 0.12, 0.12, DARK)
    pen.ellipse((0.9, -0.8), 0.1, 0.1, DARK)
    pen.ellipse((-0.2, -0.05), 0.62, 0.62, shell)
    pen.ellipse((-0.2, -0.05), 0.4, 0.4, (255, 170, 215))
    pen.ellipse((-0.2, -0.05), 0.2, 0.2, shell)


DRAWINGS: dict[str, Callable[[Pen], None]] = {
    f.__name__: f for f in (fox, fish, car, duck, rocket, boat, turtle, snail)
}


def draw_sprite(name: str) -> Image.Image:
    """The sprite as RGBA at canvas size, facing right, with its white rim."""
    pen = Pen()
    DRAWINGS[name](pen)
    alpha = pen.image.getchannel("A")
    small = alpha.resize((CANVAS // 4, CANVAS // 4))  # a maximum filter over the full canvas would be slow
    rim = small.filter(ImageFilter.MaxFilter(RIM // 4 | 1)).filter(ImageFilter.GaussianBlur(1.5))
    rim = rim.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    sticker = Image.new("RGBA", pen.image.size, WHITE)
    sticker.putalpha(ImageChops.lighter(rim, alpha))
    sticker.alpha_composite(pen.image)
    return sticker


@cache
def atlas() -> np.ndarray:
    """All sprites in the order of `OBJECTS`: (8, 4, 80, 80) float32 in 0..1, colours multiplied by alpha."""
    stack = []
    for name in OBJECTS:
        rgba = np.asarray(draw_sprite(name), np.float32) / 255
        rgba = np.concatenate([rgba[..., :3] * rgba[..., 3:], rgba[..., 3:]], axis=-1)
        k = CANVAS // ATLAS
        stack.append(rgba.reshape(ATLAS, k, ATLAS, k, 4).mean((1, 3)).transpose(2, 0, 1))
    return np.stack(stack)
