"""What tests rely on: a comparison that sees faults whatever the size of numbers, and a disturbance that is none."""

from __future__ import annotations

import pytest
import torch
from support.close import relative
from support.disturb import disturbed, disturbing
from support.unets import run, tiny_unet


@pytest.mark.parametrize("size", [1e-6, 1.0, 100.0])
def test_a_difference_is_measured_against_the_size_of_what_is_compared(size: float) -> None:
    clip = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * size
    assert relative(clip, clip) == 0 and relative(clip.numpy(), clip) == 0
    assert relative(clip * (1 + 1e-6), clip) < 2e-6
    assert relative(torch.cat([clip[:15], clip[:1]]), clip) > 0.1, "one wrong frame of 16"
    assert relative(clip + 1e-3 * size, clip) > 5e-4
    for other in (clip * torch.nan, clip * torch.inf):
        assert not relative(other, clip) < 1e-5
    with pytest.raises(AssertionError, match="shapes differ"):
        relative(clip[:1], clip)


def test_nothing_is_close_to_zeros_but_zeros() -> None:
    assert relative(torch.zeros(3), torch.zeros(3)) == 0
    assert relative(torch.full((3,), 1e-30), torch.zeros(3)) == float("inf")


def test_the_disturbance_is_small_and_the_same_for_the_same_output() -> None:
    sample = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = disturbed(sample, 3e-6)
    assert torch.equal(torch.get_rng_state(), before)
    assert 2e-6 < relative(found, sample) < 4e-6
    assert torch.equal(disturbed(sample.clone(), 3e-6), found)
    other = disturbed(sample[:1], 3e-6)
    assert not torch.equal(other, found[:1]) and relative(other, found[:1]) < 1e-5
    zeros = torch.zeros(2, 3)
    assert torch.equal(disturbed(zeros, 3e-6), disturbed(-zeros, 3e-6))


@pytest.mark.exact  # disturbs by itself
@torch.no_grad()
def test_a_disturbed_unet_gives_its_output_in_either_form(monkeypatch: pytest.MonkeyPatch) -> None:
    unet = tiny_unet()
    plain = run(unet)
    monkeypatch.setattr(type(unet), "forward", disturbing(type(unet).forward, 3e-6))
    found = run(unet)
    assert 2e-6 < relative(found, plain) < 4e-6
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(4, 4, 8, 8, generator=generator), torch.randn(4, 5, 16, generator=generator)
    assert torch.equal(unet(x, 500, text, return_dict=False)[0], found)
