"""Camera poses: files and named moves become rays whose sign and size a projected grid of points confirms."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.paths import GOLDEN

from animatediff.camera import MOVES, CameraPath, camera_path, parse_moves, read_poses
from animatediff.errors import UserError

CASE = GOLDEN / "cameractrl"
HEIGHT, WIDTH = 48, 64


def test_a_file_gives_the_originals_numbers() -> None:
    tensors = load_file(CASE / "expected.safetensors")
    path = read_poses(CASE / "camera.txt")
    assert torch.equal(path.to_world.float(), tensors["camera.c2w"])
    assert torch.equal(path.in_pixels(64, 192), tensors["camera.intrinsics"])
    rays = path.rays(64, 192, [0, 3, 5])
    assert (rays - tensors["camera.plucker"]).abs().max() <= 1e-6


def test_three_frames_have_moments_too() -> None:
    """`torch.cross` without an axis takes the first one of length 3, which is the frames then."""
    path = camera_path("truck-right, pan-left", 3)
    five = camera_path("truck-right, pan-left", 5)
    assert torch.allclose(path.rays(8, 8), five.rays(8, 8, [0, 2, 4]), atol=1e-6)


# -- named moves -------------------------------------------------------------------------------------------------------


def points_from(rays: torch.Tensor, depth: float) -> torch.Tensor:
    """Points (h, w, 3) that the pixels of one frame see at a depth, from its rays (6, h, w) alone.

    A ray is the line of all points x with x cross direction = moment; one of them is direction cross moment.
    """
    moment, direction = rays[:3].permute(1, 2, 0).double(), rays[3:].permute(1, 2, 0).double()
    nearest = torch.linalg.cross(direction, moment, dim=-1)
    along = (depth - nearest[..., 2]) / direction[..., 2]
    return nearest + along[..., None] * direction


def seen_at(path: CameraPath, frame: int, points: torch.Tensor) -> torch.Tensor:
    """Pixels (..., 2) at which a frame's camera shows points (..., 3): the pinhole model, from its pose."""
    pose = path.to_world[frame]
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    fx, fy, cx, cy = path.in_pixels(HEIGHT, WIDTH)[frame].double()
    return torch.stack([fx * local[..., 0] / local[..., 2] + cx, fy * local[..., 1] / local[..., 2] + cy], dim=-1)


def grid() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1).double()


MIDDLE = (slice(20, 28), slice(28, 36))


def shift(name: str, strength: float = 0.2, depth: float = 6.0) -> torch.Tensor:
    """How far points in the middle of the first frame move on the image until the last (h, w, 2)."""
    path = camera_path(f"{name}:{strength}", 5)
    points = points_from(path.rays(HEIGHT, WIDTH, [0])[0, :, 0], depth)
    return (seen_at(path, 4, points) - grid())[MIDDLE]


@pytest.mark.parametrize(
    ("name", "axis", "sign"),
    [
        ("pan-left", 0, 1), ("pan-right", 0, -1), ("tilt-up", 1, 1), ("tilt-down", 1, -1),
        ("truck-left", 0, 1), ("truck-right", 0, -1), ("pedestal-up", 1, 1), ("pedestal-down", 1, -1),
    ],
)  # fmt: skip
def test_what_is_seen_goes_the_other_way_than_the_camera(name: str, axis: int, sign: int) -> None:
    moved = shift(name)
    assert (moved[..., axis] * sign > 1).all()
    assert moved[..., 1 - axis].abs().max() < 0.5 * moved[..., axis].abs().min()


