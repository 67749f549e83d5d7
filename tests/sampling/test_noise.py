"""FreeNoise and FreeInit: what they do to noise, and that a clip's seed alone decides it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.close import relative
from support.commands import run, watched
from support.pipelines import TINY, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import load_result
from animatediff.sampling import FreeInit, draw_noise, free_init
from animatediff.sampling.free_init import FILTERS, mix


def noise_of(num_frames: int, *seeds: int, kind: str = "freenoise", window: int = 8, overlap: int = 2) -> torch.Tensor:
    shape = (len(seeds), 4, num_frames, 3, 5)
    return draw_noise(shape, seeded(*seeds), kind=kind, window=window, overlap=overlap)


def test_free_noise_repeats_the_first_window_in_another_order() -> None:
    noise, plain = noise_of(41, 1, 2), noise_of(41, 1, 2, kind="default")
    assert torch.equal(noise[:, :, :8], plain[:, :, :8])
    assert not torch.equal(noise[:, :, 8:], plain[:, :, 8:])
    for clip in noise:
        first = [frame.tolist() for frame in clip[:, :8].unbind(1)]
        order = [first.index(frame.tolist()) for frame in clip.unbind(1)]
        assert order[:8] == list(range(8))
        for start in range(8, 41, 6):
            piece, before = order[start : start + 6], order[start - 8 : start - 2]
            assert set(piece) <= set(before) and len(set(piece)) == len(piece)
        assert order[8:14] != order[:6]
    assert torch.equal(noise[1:], noise_of(41, 2)), "a clip's noise does not depend on its neighbours"
    assert torch.equal(noise_of(8, 1), noise_of(8, 1, kind="default")), "one window keeps its noise"


@pytest.mark.parametrize("name", FILTERS)
def test_filters_let_low_frequencies_through(name: str) -> None:
    settings = FreeInit(filter=name, spatial_stop=0.25, temporal_stop=0.5)
    passes = settings.low_pass(16, 8, 12)
    assert passes.shape == (16, 8, 12) and passes[0, 0, 0] == 1 and passes.min() >= 0
    assert passes[0, 4, 6] < 0.01, "the highest frequency is stopped"
    assert torch.allclose(passes[4, 0, 0], passes[0, 1, 0], atol=1e-6), "stops: half the frequencies, and a quarter"
    # the filter treats a frequency and its mirror alike, so that real noise stays real
    assert torch.allclose(passes, passes.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2)))
    if name != "box":  # whose authors take one frequency more on one side
        assert torch.allclose(passes[1:], passes[1:].flip(0)) and torch.allclose(passes[:, 1:], passes[:, 1:].flip(1))


def test_filters_are_those_of_the_authors() -> None:
    """Cut-offs of `freeinit_utils.py` of TianxingWu/FreeInit, along time, height and width from the middle."""
    lows = {name: FreeInit(filter=name).low_pass(16, 8, 8) for name in FILTERS}
    squares = [(2 * step / 16) ** 2 for step in range(8)]
    assert lows["ideal"][:8, 0, 0].tolist() == [float(square <= 0.5) for square in squares]
    ends = {"gaussian": [math.exp(-8 * square) for square in squares]}
    ends["butterworth"] = [1 / (1 + (16 * square) ** 4) for square in squares]
    ends["box"] = [1, 1, 0.5, 0, 0, 0, 0, 0]  # from -2 to 1, of which the real part is half at both ends
    for name, wanted in ends.items():
        assert torch.allclose(lows[name][:8, 0, 0], torch.tensor(wanted, dtype=torch.float32), atol=1e-6), name
    assert FreeInit(order=1).low_pass(16, 8, 8)[2, 0, 0] == pytest.approx(0.5)
    odd = FreeInit(filter="ideal").low_pass(5, 4, 4)[:, 0, 0]  # of odd sizes the middle lies between two frequencies
    assert odd.tolist() == [1, 1, 0.5, 0.5, 1]


def test_mixing_is_exact_at_both_ends_and_keeps_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    low, high = torch.randn(2, 2, 4, 16, 16, 16, generator=generator)
    assert torch.allclose(mix(low, high, torch.ones(16, 16, 16)), low, atol=1e-5)
    assert torch.allclose(mix(low, high, torch.zeros(16, 16, 16)), high, atol=1e-5)
    sharp = FreeInit(filter="ideal").low_pass(16, 16, 16)
    assert mix(low, high, sharp).std().item() == pytest.approx(1.0, abs=0.02)
    still = torch.ones(1, 4, 16, 16, 16)
    assert torch.allclose(mix(still, high[:1], sharp).mean((2, 3, 4)), torch.ones(1, 4), atol=1e-5)


def test_free_init_puts_the_clip_under_its_first_noise() -> None:
    """The formulas of section 4.1 of the paper, with a sampler that can be followed by hand."""
    first, fresh = torch.randn(2, 1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    def sample(iteration: int, noise: torch.Tensor) -> torch.Tensor:
        assert iteration == len(seen)
        seen.append(noise)
        return noise + 3

    settings = FreeInit(iterations=2)
    clean = free_init(sample, first, settings=settings, draw=lambda: fresh, alpha_cumprod=0.25)
    noised = 0.5 * (first + 3) + 0.75**0.5 * first
    expected = mix(noised, fresh, settings.low_pass(8, 8, 8))
    assert torch.equal(seen[0], first) and relative(seen[1], expected) < 1e-5
    assert torch.equal(clean, seen[1] + 3)


@pytest.mark.parametrize("scheduler", ["ddim", "euler_a", "dpmpp_2m"])
def test_free_init_in_the_pipeline(pipe: AnimateDiffPipeline, scheduler: str) -> None:
    pipe.set_scheduler(scheduler)
    progress: list[tuple[int, int]] = []
    try:
        together = pipe(["a cat", "a dog"], generator=seeded(1, 2), freeinit=2, **TINY).frames
        alone = pipe(
            "a dog", generator=seeded(2), freeinit=2, on_progress=lambda p: progress.append((p.step, p.total)), **TINY
        ).frames
        assert relative(together[1:], alone) < 5e-5, "seed and prompt decide a clip, not its neighbours"
        assert progress == [(step, 4) for step in range(1, 5)]
        once = pipe("a dog", generator=seeded(2), freeinit=1, **TINY).frames
        assert torch.equal(once, pipe("a dog", generator=seeded(2), **TINY).frames)
        assert alone.isfinite().all() and relative(once, alone) > 0.1
    finally:
        pipe.set_scheduler("ddim")


def test_free_noise_in_the_pipeline(pipe: AnimateDiffPipeline) -> None:
    settings: dict[str, Any] = TINY | {"num_frames": 8, "window": 4, "overlap": 2}
    own = noise_of(8, 5, window=4, overlap=2)
    assert own.shape == (1, 4, 8, 3, 5)
    free = pipe("a cat", generator=seeded(5), noise="freenoise", **settings).frames
    latents = draw_noise((1, 4, 8, 8, 8), seeded(5), kind="freenoise", window=4, overlap=2)
    assert torch.equal(free, pipe("a cat", latents=latents, **settings).frames)
    assert relative(free, pipe("a cat", generator=seeded(5), **settings).frames) > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": "freenoice"}, "unknown noise 'freenoice'; did you mean 'freenoise'"),
        ({"noise": "freenoise", "latents": torch.zeros(1, 4, 4, 8, 8)}, "latents are given, and noise='freenoise'"),
        ({"freeinit": 0}, "freeinit=0: a clip is sampled at least once"),
        ({"freeinit": 2, "freeinit_filter": "gauss"}, "unknown freeinit_filter 'gauss'; did you mean 'gaussian'"),
        ({"freeinit": 2, "freeinit_dt": 0.0}, "freeinit_dt=0: expected more than 0 and at most 1"),
        ({"freeinit": 2, "latents": torch.zeros(1, 4, 4, 8, 8), "strength": 0.5}, "FreeInit begins with noise alone"),
    ],
)
def test_settings_out_of_range(pipe: AnimateDiffPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe("a cat", **TINY | settings)


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = watched(monkeypatch)
    wanted = {"noise": "freenoise", "freeinit": 3, "freeinit_filter": "box", "freeinit_ds": 0.5, "freeinit_dt": 0.1}
    arguments = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert run("a fox", *arguments, "--out", "a.gif")[0] == 0
    assert {name: given[name] for name in wanted} == wanted
    assert load_result("a.gif").freeinit == 3
    assert "freeinit=0" in run("a fox", "--freeinit", "0")[2]
    assert run("a fox", "--freeinit", "3", "--video", "a.gif", "--out", "b.gif")[0] == 0
