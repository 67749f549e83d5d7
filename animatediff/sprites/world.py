"""The sprite world: scenes and clips of one sprite on a coloured background, rendered as tensors, all from seeds."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.sprites.draw import atlas
from animatediff.sprites.words import BACKGROUNDS, DIRECTIONS, MOTIONS, OBJECTS, Combination, caption, combinations

VERSION = 2
"""One more whenever the same scene is drawn in another way."""
SIZE = 64
"""Pixels of a frame, both ways."""
NUM_FRAMES = 16
"""Frames of a full clip; a motion takes the whole clip."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "green": (72, 168, 72),
    "blue": (50, 95, 205),
    "red": (205, 62, 58),
    "yellow": (238, 205, 80),
    "purple": (142, 78, 186),
    "grey": (128, 132, 138),
}
"""The middle colour of each background."""

LIGHT, SHADE = (1.0, 0.99, 0.95), (0.06, 0.05, 0.1)
"""The colours of bright and dark marks."""

STEP: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}
ANGLE = {"right": 0.0, "left": 0.0, "up": -90.0, "down": 90.0}


@dataclass(frozen=True)
class Scene:
    """The content of n images: every field is a tensor of shape (n,)."""

    obj: Tensor
    """Index into OBJECTS."""
    background: Tensor
    """Index into BACKGROUNDS."""
    motion: Tensor
    """Index into MOTIONS."""
    x: Tensor
    """Centre of the sprite in pixels, 0 left."""
    y: Tensor
    """Centre of the sprite in pixels, 0 top."""
    size: Tensor
    """Width of the sprite's square in pixels."""
    angle: Tensor
    """Degrees the sprite is turned, clockwise; 0 faces right."""
    mirror: Tensor
    """-1 for sprites that face left, else 1."""
    shade: Tensor
    """Brightness of the background, around 1."""
    slope: Tensor
    """How much lighter the background is at the top than at the bottom."""

    def __len__(self) -> int:
        return len(self.obj)

    def to(self, device: torch.device) -> Scene:
        """The same on a device; images of it are drawn there."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def numbers(self) -> bytes:
        """The bytes of all fields, for a digest."""
        return b"".join(getattr(self, f.name).numpy().tobytes() for f in fields(self))


Pose = dict[str, float]
"""One image's fields of a Scene, as plain numbers."""


def poses(combination: Combination, rng: random.Random, progress: list[float]) -> list[Pose]:
    """The same sprite at several moments of its motion; `progress` runs from 0 (first frame) to 1 (last)."""
    obj, background, motion = combination
    base = {
        "obj": OBJECTS.index(obj), "background": BACKGROUNDS.index(background), "motion": MOTIONS.index(motion),
        "x": 32 + rng.uniform(-5, 5), "y": 32 + rng.uniform(-5, 5), "size": rng.uniform(29, 36),
        "angle": 0.0, "mirror": 1.0,
        "shade": rng.uniform(0.94, 1.06), "slope": rng.uniform(0.0, 0.12),
    }  # fmt: skip
    travel, start = rng.uniform(22, 30), rng.uniform(-15.5, -11.5)  # pixels; start is measured from the middle
    small, large, first_angle, turn = (
        rng.uniform(19, 23),
        rng.uniform(38, 43),
        rng.uniform(-20, 20),
        rng.uniform(290, 360),
    )
    result = []
    for u in progress:
        pose = dict(base)
        if motion in STEP:
            dx, dy = STEP[motion]
            along = start + travel * u
            pose["x"] = 32 + dx * along if dx else base["x"]
            pose["y"] = 32 + dy * along if dy else base["y"]
            pose["angle"], pose["mirror"] = ANGLE[motion], -1.0 if motion == "left" else 1.0
        elif motion in ("growing", "shrinking"):
            pose["size"] = small + (large - small) * (u if motion == "growing" else 1 - u)
            pose["x"], pose["y"] = 32 + (base["x"] - 32) * 0.5, 32 + (base["y"] - 32) * 0.5
        elif motion == "spinning":
            pose["angle"] = (first_angle + turn * u) % 360
        result.append(pose)
    return result


def scene_of(rows: list[Pose]) -> Scene:
    """Stack poses into one Scene."""
    whole = ("obj", "background", "motion")
    return Scene(**{
        f.name: torch.tensor([r[f.name] for r in rows], dtype=torch.long if f.name in whole else torch.float32)
        for f in fields(Scene)
    })  # fmt: skip


TRAIN = combinations(held_out=False)

TILTED, TILT = 0.6, 50.0
"""How many of the stills of resting sprites are held at an angle, and up to how many degrees: what a camera that rolls
shows, and what the motion module can only show if the image model can paint it."""

