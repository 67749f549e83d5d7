"""Known camera movements are recovered, and the other figures say what they claim."""

from __future__ import annotations

import random
from dataclasses import replace

import cv2
import numpy as np
import pytest
from support.moving import filmed, texture

from animatediff.errors import UserError
from animatediff.evaluation import Measurement, camera_move, camera_moves, measure
from animatediff.evaluation.moves import NAMES
from animatediff.sprites import world
from animatediff.sprites.words import combinations

TOLERANCE = {"pan": (0.04, 0.01), "tilt": (0.04, 0.01), "zoom": (0.1, 0.02), "roll": (0.05, 0.01)}
"""What docs/evaluation.md states for textured pictures: absolute (pixels, percent, degrees) plus relative.

For the mean of a clip; a single step may be off by twice the absolute part.
"""

MOVES = [
    {"pan": 0.5}, {"pan": -3.0}, {"tilt": 2.0}, {"tilt": -0.5}, {"zoom": 1.0}, {"zoom": -3.0}, {"zoom": 8.0},
    {"roll": 1.5}, {"roll": -5.0}, {"roll": 15.0},
    {"pan": 1.0, "tilt": -1.0}, {"zoom": 2.0, "roll": 2.0}, {"zoom": -2.0, "roll": -3.0, "pan": 1.0, "tilt": 0.5},
]  # fmt: skip

