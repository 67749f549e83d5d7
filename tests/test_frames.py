"""Values at frames: what names a frame, and the keys that stand around each frame of a clip."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from animatediff.errors import UserError
from animatediff.frames import at_frame, frame_number, neighbours, parse_curve
from animatediff.sampling.keep_frames import between


@pytest.mark.parametrize(("given", "frame"), [(8, 8), (-1, -1), ("8", 8), (" -1 ", -1), ("+3", 3), (np.int64(5), 5)])
def test_a_frame_is_a_number_or_a_text_of_one(given: Any, frame: int) -> None:
    found = frame_number(given)
    assert found == frame and type(found) is int


@pytest.mark.parametrize("given", ["x", "", "1.5", 1.5, True, None, "1_0", "²", "9" * 5000, [1]])
def test_anything_else_is_no_frame(given: Any) -> None:
    with pytest.raises(UserError, match="is no frame; expected a whole number, such as 8, or -1 for the last"):
        frame_number(given)


def test_frame_and_value_are_split_at_the_first_equals_sign() -> None:
    assert at_frame("12=summer, x=1") == (12, "summer, x=1")
    assert at_frame("-1= a b ") == (-1, " a b ") and at_frame("3=") == (3, "")
    with pytest.raises(UserError, match=r"expected FRAME=VALUE, such as 8=0\.5, got 'summer'"):
        at_frame("summer")
    with pytest.raises(UserError, match="'a' is no frame"):
        at_frame("a=b")
    with pytest.raises(UserError, match="expected FRAME=VALUE"):
        parse_curve("0=1,5")


@settings(max_examples=100, deadline=None)
@given(keys=st.lists(st.integers(-20, 60), min_size=1, unique=True), num_frames=st.integers(1, 50))
def test_each_frame_lies_between_its_keys(keys: list[int], num_frames: int) -> None:
    found = neighbours(keys, num_frames)
    assert len(found) == num_frames
    for frame, (before, after, fraction) in enumerate(found):
        if frame in keys or frame < min(keys) or frame > max(keys):
            nearest = min(max(frame, min(keys)), max(keys))
            assert keys[before] == keys[after] == nearest and fraction == 0
        else:
            assert keys[before] < frame < keys[after] and 0 < fraction < 1
            assert not any(keys[before] < key < keys[after] for key in keys)
            assert keys[before] + fraction * (keys[after] - keys[before]) == pytest.approx(frame)


def test_fractions_are_to_the_bit_what_float32_divides() -> None:
    # a quotient of two small whole numbers, rounded to float64 and then to float32, is the one rounded to float32 at
    # once, as 53 >= 2 * 24 + 2: so no frame changes by how its fraction is computed
    tops, bottoms = torch.meshgrid(torch.arange(1024), torch.arange(1, 1024), indexing="ij")
    assert torch.equal((tops.double() / bottoms.double()).float(), tops.float() / bottoms.float())


def test_between_is_to_the_bit_what_a_search_in_float32_gives() -> None:
    draw = random.Random(0)
    for seed in range(60):
        num_frames = draw.randint(2, 70)
        keys = draw.sample(range(num_frames), draw.randint(1, min(num_frames, 6)))
        dtype = draw.choice([torch.float32, torch.bfloat16, torch.float16])
        latents = torch.randn(1, 4, len(keys), 3, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
        assert torch.equal(between(latents, keys, num_frames), searched(latents, keys, num_frames))


def searched(latents: torch.Tensor, keys: list[int], num_frames: int) -> torch.Tensor:
    """The same by `searchsorted`, every step of it in float32."""
    order = sorted(range(len(keys)), key=lambda place: keys[place])
    places, latents = torch.tensor([float(keys[place]) for place in order]), latents[:, :, order]
    if len(order) == 1:
        return latents.expand(-1, -1, num_frames, -1, -1)
    frames = torch.arange(num_frames, dtype=torch.float32).clamp(float(places[0]), float(places[-1]))
    after = torch.searchsorted(places, frames).clamp(1, len(order) - 1)
    fraction = (frames - places[after - 1]) / (places[after] - places[after - 1])
    fraction = fraction.to(latents.dtype)[:, None, None]
    return torch.lerp(latents[:, :, after - 1], latents[:, :, after], fraction)


def test_values_at_frames_need_neither_torch_nor_numpy() -> None:
    program = "import sys, animatediff.frames; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
