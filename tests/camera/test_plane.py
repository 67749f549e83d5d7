"""The flat scene of training clips: its views are the path's own rays, and what is drawn moves as the path says."""

from __future__ import annotations

import random

import pytest
import torch

from animatediff.camera import MOVES, camera_path
from animatediff.camera.plane import DISTANCE, LARGEST, plane_views, random_moves, random_path
from animatediff.evaluation import camera_move, measure
from animatediff.sprites import world


def seen_by_rays(path: object, frame: int, height: int, width: int) -> torch.Tensor:
    """Places (h, w, 2) of the scene that the rays of a frame meet, in halves of the first image."""
    rays = path.rays(height, width, [0, frame])[0].double()  # pyright: ignore[reportAttributeAccessIssue]
    moment, direction = rays[:3, 1].permute(1, 2, 0), rays[3:, 1].permute(1, 2, 0)
    nearest = torch.linalg.cross(direction, moment, dim=-1)
    met = nearest + ((DISTANCE - nearest[..., 2]) / direction[..., 2])[..., None] * direction
    fx, fy, *_ = path.in_pixels(height, width)[0].tolist()  # pyright: ignore[reportAttributeAccessIssue]
    return met[..., :2] / DISTANCE * torch.tensor([2 * fx / width, 2 * fy / height]).double()


@pytest.mark.parametrize("moves", ["truck-right, pedestal-up:0.5", "zoom-in:0.7, roll-clockwise", "pan-left:0.1"])
def test_a_view_shows_what_the_rays_meet(moves: str) -> None:
    height, width = 32, 48
    path = camera_path(moves, 3)
    views = plane_views(path, height, width)
    y, x = torch.meshgrid(torch.arange(height) + 0.5 - 16, torch.arange(width) + 0.5 - 24, indexing="ij")
    half = torch.tensor([24.0, 16.0]).double()
    pixels = torch.stack([x, y], dim=-1).double()
    shown = [pixels @ view[:, :2].T / half + view[:, 2] for view in views]
    wanted = [seen_by_rays(path, frame, height, width) for frame in range(3)]
    # the scene as a whole is moved and enlarged, so that the way is in the middle: the same for all frames
    size = (wanted[0][0, -1] - wanted[0][0, 0]).norm() / (shown[0][0, -1] - shown[0][0, 0]).norm()
    moved = wanted[0][0, 0] - shown[0][0, 0] * size
    part = (slice(15, 17), slice(23, 25)) if "pan" in moves else ...  # a turn to the side is right at the middle
    for one, other in zip(shown, wanted, strict=True):
        assert torch.allclose((one * size + moved)[part], other[part], atol=1e-3)


DRAWN = {
    "pan-left:0.6": "PanLeft",
    "pedestal-up": "TiltUp",
    "zoom-out": "ZoomOut",
    "roll-clockwise": "RollingClockwise",
}


@pytest.mark.parametrize(("moves", "name"), DRAWN.items())
def test_what_is_drawn_is_measured_as_that_move(moves: str, name: str) -> None:
    scene, _ = world.clips(1, 50, [c for c in world.TRAIN if c[2] == "still"])
    clip = world.render(scene, view=plane_views(camera_path(moves, 16), world.SIZE, world.SIZE))
    found = camera_move(measure((clip.permute(0, 2, 3, 1) * 255).byte().numpy()))
    assert found is not None and found.name == name


def test_paths_differ_and_repeat() -> None:
    assert torch.equal(random_path(7, 16).to_world, random_path(7, 16).to_world)
    drawn = [random_moves(random.Random(seed)) for seed in range(400)]
    assert {move.name for moves in drawn for move in moves} == set(LARGEST) <= set(MOVES)
    assert all(0.25 * LARGEST[move.name] <= move.strength <= LARGEST[move.name] for moves in drawn for move in moves)
    assert all(len({move.name.partition("-")[0] for move in moves}) == len(moves) for moves in drawn), "none undone"
