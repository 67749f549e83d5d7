"""Sprites named by shape: drawn frames in every pose, melted ones, other sizes, and figures made of that."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from animatediff.sprites import world
from animatediff.sprites.shapes import Match, match_shapes, named
from animatediff.sprites.words import OBJECTS
from recipes.bundled.shape import Shape, figures, mean_correlation

POSES = (  # x, y, size, angle, mirror, motion
    (33.0, 30.0, 31.0, 0.0, 1.0, "right"),
    (26.0, 35.0, 25.0, 0.0, -1.0, "left"),
    (32.0, 29.0, 30.0, 270.0, 1.0, "up"),
    (34.0, 33.0, 33.0, 131.0, 1.0, "spinning"),
)


def scene_of(poses: list[tuple[str, tuple[float, float, float, float, float, str]]]) -> world.Scene:
    return world.scene_of([
        {
            "obj": OBJECTS.index(obj), "background": i % 6, "motion": world.MOTIONS.index(motion), "x": x, "y": y,
            "size": size, "angle": angle, "mirror": mirror, "shade": 1.0, "slope": 0.1,
        }
        for i, (obj, (x, y, size, angle, mirror, motion)) in enumerate(poses)
    ])  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Each object once; poses of `POSES`, in turn."""
    return world.render(scene_of([(obj, POSES[i % len(POSES)]) for i, obj in enumerate(OBJECTS)]))


@pytest.fixture(scope="module")
def found(frames: Tensor) -> list[Match]:
    """The best match of each frame."""
    return [next(iter(matches.values())) for matches in match_shapes(frames)]


def test_drawn_sprites_are_named_with_their_pose(found: list[Match]) -> None:
    assert [match.obj for match in found] == list(OBJECTS) and named({"": found[0]}) == OBJECTS[0]
    assert min(match.correlation for match in found) > 0.85
    for i, match in enumerate(found):
        x, y, size, angle, mirror, _ = POSES[i % len(POSES)]
        assert abs(match.x - x) < 1 and abs(match.y - y) < 1 and abs(match.size / size - 1) < 0.08
        if match.obj not in ("rocket", "fish"):  # nearly the same mirrored and turned half round
            assert match.mirror == (mirror < 0)
            assert abs((match.angle - angle + 180) % 360 - 180) < 5


def test_melted_sprites_and_blobs_do_not_correlate(frames: Tensor, found: list[Match]) -> None:
    """A patch of the object's colour on its background, soft all round, as a network of colours would still name it."""
    melted = functional.avg_pool2d(frames[:2], 15, stride=1, padding=7, count_include_pad=False)
    place = (torch.arange(world.SIZE) - 32.0) ** 2
    disc = torch.sigmoid((13.0**2 - place[:, None] - place) / 20)
    blob = torch.tensor([0.84, 0.1, 0.16]).view(3, 1, 1) * disc + 0.4 * (1 - disc)
    *rest, last = match_shapes(torch.cat([melted, blob[None]]))
    assert named(last) is None
    for match, matches in zip(found, rest, strict=False):
        assert matches[match.obj].correlation < 0.7 * match.correlation


def test_other_sizes_are_compared_at_the_same(frames: Tensor, found: list[Match]) -> None:
    large = functional.interpolate(frames[2:3], (160, 160), mode="bilinear")
    best = next(iter(match_shapes(large)[0].values()))
    assert best.obj == found[2].obj and abs(best.correlation - found[2].correlation) < 0.05
    assert abs(best.x - found[2].x) < 1 and abs(best.size - found[2].size) < 1.5
    with pytest.raises(ValueError, match="square"):
        match_shapes(torch.zeros(1, 3, 64, 48))


def test_sprites_over_the_edge_are_compared_by_the_part_in_view() -> None:
    (matches,) = match_shapes(world.render(scene_of([("duck", (54.0, 30.0, 34.0, 0.0, 1.0, "right"))])))
    assert named(matches) == "duck" and abs(matches["duck"].x - 54) < 1.5


def test_figures_are_shares_of_the_real_frames() -> None:
    def shapes(values: list[float]) -> list[Shape]:
        return [Shape(named="fox", right=value > 0.5, correlation=value) for value in values]

    real = shapes([0.8] * 20)
    rendered = shapes([0.2, 0.2] + [0.8] * 18)
    assert mean_correlation(rendered, 0.1) == pytest.approx(0.2)
    assert figures(rendered, real) == ("90.0 % of 20", "0.925", "0.250")
