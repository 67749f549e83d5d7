"""Names the sprite in a frame by its shape alone: drawn sprites at every pose, compared by masked correlation.

No network has a part in it, so that nothing can be learned but shape: for each object the best correlation over place,
size, angle and mirror, found by a coarse search over all of them and a fine one around its best. Colours count only by
how they change within the sprite: the mean of each channel is taken off, as is the contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.sprites.draw import atlas
from animatediff.sprites.words import OBJECTS
from animatediff.sprites.world import SIZE

HALF = SIZE // 2
"""Pixels of a frame in the coarse search, both ways."""
PERIOD = HALF + 16
"""Pixels of its Fourier transforms: the largest sprite reaches less than 16 beyond an edge."""
SIZES = (19.5, 22.8, 26.7, 31.2, 36.5, 42.7)
"""Sizes of the coarse search, in pixels of a whole frame."""
SMALLEST, LARGEST = 18.0, 50.0
"""Sizes that the fine search keeps to: smaller sprites resemble too much, by chance, and the world has none."""
ANGLES = tuple(float(angle) for angle in range(0, 360, 20))
"""Angles of the coarse search, in degrees clockwise."""
SECTORS = 3
"""In how many ranges of angle the coarse search looks for a best one, mirrored sprites apart."""
STARTS = 3
"""How many of these the fine search begins at, for each object."""
GRID = 32
"""Points of a sprite, both ways, that the fine search compares."""
BLURS = (16, 20, 25, 31, 39, 49)
"""Pixels that sprites are reduced to before they are compared, so that they are as soft as those of a frame."""
STEPS = ((1.0, 1.0, 0.06, 6.0), (0.7, 0.7, 0.04, 4.0), (0.4, 0.4, 0.02, 2.5), (0.2, 0.2, 0.01, 1.2))
"""Steps of the fine search in x and y (pixels), size (natural logarithm), angle (degrees)."""
MIN_VISIBLE = 0.75
"""Share of a sprite that must lie within the frame."""
FLAT = 0.06
"""Deviation of brightness that is added to an area's: noise, or a faint gradient, is no shape."""
LEAST = 0.5
"""Correlation below which nothing is named: soft patches of colour reach half of that of a sprite."""


@dataclass(frozen=True, kw_only=True)
class Match:
    """Where a drawn sprite resembles a frame most."""

    obj: str
    correlation: float
    """From -1 to 1, over the pixels of the sprite and its rim."""
    x: float
    """Centre of the sprite in pixels of a frame of 64, 0 left."""
    y: float
    """Centre of the sprite in pixels of a frame of 64, 0 top."""
    size: float
    """Width of the sprite's square in these pixels."""
    angle: float
    """Degrees clockwise, 0 to 360."""
    mirror: bool
    """Whether it is mirrored before it is turned: it faces left at 0 degrees."""


