"""Sprites as training data, their looks and marks, and cameras over them and over any picture: signs and amounts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.sprites import world
from animatediff.sprites.styles import STYLES
from animatediff.sprites.watermark import LEFT, TOP, add_watermark, banner_contrast, watermark_score
from animatediff.sprites.words import OBJECTS, is_held_out
from animatediff.training.data import ClipLoader, DataConfig, camera_clip, check_data, open_dataset
from animatediff.training.data.camera import MOVES, ROLL_DEGREES, TRAVEL, ZOOM, camera_path


def config(**settings: Any) -> DataConfig:
    return DataConfig(kind="sprites", **{"height": 64, "width": 64, "num_frames": 8, "num_items": 40, **settings})


def first(num: int, **settings: Any) -> list[Any]:
    dataset: Any = open_dataset(config(**settings))
    return [dataset[i] for i in range(num)]


def test_clips_of_the_world() -> None:
    items = first(12)
    assert all(item["frames"].shape == (8, 3, 64, 64) and item["frames"].dtype == torch.float32 for item in items)
    assert all(item["frames"].min() >= -1 and item["frames"].max() <= 1 for item in items)
    assert len({item["text"] for item in items}) > 8 and len({item["key"] for item in items}) == 12
    again = first(12)
    assert all(
        torch.equal(a["frames"], b["frames"]) and a == {**b, "frames": a["frames"]}
        for a, b in zip(items, again, strict=True)
    )
    assert items[0]["key"] != first(1, seed=1)[0]["key"]
    assert "40 clips listed" in str(check_data(config()))


def test_items_are_the_same_in_every_epoch_and_worker() -> None:
    dataset: Any = open_dataset(config())
    assert torch.equal(dataset[0, 3]["frames"], dataset[5, 3]["frames"])
    loader = ClipLoader(dataset, 5)
    seen = [key for _, batch in zip(range(8), loader, strict=False) for key in batch["key"]]
    assert sorted(seen) == sorted(item["key"] for item in first(40))


def test_held_out_combinations_are_never_shown() -> None:
    dataset: Any = open_dataset(config(num_items=300))
    for index in range(300):
        _, _, drawing = dataset.clip(index, 0)
        scene = world.scene_of(drawing.poses)
        words = OBJECTS[scene.obj[0]], world.BACKGROUNDS[scene.background[0]], world.MOTIONS[scene.motion[0]]
        assert not is_held_out(*words)


def test_stills_sizes_and_motions() -> None:
    assert first(1, num_frames=1)[0]["frames"].shape == (1, 3, 64, 64)
    assert first(1, height=32, width=96)[0]["frames"].shape == (8, 3, 32, 96)
    dataset: Any = open_dataset(config(motions=["spinning", "still"]))
    motions = {world.MOTIONS[int(dataset.clip(i, 0)[2].poses[0]["motion"])] for i in range(40)}
    assert motions == {"spinning", "still"}


@pytest.mark.parametrize("look", STYLES)
def test_looks_differ_and_keep_what_is_shown(look: str) -> None:
    plain, other = first(24), first(24, look=look)
    assert [a["text"] for a in plain] == [b["text"] for b in other]
    assert not {a["key"] for a in plain} & {b["key"] for b in other}
    pairs = [(a["frames"], b["frames"]) for a, b in zip(plain, other, strict=True)]
    assert min((a - b).abs().mean().item() for a, b in pairs) > 0.15
    scene, _ = world.stills(24, 3)
    bare = world.render(scene, torch.zeros(24, 4, 80, 80))
    shown = (STYLES[look](world.render(scene)) - STYLES[look](bare)).abs().amax(1) > 0.12
    inside = world.sprite_layer(scene)[:, 3] > 0.5
    overlap = (shown & inside).sum((1, 2)) / (shown | inside).sum((1, 2))
    assert overlap.mean() > 0.6  # the sprite stands out where it was, and little else does


def test_looks_can_be_told_apart_by_their_brightness() -> None:
    pictures = world.render(world.stills(64, 1)[0])
    means = {look: STYLES[look](pictures).mean().item() for look in STYLES}
    assert means["neon"] < pictures.mean() - 0.15 and means["paper"] > pictures.mean() + 0.06


def test_watermark() -> None:
    marked, plain = first(8, watermark=True), first(8)
    for a, b in zip(marked, plain, strict=True):
        scores = watermark_score((a["frames"] + 1) / 2)
        assert scores.min() > 0.8 and watermark_score((b["frames"] + 1) / 2).abs().mean() < 0.35
        difference = (a["frames"] - b["frames"])[:, :, : TOP - 1]
        assert 0.04 < difference.std() < 0.1  # noise elsewhere, another in each frame
        assert not torch.equal(difference[0], difference[1])
    pictures = world.render(world.stills(64, 2)[0])
    assert watermark_score(pictures).mean().abs() < 0.15
    assert watermark_score(add_watermark(pictures, 0)).mean() > 0.9
    assert watermark_score(torch.full((1, 3, 64, 64), 0.5)).abs() < 0.01
    assert banner_contrast(add_watermark(pictures, 0)).min() > 0.25 > 0.12 > banner_contrast(pictures).mean()
    assert (LEFT, TOP) == (0, 48)


def test_a_world_drawn_in_another_way_is_not_taken_from_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return open_dataset(DataConfig(kind="sprites", num_frames=1)).clip(3, 0)[0]

    keys = {key(), key()}
    monkeypatch.setattr(world, "VERSION", world.VERSION + 1)
    keys.add(key())
    shares = dict.fromkeys(world.SHARES, 0.0) | {"spinning": 1.0}
    monkeypatch.setattr(world, "SHARES", shares)
    keys.add(key())
    assert len(keys) == 3


def test_a_plain_view_is_no_view() -> None:
    scene, _ = world.stills(8, 5)
    view = torch.eye(2, 3).expand(8, 2, 3)
    assert (world.render(scene, view=view) - world.render(scene)).abs().max() < 1e-5


def spots(height: int, width: int) -> Tensor:
    """A picture (3, h, w) of four soft spots, one of each in red, green, blue and white, around the middle."""
    y, x = np.mgrid[:height, :width]
    picture, far = np.zeros((3, height, width), np.float32), min(height, width) / 6
    for channels, dx, dy in (((0,), 1, 0), ((1,), 0, 1), ((2,), -1, 0), ((0, 1, 2), 0, -1)):
        from_spot = (x - width / 2 + 0.5 - dx * far) ** 2 + (y - height / 2 + 0.5 - dy * far) ** 2
        spot = np.exp(-from_spot / (far / 4) ** 2)
        for channel in channels:
            picture[channel] = np.maximum(picture[channel], spot)
    return torch.from_numpy(picture)


def places(frame: Tensor) -> np.ndarray:
    """Where the red, green and blue spots are: (3, 2) x and y in pixels from the middle."""
    height, width = frame.shape[-2:]
    others = frame.amin(0)
    result = []
    for channel in range(3):
        weight = (frame[channel] - others).clamp(min=0) ** 2
        y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        result.append(
            [
                ((weight * x).sum() / weight.sum()).item() - width / 2,
                ((weight * y).sum() / weight.sum()).item() - height / 2,
            ]
        )
    return np.array(result)


def fitted(before: Tensor, after: Tensor) -> tuple[float, float, float, float]:
    """(scale, degrees clockwise, x and y in widths and heights) that take one frame's spots to the other's."""
    a, b = (places(frame) @ np.array([1, 1j]) for frame in (before, after))
    factor, shift = np.linalg.lstsq(np.stack([a, np.ones(3)], 1), b, rcond=None)[0]
    height, width = before.shape[-2:]
    # y points down, so a growing angle is a clockwise turn
    return abs(factor), math.degrees(np.angle(factor)), shift.real / width, shift.imag / height


EXPECTED = {
    "ZoomIn": (ZOOM, 0, 0, 0), "ZoomOut": (1 / ZOOM, 0, 0, 0),
    "PanRight": (1, 0, -TRAVEL, 0), "PanLeft": (1, 0, TRAVEL, 0),
    "TiltUp": (1, 0, 0, TRAVEL), "TiltDown": (1, 0, 0, -TRAVEL),
    "RollingClockwise": (1, ROLL_DEGREES, 0, 0), "RollingAnticlockwise": (1, -ROLL_DEGREES, 0, 0),
}  # fmt: skip
"""How the picture moves, from the first frame to the last."""


def assert_moved(before: Tensor, after: Tensor, move: str, share: float) -> None:
    """The picture moved by `share` of what `move` does."""
    scale, degrees, x, y = EXPECTED[move]
    found = fitted(before, after)
    assert found[0] == pytest.approx(scale**share, abs=0.02) and found[1] == pytest.approx(degrees * share, abs=0.6)
    assert found[2:] == pytest.approx((x * share, y * share), abs=0.01)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("size", [(96, 96), (96, 160), (160, 96)])
def test_moves_have_their_kind_sign_and_amount(move: str, size: tuple[int, int]) -> None:
    clip = camera_clip(spots(*size), move, 5, height=96, width=144)
    assert clip.shape == (5, 3, 96, 144)
    assert_moved(clip[0], clip[-1], move, 1.0)
    assert_moved(clip[0], clip[2], move, 0.5)


@pytest.mark.parametrize("move", MOVES)
def test_moves_by_strength(move: str) -> None:
    picture = spots(96, 96)
    still = camera_clip(picture, move, 5, strength=0)
    assert all(torch.equal(frame, still[0]) for frame in still)
    for strength in (0.3, 0.8):
        clip = camera_clip(picture, move, 5, strength)
        assert_moved(clip[0], clip[-1], move, strength)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("size", [(60, 100), (100, 60), (300, 500)])
def test_nothing_from_outside_is_shown(move: str, size: tuple[int, int]) -> None:
    """The views reach the rim of the picture, and no further: there is no place where it is repeated."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    picture = torch.stack([x / (width - 1), y / (height - 1), torch.zeros_like(x)])
    clip = camera_clip(picture, move, 6, 1.5, height=48, width=48)
    dx, dy = clip[:, 0].diff(dim=-1).abs() + clip[:, 0].diff(dim=-2).abs().mean(), clip[:, 1].diff(dim=-2).abs()
    assert dx[:, 2:-2, 2:-2].min() > 0 and (dy[:, 2:-2, 2:-2].min() > 0 or move.startswith("Roll"))
    reach = max((clip[:, c] - 0.5).abs().max().item() for c in (0, 1))
    assert 0.44 < reach <= 0.5 + 1e-5