ONE_OF_EACH = {
    "PanRight": {"pan": 1.0}, "PanLeft": {"pan": -1.0}, "TiltUp": {"tilt": 1.0}, "TiltDown": {"tilt": -1.0},
    "ZoomIn": {"zoom": 2.0}, "ZoomOut": {"zoom": -2.0}, "RollingClockwise": {"roll": 2.0},
    "RollingAnticlockwise": {"roll": -2.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    return texture(448)


def still_sprite(motion: str, seed: int) -> np.ndarray:
    """One picture of the sprite world, float (64, 64, 3), its background continued beyond the frame."""
    rng = random.Random(seed)
    every = combinations(held_out=False) + combinations(held_out=True)
    combination = rng.choice([c for c in every if c[2] == motion])
    picture = world.render(world.scene_of(world.poses(combination, rng, [0.5])))[0].permute(1, 2, 0).numpy()
    return cv2.copyMakeBorder(picture, 64, 64, 64, 64, cv2.BORDER_REPLICATE)


def sprite_clip(motion: str, seed: int = 0, num_frames: int = 16) -> np.ndarray:
    """A clip of the sprite world: uint8 (f, 64, 64, 3)."""
    rng = random.Random(seed)
    combination = rng.choice([c for c in combinations(held_out=True) if c[2] == motion])
    moments = [i / (num_frames - 1) for i in range(num_frames)]
    frames = world.render(world.scene_of(world.poses(combination, rng, moments)))
    return (frames.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (160, 96)])
@pytest.mark.parametrize("camera", MOVES, ids=str)
def test_known_movement_is_recovered(scene: np.ndarray, camera: dict[str, float], size: tuple[int, int]) -> None:
    found = measure(filmed(scene, *size, 4, **camera))
    for step, slack in ((found.camera, 1), *((step, 2) for step in found.steps)):
        for name, (absolute, relative) in TOLERANCE.items():
            true = camera.get(name, 0.0)
            assert getattr(step, name) == pytest.approx(true, abs=slack * absolute + relative * abs(true)), name
    assert found.camera.confidence > 0.75
    assert found.own_motion < 0.25 * found.motion


def test_units_do_not_depend_on_the_size_of_the_frame() -> None:
    found = measure(filmed(texture(1536), 700, 400, 3, pan=7.0, tilt=4.0, zoom=1.0))
    assert (found.pan_percent, found.tilt_percent) == (pytest.approx(1.0, abs=0.02), pytest.approx(1.0, abs=0.02))
    assert found.camera.zoom == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_each_move_has_its_published_name(scene: np.ndarray, name: str) -> None:
    move = camera_move(measure(filmed(scene, 96, 96, 4, **ONE_OF_EACH[name])))
    assert move is not None
    assert (move.name, move.kind, move.sign) == (name, *next(key for key, value in NAMES.items() if value == name))


def test_what_the_signs_mean() -> None:
    """The conventions, without a measurement between: shifted arrays, and the way of a dot above the middle."""
    frames = (texture(96, seed=2)[None].repeat(4, 0) * 200).astype(np.uint8)
    left = np.stack([np.roll(frame, -2 * i, 1) for i, frame in enumerate(frames)])
    down = np.stack([np.roll(frame, 2 * i, 0) for i, frame in enumerate(frames)])
    assert measure(left[:, :, 8:-8]).camera.pan == pytest.approx(2.0, abs=0.06)
    assert measure(down[:, 8:-8]).camera.tilt == pytest.approx(2.0, abs=0.06)
    dot = np.zeros((65, 65, 3), np.float32)
    dot[16:19, 31:34] = 1.0

    def way(**camera: float) -> tuple[int, int]:
        rows, columns = zip(
            *(np.argwhere(f[..., 0] > 100).mean(0) for f in filmed(dot, 65, 65, 3, **camera)), strict=True
        )
        return round(columns[-1] - columns[0]), round(rows[-1] - rows[0])

    assert way(pan=2.0) == (-4, 0) and way(tilt=2.0) == (0, 4)
    right, down_ = way(roll=10.0)
    assert right > 3 and abs(down_) <= 1  # clockwise: what is above goes right
    assert way(zoom=20.0)[1] < -3  # what is above goes further up


def test_two_moves_at_once_are_both_named(scene: np.ndarray) -> None:
    found = camera_moves(measure(filmed(scene, 96, 96, 4, zoom=2.0, roll=0.8)))
    assert [move.name for move in found] == ["ZoomIn", "RollingClockwise"]
    assert found[0].strength > found[1].strength > 0.2


def test_strength_grows_with_the_movement_and_compares_kinds(scene: np.ndarray) -> None:
    weak, strong = (camera_moves(measure(filmed(scene, 96, 96, 4, zoom=z)))[0].strength for z in (1.0, 2.0))
    assert strong == pytest.approx(2 * weak, rel=0.05)
    # root mean square distance from the middle of a square: 0.408 of its side
    assert strong == pytest.approx(2.0 * 0.408, rel=0.03)
    assert camera_moves(measure(filmed(scene, 96, 96, 4, zoom=0.3))) == []


@pytest.mark.parametrize("frame", [texture(64), np.zeros((64, 64, 3)), np.full((40, 200, 3), 0.5), texture(32)[:7, :9]])
def test_a_still_clip_gives_zeros(frame: np.ndarray) -> None:
    found = measure((frame * 255).astype(np.uint8)[None].repeat(5, 0))
    assert (found.camera.pan, found.camera.tilt, found.camera.zoom, found.camera.roll) == (0, 0, 0, 0)
    assert (found.motion, found.own_motion, found.warp_error, found.frame_difference) == (0, 0, 0, 0)
    assert found.loop_seam == 1.0
    assert camera_move(found) is None
    if frame.std() == 0:  # nothing to track: nothing is sure
        assert (found.camera.confidence, found.camera.agreement) == (0, 0)


def test_an_object_does_not_pull_the_camera(scene: np.ndarray) -> None:
    frames = filmed(scene, 128, 128, 5, pan=1.5)
    patch = filmed(texture(256, seed=7), 56, 56, 1)[0]
    for i, frame in enumerate(frames):
        frame[30:86, 10 + 4 * i : 66 + 4 * i] = patch  # a fifth of the frame, going the other way
    found = measure(frames)
    assert found.camera.pan == pytest.approx(1.5, abs=0.08)
    assert found.camera.roll == pytest.approx(0.0, abs=0.1)
    assert 0.5 < found.own_motion < 2.5
    assert found.camera.agreement < 0.9 < found.camera.agreement + 0.35


def test_a_lone_moving_object_is_not_trusted_to_be_the_camera(scene: np.ndarray) -> None:
    for motion, name in (("right", "PanLeft"), ("up", "TiltDown"), ("growing", "ZoomIn"), ("shrinking", "ZoomOut")):
        found = measure(sprite_clip(motion))
        move = camera_move(found)
        assert move is not None and move.name == name
        assert found.camera.confidence < 0.5
    assert camera_move(measure(sprite_clip("still"))) is None


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_moves_of_tiny_pictures_with_one_sprite(name: str) -> None:
    """Kind and sign are right whatever the sprite; the amount is within a tenth, that of rolling within a quarter."""
    for motion in ("still", "up", "growing"):
        found = measure(filmed(still_sprite(motion, 3), 64, 64, 16, cv2.BORDER_REPLICATE, **ONE_OF_EACH[name])[:5])
        move = camera_move(found)
        assert move is not None and move.name == name, motion
        ((kind, true),) = ONE_OF_EACH[name].items()
        assert getattr(found.camera, kind) == pytest.approx(true, rel=0.25 if kind == "roll" else 0.1), motion


def test_a_cut_is_not_a_movement(scene: np.ndarray) -> None:
    before, after = filmed(scene, 96, 96, 5, pan=1.0), filmed(texture(448, seed=9), 96, 96, 5, pan=1.0)
    found = measure(np.concatenate([before, after]))
    assert found.camera.pan == pytest.approx(1.0, abs=0.1)
    assert found.steps[4].agreement < 0.3


def test_flicker_and_noise_are_instable_and_movement_is_not(scene: np.ndarray) -> None:
    steady = filmed(scene, 96, 96, 6, pan=1.0)
    light = np.array([0, 12, 0, 12, 0, 12]).reshape(-1, 1, 1, 1)
    noise = np.random.default_rng(0).normal(0, 12, steady.shape)
    moved = measure(steady)
    assert moved.warp_error < 0.5 * moved.frame_difference
    for change in (light, noise):
        shaken = measure((steady + change).clip(0, 255).astype(np.uint8))
        assert shaken.warp_error > moved.warp_error + 2
        assert shaken.camera.pan == pytest.approx(1.0, abs=0.1)


def test_amount_of_motion(scene: np.ndarray) -> None:
    slow, fast = (measure(filmed(scene, 96, 96, 4, pan=pan)) for pan in (1.0, 3.0))
    assert slow.motion == pytest.approx(1.0, abs=0.1)
    assert fast.motion == pytest.approx(3.0, abs=0.2)
    assert fast.motion_percent == pytest.approx(100 * fast.motion / 96)
    assert fast.own_motion < 0.4


def test_loop_seam() -> None:
    tile = (texture(64) * 255).astype(np.uint8)
    round_trip = np.stack([np.roll(tile, 8 * i, 1) for i in range(8)])  # the ninth frame would be the first
    assert measure(round_trip).loop_seam == pytest.approx(1.0, abs=0.15)
    assert measure(filmed(texture(448), 64, 64, 8, pan=1.0)).loop_seam > 1.5
    there = filmed(texture(448), 64, 64, 5, pan=1.0)
    assert measure(np.concatenate([there, there[::-1]])).loop_seam == 0.0


def test_figures_are_finite_for_noise() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    found = measure(frames)
    assert np.isfinite([found.motion, found.warp_error, *vars(found.camera).values()]).all()
    assert found.camera.confidence < 0.5


def test_what_measure_refuses() -> None:
    with pytest.raises(UserError, match="1 frame: measuring motion takes at least 2"):
        measure(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        measure(np.zeros((2, 64, 64, 3)))


def test_threshold_is_an_argument() -> None:
    found: Measurement = measure(filmed(texture(448), 64, 64, 3, pan=0.5))
    assert camera_move(found, min_strength=2.0) is None
    still = replace(found, camera=replace(found.camera, pan=0.0, tilt=0.0, zoom=0.0, roll=0.0))
    assert camera_move(still) is None