@torch.no_grad()
def match_shapes(frames: Tensor) -> list[dict[str, Match]]:
    """Find the best pose of each object in each frame.

    frames: (n, 3, h, h) in 0..1, compared at 64x64. Returns, a frame, the matches by object, best first.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[2] != frames.shape[3]:
        raise ValueError(f"square frames (n, 3, h, h) are needed, got {tuple(frames.shape)}")
    frames = frames.float().cpu()
    if frames.shape[-1] != SIZE:
        frames = functional.interpolate(frames, (SIZE, SIZE), mode="bilinear", antialias=True)
    found = []
    for frame in frames:
        found.append(_matches(*_fine(frame, _coarse(frame))))
    return found


def named(matches: dict[str, Match]) -> str | None:
    """Name the object that resembles a frame most; None where none does."""
    best = next(iter(matches.values()))
    return best.obj if best.correlation >= LEAST else None


def _matches(poses: Tensor, scores: Tensor) -> dict[str, Match]:
    """Matches of one frame from poses (objects, starts, 5) and their correlations (objects, starts)."""
    best, start = scores.max(1)
    result = []
    for i, name in enumerate(OBJECTS):
        x, y, size, angle, mirror = poses[i, start[i]].tolist()
        result.append(
            Match(obj=name, correlation=float(best[i]), x=x, y=y, size=size, angle=angle % 360, mirror=mirror < 0)
        )
    return {match.obj: match for match in sorted(result, key=lambda match: -match.correlation)}


# -- coarse search ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bank:
    """Sprites of the coarse search, (objects, sizes * angles * mirrors, ...); `colours` are multiplied by the mask."""

    poses: Tensor
    """Size, angle and mirror: (poses, 3)."""
    mask: Tensor
    """Spectra, conjugated: (objects, poses, 48, 25)."""
    colours: Tensor
    """Spectra, conjugated: (objects, poses, 3, 48, 25)."""
    weight: Tensor
    """Sum of the mask within the frame, by the place of its centre: (objects, poses, 32, 32)."""
    visible: Tensor
    """Whether enough of the sprite is within the frame: like `weight`."""
    means: Tensor
    """Mean colours within the frame: (objects, poses, 3, 32, 32)."""
    deviation: Tensor
    """Root of the sum of squares around these means: like `weight`."""


def _spectrum(image: Tensor) -> Tensor:
    return torch.fft.rfft2(image, s=(PERIOD, PERIOD))


def _sums(spectrum: Tensor) -> Tensor:
    """Sums of image times template from the product of their spectra, by the place of its centre: (..., 32, 32)."""
    rows = torch.fft.ifft(spectrum, dim=-2)[..., :HALF, :]
    return torch.fft.irfft(rows, PERIOD, dim=-1)[..., :HALF]


def _drawn(sprite: Tensor, poses: Tensor) -> Tensor:
    """A sprite (4, 80, 80) at sizes, angles and mirrors (n, 3), its centre at pixel 0 of a period: (n, 4, 48, 48)."""
    fine, reach = 4, PERIOD - HALF  # points a pixel, averaged; pixels from the centre that are drawn
    place = (torch.arange(2 * reach * fine) + 0.5) / fine - 0.5 - reach
    dx, dy = place.view(1, 1, -1), place.view(1, -1, 1)
    layers = []
    for part in poses.split(32):
        size, angle, mirror = (value.view(-1, 1, 1) for value in part.unbind(1))
        angle = torch.deg2rad(angle)
        u, v = (dx * angle.cos() + dy * angle.sin()) * mirror, dy * angle.cos() - dx * angle.sin()
        grid = torch.stack([u, v], dim=-1) / (size[..., None] / 4)  # half the size, at half the pixels
        layer = functional.grid_sample(sprite.expand(len(part), -1, -1, -1), grid, align_corners=False)
        layers.append(functional.avg_pool2d(layer, fine))
    rest = PERIOD - 2 * reach
    return functional.pad(torch.cat(layers), (0, rest, 0, rest)).roll((-reach, -reach), (2, 3))


@cache
def _bank() -> _Bank:
    """Draw the sprites of the coarse search at half the pixels of a frame: 100 MB, made once."""
    poses = torch.tensor([(s, a, m) for s in SIZES for a in ANGLES for m in (1.0, -1.0)])
    frame = _spectrum(torch.ones(HALF, HALF))
    parts: list[tuple[Tensor, ...]] = []
    for sprite in torch.from_numpy(atlas()):
        layers = _drawn(sprite, poses)
        colours, mask = layers[:, :3], layers[:, 3]
        squares = (colours**2).sum(1) / mask.clamp(min=1e-6)
        masks, colour_spectra = _spectrum(mask).conj().resolve_conj(), _spectrum(colours).conj().resolve_conj()
        weight = _sums(frame * masks).clamp(min=1e-3)
        sums = _sums(frame * colour_spectra)
        means = sums / weight[:, None]
        square = _sums(frame * _spectrum(squares).conj())
        deviation = (square - (means * sums).sum(1)).clamp(min=1e-6).sqrt()
        visible = weight > MIN_VISIBLE * mask.sum((1, 2))[:, None, None]
        parts.append((masks, colour_spectra, weight, visible, means, deviation))
    return _Bank(poses, *(torch.stack(part) for part in zip(*parts, strict=True)))


def _coarse(frame: Tensor) -> Tensor:
    """Find poses (objects, starts, 5) where the fine search of a frame (3, 64, 64) begins."""
    bank = _bank()
    small = functional.avg_pool2d(frame[None], 2)[0]
    small = small - small.mean((1, 2), keepdim=True)  # keeps the sums of squares exact
    spectra, squares = _spectrum(small), _spectrum((small**2).sum(0))
    found = []
    for obj in range(len(OBJECTS)):
        weight = bank.weight[obj]
        sums = _sums(spectra * bank.mask[obj][:, None])  # (poses, 3, 32, 32)
        covariance = _sums((spectra * bank.colours[obj]).sum(1)) - (bank.means[obj] * sums).sum(1)
        variance = (_sums(squares * bank.mask[obj]) - (sums**2).sum(1) / weight).clamp(min=0)
        scores = covariance / (bank.deviation[obj] * (variance + FLAT**2 * 3 * weight).sqrt())
        best, place = scores.masked_fill(~bank.visible[obj], -1.0).flatten(1).max(1)
        chosen = _best_of_sectors(best)
        x, y = (place[chosen] % HALF) * 2.0 + 1, (place[chosen] // HALF) * 2.0 + 1
        found.append(torch.cat([torch.stack([x, y], dim=1), bank.poses[chosen]], dim=1))
    return torch.stack(found)


def _best_of_sectors(scores: Tensor) -> Tensor:
    """Index of the best pose in each of the best sectors, (starts,); scores: (sizes * angles * mirrors,)."""

    def by_sector(values: Tensor) -> Tensor:
        return values.view(len(SIZES), SECTORS, -1, 2).permute(1, 3, 0, 2).flatten(2).flatten(0, 1)

    top, member = by_sector(scores).max(1)
    index = by_sector(torch.arange(len(scores))).gather(1, member[:, None])[:, 0]
    return index[top.topk(STARTS).indices]


# -- fine search -----------------------------------------------------------------------------------------------------


@cache
def _soft_sprites() -> Tensor:
    """Sprites as soft as those of frames, at the points that are compared: (objects, blurs, 4, 32*32).

    The first three of the four are colours, the last is the weight of each point.
    """
    sprites = torch.from_numpy(atlas())
    levels = []
    for pixels in BLURS:
        small = functional.interpolate(sprites, (pixels, pixels), mode="area")
        level = functional.interpolate(small, (GRID, GRID), mode="bilinear").flatten(2)
        colours, mask = level[:, :3] / level[:, 3:].clamp(min=1e-3), level[:, 3:] ** 2  # an edge is half background
        levels.append(torch.cat([colours, mask], dim=1))
    return torch.stack(levels, dim=1)


def _correlation(frame: Tensor, poses: Tensor) -> Tensor:
    """Correlate a frame (3, 64, 64) with each object at k poses (objects, k, 5), over its mask: (objects, k)."""
    x, y, size, degrees, mirror = (part[..., None, None] for part in poses.flatten(0, 1).unbind(-1))
    angle = torch.deg2rad(degrees)
    place = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    u, v = place.view(1, 1, -1) * mirror, place.view(1, -1, 1)
    points = [x + (u * angle.cos() - v * angle.sin()) * size / 2, y + (u * angle.sin() + v * angle.cos()) * size / 2]
    grid = torch.stack(points, dim=-1) / (SIZE / 2) - 1  # (objects * k, 32, 32, 2)
    image = torch.cat([frame, torch.ones_like(frame[:1])])
    num, k = poses.shape[:2]
    seen = functional.grid_sample(image[None], grid.flatten(0, 1)[None], mode="bilinear", align_corners=False)
    seen = seen[0].view(4, num, k, -1).permute(1, 2, 0, 3)  # (objects, k, 4, 32*32)
    level = (poses[..., 2].log()[..., None] - torch.tensor(BLURS).log()).abs().argmin(-1)
    sprite = _soft_sprites()[torch.arange(num)[:, None], level]
    mask = sprite[:, :, 3:]
    weight = mask * seen[:, :, 3:]
    total = weight.sum(-1, keepdim=True).clamp(min=1e-6)
    image, colours = seen[:, :, :3], sprite[:, :, :3]
    image = image - (weight * image).sum(-1, keepdim=True) / total
    colours = colours - (weight * colours).sum(-1, keepdim=True) / total
    covariance = (weight * image * colours).sum((2, 3))
    variance = (weight * image**2).sum((2, 3)) + FLAT**2 * 3 * total[:, :, 0, 0]
    score = covariance / ((weight * colours**2).sum((2, 3)) * variance).clamp(min=1e-12).sqrt()
    visible = total[:, :, 0, 0] > MIN_VISIBLE * mask.sum((2, 3))
    return score.masked_fill(~visible, -1.0)


def _fine(frame: Tensor, poses: Tensor) -> tuple[Tensor, Tensor]:
    """Better poses near those that the coarse search found, (objects, starts, 5), and their correlations."""
    num, starts = poses.shape[:2]
    scores = _correlation(frame, poses)
    for steps in STEPS:
        moved = _moved(poses[:, :, None, None].expand(-1, -1, 4, 2, -1), steps)
        around = _correlation(frame, moved.flatten(1, 3)).view(num, starts, 4, 2)
        lower, upper = around.unbind(-1)
        bend = (2 * scores[..., None] - lower - upper).clamp(min=1e-4)
        shift = ((upper - lower) / 2 / bend).clamp(-1, 1)  # the top of a parabola through three points
        steepest = around.flatten(2).argmax(2)
        single = moved.flatten(2, 3).gather(2, steepest[..., None, None].expand(-1, -1, 1, 5))
        joint = _shifted(poses, shift * torch.tensor(steps))
        candidates = torch.cat([poses[:, :, None], single, joint[:, :, None]], dim=2)
        values = torch.stack([scores, around.flatten(2).amax(2), _correlation(frame, joint)], dim=2)
        scores, chosen = values.max(2)
        poses = candidates.gather(2, chosen[..., None, None].expand(-1, -1, 1, 5))[:, :, 0]
    return poses, scores


def _shifted(poses: Tensor, shift: Tensor) -> Tensor:
    """Poses (..., 5) moved by x, y, logarithm of the size, degrees: (..., 4)."""
    x, y, size, angle, mirror = poses.unbind(-1)
    dx, dy, grow, turn = shift.unbind(-1)
    return torch.stack([x + dx, y + dy, (size * grow.exp()).clamp(SMALLEST, LARGEST), angle + turn, mirror], dim=-1)


def _moved(poses: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Poses (..., 4, 2, 5), the i-th of four a step back and a step on in the i-th way of moving."""
    shift = torch.diag(torch.tensor(steps))[:, None] * torch.tensor([-1.0, 1.0])[None, :, None]
    return _shifted(poses, shift.expand(*poses.shape[:-1], 4))
