"""Interpolation by optical flow: near to the true frames, exact where a frame stands, closed where a loop is."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from support.sprite_clips import psnr, spinning_loop, sprite_clip

from animatediff.errors import UserError
from animatediff.limits import limits
from animatediff.media.interpolate import Between, interpolated
from animatediff.media.seam import loop_seam


def at_rate(frames: np.ndarray, fps: float, fps_out: float, **settings: bool) -> np.ndarray:
    return np.stack(list(interpolated(frames, fps, fps_out, **settings)))


@pytest.mark.parametrize(("motion", "gain"), [("right", 8), ("up", 8), ("spinning", 6)])
def test_frames_between_are_near_to_what_the_world_draws_there(motion: str, gain: float) -> None:
    true = sprite_clip(motion, 31)
    made = at_rate(true[::2], 8, 16)[:31]
    assert np.array_equal(made[::2], true[::2]), "frames of the clip stay as they are"
    blended = (true[:-1:2].astype(float) + true[2::2]) / 2
    assert psnr(made[1::2], true[1::2]) > psnr(blended, true[1::2]) + gain


@pytest.mark.parametrize(
    ("num_frames", "fps", "fps_out", "expected"),
    [(16, 8, 24, 48), (16, 8, 12, 24), (16, 8, 25, 50), (16, 24, 10, 7), (16, 8, 8, 16), (1, 8, 24, 3), (2, 30, 1, 1)],
)
def test_a_clip_lasts_as_long_at_any_rate(num_frames: int, fps: float, fps_out: float, expected: int) -> None:
    frames = sprite_clip("right", 16)[:num_frames]
    made = at_rate(frames, fps, fps_out)
    assert len(made) == expected
    assert len(made) == 1 or abs(len(made) / fps_out - num_frames / fps) <= 0.5 / fps_out
    assert np.array_equal(made[0], frames[0])
    if expected > num_frames:
        assert np.array_equal(made[-1], frames[-1]), "after the last frame it stays"


def test_a_moment_of_the_new_rate_that_has_a_frame_takes_it() -> None:
    frames = sprite_clip("left", 16)
    made = at_rate(frames, 8, 12)  # every second frame stands at every third new one
    assert np.array_equal(made[::3], frames[::2])


def test_scenes_that_are_cut_are_not_blended() -> None:
    first, second = sprite_clip("right", 5), spinning_loop(24)[:5]
    assert Between(first[-1], second[0]).is_cut
    made = at_rate(np.concatenate([first, second]), 8, 32)
    across = made[16:21]  # from the last frame of one scene to the first of the other
    for frame in across:
        assert np.array_equal(frame, first[-1]) or np.array_equal(frame, second[0])


@pytest.mark.parametrize("motion", ["right", "up", "growing", "spinning"])
def test_motion_is_no_cut(motion: str) -> None:
    frames = sprite_clip(motion, 16)
    assert not any(Between(a, b).is_cut for a, b in pairwise(frames))


@pytest.mark.parametrize("fps_out", [24, 20, 15])
def test_a_loop_stays_closed(fps_out: float) -> None:
    true = spinning_loop(72)
    frames = true[::3]
    made = at_rate(frames, 8, fps_out, closed_loop=True)
    assert loop_seam(made) < 1.25, "the step from the last to the first is no jump"
    if fps_out == 24:
        assert np.array_equal(made[::3], frames)
        assert psnr(made[-2:], true[-2:]) > psnr(frames[[-1, -1]], true[-2:]) + 5
    open_ended = at_rate(frames, 8, fps_out)
    assert loop_seam(open_ended) > 1.5


def test_equal_frames_stay_equal_and_flicker_is_not_made() -> None:
    frames = np.repeat(sprite_clip("right", 2)[:1], 4, axis=0)
    assert (at_rate(frames, 8, 30) == frames[0]).all()


def test_transparency_moves_along_without_a_rim() -> None:
    frames = np.zeros((5, 48, 64, 4), np.uint8)
    for index in range(5):
        frames[index, 14:34, 4 + 6 * index : 24 + 6 * index] = (200, 40, 30, 255)
    made = at_rate(frames, 8, 16)
    between = made[1]
    assert 18 * 20 < (between[..., 3] > 127).sum() < 22 * 20
    solid = between[..., 3] > 40
    assert np.abs(between[solid][:, :3].astype(int) - (200, 40, 30)).max() < 30, "invisible black is not mixed in"
    left = np.flatnonzero((between[..., 3] > 127).any(0))[0]
    assert left in (6, 7, 8)


def test_frames_are_taken_one_after_another() -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in sprite_clip("right", 16):
            taken += 1
            yield frame

    made = interpolated(frames(), 8, 16, num_frames=16)
    for _ in range(5):
        next(made)
    assert taken <= 4


def test_rates_out_of_range_and_too_many_frames_are_refused() -> None:
    frames = sprite_clip("right", 16)
    for fps_out in (0, -1, 1e9, 1e-9):
        with pytest.raises(UserError, match="fps_out="):
            interpolated(frames, 8, fps_out)
    with limits(max_frames=40), pytest.raises(UserError, match="has 48 frames at the new rate; the limit is 40"):
        interpolated(frames, 8, 24)


def test_without_opencv_one_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"interpolation needs OpenCV .* pip install 'animatediff\[media\]'"):
        interpolated(np.zeros((2, 8, 8, 3), np.uint8), 8, 24)


def test_what_no_movement_explains_is_blended_not_torn() -> None:
    first, second = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype(np.uint8)
    between = Between(first, second)
    assert not between.is_cut, "coarse colours are the same"
    middle = (first.astype(float) + second) / 2
    assert np.abs(between.at(0.5) - middle).mean() < 8