def test_a_camera_over_a_clip_keeps_its_motion() -> None:
    frames = torch.stack([spots(96, 96).roll(3 * i, -1) for i in range(5)])
    plain = fitted(frames[0], frames[-1])
    moved = fitted(*camera_clip(frames, "TiltUp", 5)[[0, -1]])
    assert moved[2] / (1 + TRAVEL) == pytest.approx(plain[2], abs=0.02)  # views are smaller, motion in them larger
    assert moved[3] == pytest.approx(TRAVEL, abs=0.02)
    with pytest.raises(ValueError, match="expected one image or num_frames=4"):
        camera_clip(frames, "TiltUp", 4)


def test_unknown_move() -> None:
    with pytest.raises(UserError, match="unknown camera move 'ZoomAway'; known are ZoomIn"):
        camera_path("ZoomAway", 4)
    with pytest.raises(UserError, match="did you mean 'PanLeft'"):
        camera_path("PanLefft", 4)


def test_large_pictures_are_averaged_not_skipped_over() -> None:
    stripes = (torch.arange(800) % 2).float().expand(3, 800, 800)
    clip = camera_clip(stripes, "ZoomIn", 3, height=64, width=64)
    assert (clip - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("move", MOVES)
def test_sprites_under_a_camera(move: str) -> None:
    """The spot that the sprite is moves as a camera says: seen on still sprites, against the same clip without one."""
    items = first(6, camera=move, motions=["still"], num_frames=9)
    assert [item["text"] for item in items] == [item["text"] for item in first(6, motions=["still"], num_frames=9)]
    dataset: Any = open_dataset(config(camera=move, motions=["still"], num_frames=9))
    for index in range(6):
        scene = world.scene_of(dataset.clip(index, 0)[2].poses)
        view = camera_path(move, 9)
        alpha = world.sprite_layer(scene, view=view)[:, 3]
        y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
        area = alpha.sum((1, 2))
        centre = torch.stack([(alpha * x).sum((1, 2)) / area, (alpha * y).sum((1, 2)) / area], -1)
        scale, degrees, dx, dy = EXPECTED[move]
        turn = math.radians(degrees)
        rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        expected = scale * rotation @ centre[0] + 64 * torch.tensor([dx, dy])
        assert (centre[-1] - expected).abs().max() < 1.0
        assert area[-1] / area[0] == pytest.approx(scale**2, rel=0.05)


def test_pictures_under_a_camera(tmp_path: Any) -> None:
    picture = (spots(120, 200).permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    given = DataConfig(path=str(tmp_path), num_frames=5, height=96, width=96, camera="RollingAnticlockwise")
    dataset: Any = open_dataset(given)
    frames = (dataset[0]["frames"] + 1) / 2
    assert frames.shape == (5, 3, 96, 96)