SHARES: dict[str, float] = {
    "still": 0.22, "right": 0.06, "left": 0.06, "up": 0.1, "down": 0.13, "growing": 0.07, "shrinking": 0.11,
    "spinning": 0.25,
}  # fmt: skip
"""How often each motion is drawn. Turned sprites are the hardest to paint, above all those turned any way; then small
ones."""
OBJECT_SHARES: dict[str, float] = dict.fromkeys(OBJECTS, 1.0) | {"car": 2.2, "rocket": 1.6, "fox": 1.3, "boat": 0.7}
"""How often each object is drawn beside the others: those that come out melted more often."""


def draw_combination(rng: random.Random, pool: list[Combination] | None = None) -> Combination:
    """One combination: its motion drawn by `SHARES` among those that the pool has, its object by `OBJECT_SHARES`."""
    pool = pool or TRAIN
    motions = [motion for motion in SHARES if any(c[2] == motion for c in pool)]
    (motion,) = rng.choices(motions, [SHARES[motion] for motion in motions])
    those = [c for c in pool if c[2] == motion]
    return rng.choices(those, [OBJECT_SHARES[c[0]] for c in those])[0]


def still_poses(num: int, seed: int, pool: list[Combination] | None = None) -> tuple[list[Pose], list[str]]:
    """Poses and captions of single images.

    Travelling sprites are shown in the first 60 % of their way 70 % of the time, with room in front of them: that is
    one of the ways in which a still shows its direction. Of those that rest, many are held at an angle.
    """
    rng = random.Random(seed)
    rows, texts = [], []
    for _ in range(num):
        combination = draw_combination(rng, pool)
        early = combination[2] in DIRECTIONS and rng.random() < 0.7
        (pose,) = poses(combination, rng, [rng.uniform(0, 0.6) if early else rng.random()])
        if combination[2] == "still" and rng.random() < TILTED:
            pose["angle"] = rng.uniform(-TILT, TILT)
        rows.append(pose)
        texts.append(caption(combination, rng))
    return rows, texts


def clip_poses(
    num: int, seed: int, pool: list[Combination] | None = None, num_frames: int = NUM_FRAMES
) -> tuple[list[Pose], list[str]]:
    """Poses of `num` clips, frames of a clip side by side (num * num_frames), and one caption a clip."""
    rng = random.Random(seed)
    rows, texts = [], []
    for _ in range(num):
        combination = draw_combination(rng, pool)
        rows += poses(combination, rng, [i / max(num_frames - 1, 1) for i in range(num_frames)])
        texts.append(caption(combination, rng))
    return rows, texts


def stills(num: int, seed: int, pool: list[Combination] | None = None) -> tuple[Scene, list[str]]:
    """The scenes of `still_poses`, and their captions."""
    rows, texts = still_poses(num, seed, pool)
    return scene_of(rows), texts


def clips(
    num: int, seed: int, pool: list[Combination] | None = None, num_frames: int = NUM_FRAMES
) -> tuple[Scene, list[str]]:
    """The scenes of `clip_poses`, and their captions."""
    rows, texts = clip_poses(num, seed, pool, num_frames)
    return scene_of(rows), texts