def test_sizes_of_moves() -> None:
    """By trigonometry: a turn shifts the middle by f tan, a way by f * way / depth, whatever the depth of a turn."""
    fx, fy = camera_path("still", 2).in_pixels(HEIGHT, WIDTH)[0, :2].tolist()
    middle = slice(None), slice(HEIGHT // 2 - 1, HEIGHT // 2 + 1), slice(WIDTH // 2 - 1, WIDTH // 2 + 1)

    def at_center(name: str, depth: float) -> list[float]:
        path = camera_path(name, 5)
        points = points_from(path.rays(HEIGHT, WIDTH, [0])[0, :, 0], depth)[middle[1:]].mean((0, 1))
        return (seen_at(path, 4, points) - torch.tensor([WIDTH / 2, HEIGHT / 2])).tolist()

    turn = math.tan(math.radians(30 * 0.5))
    for depth in (3.0, 6.0):
        assert at_center("pan-left:0.5", depth) == pytest.approx([fx * turn, 0], abs=1e-3)
        assert at_center("tilt-up:0.5", depth) == pytest.approx([0, fy * turn], abs=1e-3)
        assert at_center("truck-right:0.5", depth) == pytest.approx([-fx * 0.5 / depth, 0], abs=1e-3)
        assert at_center("pedestal-up:0.5", depth) == pytest.approx([0, fy * 0.5 / depth], abs=1e-3)
    assert at_center("orbit-right", 2.0) == pytest.approx([0, 0], abs=1e-3), "it keeps looking at what it goes round"


@pytest.mark.parametrize(("name", "grows"), [("zoom-in", 6 / 5.6), ("zoom-out", 6 / 6.4)])
def test_zooming_changes_the_size_by_the_way(name: str, grows: float) -> None:
    at = grid()[MIDDLE] - torch.tensor([WIDTH / 2, HEIGHT / 2])
    assert torch.allclose(shift(name), at * (grows - 1), atol=1e-4), "2 lengths times 0.2, of 6"


@pytest.mark.parametrize(("name", "sign"), [("roll-clockwise", 1), ("roll-anticlockwise", -1)])
def test_what_is_seen_rolls_as_the_name_says(name: str, sign: int) -> None:
    at = grid()[MIDDLE] - torch.tensor([WIDTH / 2, HEIGHT / 2])
    moved = at + shift(name)
    turned = at[..., 0] * moved[..., 1] - at[..., 1] * moved[..., 0]  # y points down: positive is clockwise
    expected = at.square().sum(-1) * math.sin(math.radians(30 * 0.2)) * sign
    assert torch.allclose(turned, expected, atol=1e-3)


def test_an_orbit_shows_a_side() -> None:
    """Round a point at 2: what is nearer moves left as the camera goes right, what is farther moves right."""
    near, far = shift("orbit-right", depth=1.5), shift("orbit-right", depth=4.0)
    assert (near[..., 0] < 0).all() and (far[..., 0] > 0).all()


def test_rays_of_the_last_frame_are_its_pixels() -> None:
    """Of all moves at once, points on the rays of a frame are seen by its camera at the middles of the pixels."""
    path = camera_path(",".join(f"{name}:0.3" for name in MOVES if not name.endswith(("left", "down", "out"))), 4)
    points = points_from(path.rays(HEIGHT, WIDTH, [3])[0, :, 0], 40.0)
    assert torch.allclose(seen_at(path, 3, points), grid(), atol=1e-3)


def test_moves_add_up_and_ease() -> None:
    both = camera_path("zoom-in:0.5, pan-left:0.2", 5)
    assert torch.allclose(both.positions, camera_path("zoom-in:0.5", 5).positions)
    assert torch.allclose(both.directions, camera_path("pan-left:0.2", 5).directions)
    assert torch.equal(both.to_world[0], torch.eye(4, dtype=torch.float64))
    ways = {easing: camera_path(f"zoom-in@{easing}", 5).positions[:, 2] / 2 for easing in ("linear", "ease-in-out")}
    assert torch.allclose(ways["linear"], torch.tensor([0, 0.25, 0.5, 0.75, 1]).double())
    half = (1 - math.sqrt(0.5)) / 2
    assert torch.allclose(ways["ease-in-out"], torch.tensor([0, half, 0.5, 1 - half, 1]).double())
    assert torch.allclose(camera_path("zoom-in:-1", 3).positions, camera_path("Dolly Out", 3).positions)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("zoomin-in", "did you mean"),
        ("zoom-in:much", "'much'"),
        ("zoom-in:0.5@smooth", "known are linear, ease-in"),
        (" , ", "is empty"),
        ("0.5, 0.2", "got numbers"),
        ("zoom-in:nan", "'nan'"),
        ("zoom-in:1e9", "up to 20"),
    ],
)
def test_moves_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UserError, match="`camera`") as error:
        parse_moves(text)
    assert said in str(error.value) and "\n" not in str(error.value)


# -- files -------------------------------------------------------------------------------------------------------------

LINE = "0 0.5 0.8 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"https://x.org\n{LINE}\n{LINE} 7\n", "line 3 has 20 numbers, expected 19"),
        (f"https://x.org\n{LINE}\n{LINE[:-1]}x\n", "line 3 holds something that is no number"),
        (f"https://x.org\n{LINE}\n{LINE[:-1]}nan\n", "line 3 holds something that is no number"),
        ("https://x.org\n", "no poses in it"),
        ("", "no poses in it"),
        (f"https://x.org\n{LINE.replace('0.5 0.8', '640 576')}\n{LINE}\n", "are fractions of width and height"),
        (f"https://x.org\n{LINE}\n{LINE.replace('1', '0')}\n", "has no inverse"),
        (f"https://x.org\n{LINE}\n", "2 frames or more"),
    ],
)
def test_files_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "poses.txt"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        camera_path(str(file))
    assert str(error.value).startswith(f"{file}: ") and said in str(error.value) and "\n" not in str(error.value)


def test_a_file_has_a_pose_for_each_frame() -> None:
    with pytest.raises(UserError, match="6 camera poses for a clip of 8 frames"):
        camera_path(CASE / "camera.txt", 8)
    with pytest.raises(UserError, match="1 \\(`num_frames`\\)"):
        camera_path("zoom-in", 1)
    with pytest.raises(UserError, match="no such file"):
        camera_path("missing.txt")


def test_matrices_are_from_world_to_camera() -> None:
    path = read_poses(CASE / "camera.txt")
    again = camera_path(torch.linalg.inv(path.to_world), 6)
    assert torch.allclose(again.to_world, path.to_world, atol=1e-9)
    with pytest.raises(UserError, match="matrices \\(f, 3 or 4, 4\\)"):
        camera_path(torch.zeros(4, 5, 5))


def test_the_crop_of_the_original() -> None:
    """A clip that is wider than the video is cut above and below, a narrower one left and right."""
    path = camera_path("still", 2)
    fx, fy, *_ = path.intrinsics[0].tolist()
    assert path.in_pixels(90, 160)[0].tolist() == pytest.approx([160 * fx, 90 * fy, 80, 45])
    assert path.in_pixels(256, 384)[0, :2].tolist() == pytest.approx([256 * 16 / 9 * fx, 256 * fy])
    assert path.in_pixels(64, 192)[0, :2].tolist() == pytest.approx([192 * fx, 192 / (16 / 9) * fy])


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ("still", "at the end where it began"),
        ("zoom-in:0.5, truck-left", "at the end 1.00 left and 1.00 forward"),
        ("pan-left, tilt-up:0.5", "at the end where it began, turned 30 degrees left and 15 degrees up"),
        ("roll-clockwise", "at the end where it began, rolled 30 degrees anticlockwise"),
    ],
)
def test_a_path_says_where_it_ends(moves: str, words: str) -> None:
    assert str(camera_path(moves, 4)) == f"4 poses, {words}"