def _grid(resolution: int, device: torch.device, view: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The places that pixels show, x and y of shapes that broadcast to (n, h, w)."""
    centre = (torch.arange(resolution, device=device) + 0.5) * (SIZE / resolution)
    x, y = centre.view(1, 1, -1), centre.view(1, -1, 1)
    if view is None:
        return x, y
    half = SIZE / 2
    row = view.to(x)[:, :, :, None, None]  # (n, 2, 3, 1, 1)
    x, y = x - half, y - half
    return (
        row[:, 0, 0] * x + row[:, 0, 1] * y + (row[:, 0, 2] + 1) * half,
        row[:, 1, 0] * x + row[:, 1, 1] * y + (row[:, 1, 2] + 1) * half,
    )


def _marks(scene: Scene, view: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What a motion leaves behind in a still: white and dark paint, each (n, 64, 64) in 0..1.

    Travel: a broad soft tail. Growing: a bright halo. Shrinking: a dark halo. Spinning: a halo that is dark before the
    sprite and bright behind it, and so turns with it. Resting: light above and a shadow on the ground below, which
    say how the camera is held. The image model is frozen when the motion module learns, so motion words must show in
    single images; and what is broad is settled first, so it must tell the angle too.
    """
    device = scene.x.device
    x, y = _grid(SIZE, device, view)
    col = (slice(None), None, None)
    dx, dy, size = x - scene.x[col], y - scene.y[col], scene.size[col]
    step = torch.tensor([STEP.get(m, (0, 0)) for m in MOTIONS], dtype=torch.float32, device=device)[scene.motion]
    travels = (step.abs().sum(1) > 0)[col]
    ahead = dx * step[:, 0][col] + dy * step[:, 1][col]
    aside = dx * step[:, 1][col] - dy * step[:, 0][col]
    tail = (
        torch.exp(-((aside / (0.5 * size)) ** 4))
        * torch.sigmoid(-ahead / 2)
        * torch.exp(ahead.clamp(max=0) / (1.6 * size))
    )
    radius = (dx**2 + dy**2).sqrt()
    halo = torch.exp(-(((radius - 0.62 * size) / (0.2 * size)) ** 2))
    turned = torch.cos(torch.atan2(dy, dx) - torch.deg2rad(scene.angle)[col])  # 1 before the sprite, -1 behind it

    def where(word: str) -> Tensor:
        return (scene.motion == MOTIONS.index(word)).float()[col]

    angle = torch.deg2rad(scene.angle)[col]
    above, along = dx * angle.sin() - dy * angle.cos(), dx * angle.cos() + dy * angle.sin()
    bar = torch.exp(-((along / (0.75 * size)) ** 4))
    light, shadow = (
        0.6 * bar * torch.exp(-(((above - side * 0.66 * size) / (0.2 * size)) ** 2)) * where("still")
        for side in (1, -1)
    )
    before, behind = (0.85 * halo * where("spinning") * side.clamp(min=0) for side in (turned, -turned))
    white = 0.8 * tail * travels + 0.75 * halo * where("growing") + behind + light
    dark = 0.75 * halo * where("shrinking") + before + shadow
    return white, dark


def backgrounds(scene: Scene, view: Tensor | None = None) -> Tensor:
    """The bare backgrounds: (n, 3, 64, 64) in 0..1, lighter at the top."""
    device = scene.x.device
    colours = torch.tensor([COLOURS[b] for b in BACKGROUNDS], dtype=torch.float32, device=device)
    colour = colours[scene.background] / 255
    height = torch.linspace(1, -1, SIZE, device=device).view(1, 1, -1, 1)
    if view is not None:
        height = 1 - 2 * (_grid(SIZE, device, view)[1][:, None] - 0.5) / (SIZE - 1)
    light = scene.shade.view(-1, 1, 1, 1) + scene.slope.view(-1, 1, 1, 1) * height
    return (colour[:, :, None, None] * light).expand(-1, -1, -1, SIZE).clamp(0, 1)


@cache
def _atlas(device: torch.device) -> Tensor:
    return torch.from_numpy(atlas()).to(device)


def sprite_layer(scene: Scene, sprites: Tensor | None = None, view: Tensor | None = None) -> Tensor:
    """The sprites alone: (n, 4, 64, 64), colours multiplied by alpha; `sprites` replaces the drawn ones."""
    x, y = _grid(2 * SIZE, scene.x.device, view)
    col = (slice(None), None, None)
    dx, dy = (d.expand(-1, 2 * SIZE, 2 * SIZE) for d in (x - scene.x[col], y - scene.y[col]))
    angle = torch.deg2rad(scene.angle)[col]
    u = dx * angle.cos() + dy * angle.sin()
    v = dy * angle.cos() - dx * angle.sin()
    half = scene.size[col] / 2
    grid = torch.stack([u / half * scene.mirror[col], v / half], dim=-1)
    if sprites is None:
        sprites = _atlas(scene.x.device)[scene.obj]
    layer = functional.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return functional.avg_pool2d(layer, 2)


def render(scene: Scene, sprites: Tensor | None = None, view: Tensor | None = None) -> Tensor:
    """Images of scenes: (n, 3, 64, 64) in 0..1, on the scene's device.

    sprites: (n, 4, 80, 80), replaces the drawn ones. view: (n, 2, 3), where a camera looks: takes a pixel, measured
    from the middle of the image, to what is seen there; the last column is a shift in half images.
    """
    white, dark = (m[:, None] for m in _marks(scene, view))
    image = backgrounds(scene, view)
    for amount, colour in ((white, LIGHT), (dark, SHADE)):
        image = image + (torch.tensor(colour, device=image.device).view(1, 3, 1, 1) - image) * amount
    layer = sprite_layer(scene, sprites, view)
    return (image * (1 - layer[:, 3:]) + layer[:, :3]).clamp(0, 1)


def render_all(scene: Scene, at_once: int = 64) -> Tensor:
    """Images of any number of scenes, (n, 3, 64, 64) in 0..1; memory is that of `at_once` of them."""
    return torch.cat([render(take(scene, slice(i, i + at_once))) for i in range(0, len(scene), at_once)])


def take(scene: Scene, index: Tensor | slice) -> Scene:
    """Select images of a scene."""
    return replace(scene, **{f.name: getattr(scene, f.name)[index] for f in fields(Scene)})
