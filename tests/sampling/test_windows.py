"""Clips longer than the motion module knows: windows over the UNet, windows inside the motion modules, closed loops."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from support.close import relative
from support.commands import run, watched
from support.pipelines import TINY, pipeline, seeded

from animatediff.errors import UserError
from animatediff.motion import BLENDS, frames_of, plan_windows
from animatediff.motion.windows import window_weights
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import load_result, parse_config
from animatediff.sampling import Residuals, UNetInputs, windowed
from animatediff.sampling.chunks import layers_in_chunks
from animatediff.sampling.controls import blended_residuals

CASES = [(1, 4, 1), (3, 4, 1), (4, 4, 1), (5, 4, 0), (9, 4, 3), (33, 16, 4), (64, 16, 4), (101, 16, 8)]


@pytest.mark.parametrize(("num_frames", "length", "overlap"), CASES)
@pytest.mark.parametrize("closed_loop", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("blend", BLENDS)
def test_shares_of_every_frame_sum_to_one(
    num_frames: int, length: int, overlap: int, closed_loop: bool, stride: int, blend: str
) -> None:
    windows = plan_windows(num_frames, length, overlap, stride=stride, closed_loop=closed_loop, blend=blend)
    total = torch.zeros(num_frames)
    for window in windows:
        assert len(set(window.frames)) == len(window.frames) <= length and window.share.gt(0).all()
        total[list(window.frames)] += window.share
    assert torch.allclose(total, torch.ones(num_frames))
    latents = torch.randn(2, 4, num_frames, 3, 5)
    said = windowed(lambda x, t, frames: 2 * x + t, windows)(latents, torch.tensor(1.0), range(num_frames))
    assert torch.allclose(said, 2 * latents + 1, atol=1e-5)


def test_a_clip_that_fits_has_one_window_and_a_loop_has_its_seam_in_the_middle_of_one() -> None:
    assert [window.frames for window in plan_windows(16, 16, 4, stride=3)] == [tuple(range(16))]
    for num_frames in (16, 40):
        seams = [w for w in plan_windows(num_frames, 16, 4, closed_loop=True) if {0, num_frames - 1} <= {*w.frames}]
        best = max(window.share[window.frames.index(num_frames - 1)] for window in seams)
        assert best > 0.5, "the window over the seam says most of the frames beside it"
        assert any(
            (window.frames.index(0) - window.frames.index(num_frames - 1)) == 1
            and window.frames.index(0) not in (0, 15)
            for window in seams
        )
    ends = {pair for window in plan_windows(40, 16, 4) for pair in itertools.pairwise(window.frames)}
    assert (39, 0) not in ends, "nothing wraps unless asked for"


def test_strided_windows_reach_across_the_clip_at_a_linear_cost() -> None:
    frames = [window.frames for window in plan_windows(64, 16, 4, stride=9)]
    steps = {b - a for window in frames for a, b in itertools.pairwise(window)}
    assert steps == {1, 2, 4}, "the level that spans the clip is the last"
    assert tuple(range(3, 64, 4)) in frames
    cost = {n: sum(len(w.frames) for w in plan_windows(n, 16, 4, stride=3)) / n for n in (64, 256, 1024)}
    assert max(cost.values()) < 1.5 * 3


def test_blends_by_name() -> None:
    assert window_weights(6, 2, "flat").tolist() == [1] * 6
    assert window_weights(6, 2, "pyramid").tolist() == [1, 2, 3, 3, 2, 1]
    assert window_weights(6, 1, "overlap-linear").tolist() == [1, 2, 2, 2, 2, 1]
    gauss = window_weights(6, 2, "gauss")
    assert torch.equal(gauss, gauss.flip(0)) and gauss.argmax() in (2, 3)


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
@pytest.mark.parametrize("mode", ["unet", "motion"])
def test_windows_as_long_as_the_clip_change_nothing(family: str, mode: str) -> None:
    pipe = pipeline(family)
    plain = pipe("a cat", generator=seeded(1), **TINY).frames
    assert torch.equal(pipe("a cat", generator=seeded(1), window=4, long_mode=mode, **TINY).frames, plain)


@pytest.mark.parametrize("family", ["v2", "v3"])
def test_windows_in_the_motion_modules_are_those_of_the_unet_where_they_do_not_overlap(family: str) -> None:
    pipe = pipeline(family)
    settings: dict[str, Any] = TINY | {"num_frames": 8, "window": 4, "overlap": 0}
    unet, motion = (
        pipe("a cat", generator=seeded(1), long_mode=mode, **settings).frames for mode in ("unet", "motion")
    )
    assert relative(unet, motion) < 5e-5
    overlapping = dict(settings, overlap=2)
    unet, motion = (
        pipe("a cat", generator=seeded(1), long_mode=mode, **overlapping).frames for mode in ("unet", "motion")
    )
    assert relative(unet, motion) > 5e-3
    assert pipe.attachment is not None and pipe.attachment.frames.windows == ()


def test_the_image_layers_see_each_frame_once_and_a_few_at_a_time(pipe: AnimateDiffPipeline) -> None:
    whole: list[int] = []
    chunks: list[int] = []
    layer = pipe.unet.down_blocks[1].resnets[0]  # the one before sees one half of guidance
    handles = [
        layer.register_forward_pre_hook(lambda module, args: whole.append(len(args[0]))),
        layer.conv1.register_forward_pre_hook(lambda module, args: chunks.append(len(args[0]))),
    ]
    settings = TINY | {"num_frames": 40, "num_inference_steps": 1, "guidance_scale": 2.0}
    try:
        pipe("a cat", long_mode="motion", **settings)
        assert (whole, chunks) == ([80], [32, 32, 16])
        whole.clear()
        chunks.clear()
        pipe("a cat", long_mode="unet", **settings)
        assert whole == chunks == [32] * 3
    finally:
        for handle in handles:
            handle.remove()
    assert "forward" not in vars(layer)


@torch.no_grad()
def test_chunks_give_what_all_at_once_gives(pipe: AnimateDiffPipeline) -> None:
    unet: Any = copy.deepcopy(pipe.unet)
    frames_of(unet).num_frames = 5
    x, text = torch.randn(5, 4, 16, 16), torch.randn(5, 77, unet.config["cross_attention_dim"])
    expected = unet(x, 500, text).sample
    with layers_in_chunks(unet, size=2):
        assert relative(unet(x, 500, text).sample, expected) < 5e-5
    assert torch.equal(unet(x, 500, text).sample, expected)


def test_controls_see_windows_too() -> None:
    """Each window gets what belongs to its frames, and nothing where no control has anything to say."""

    class Numbered:
        def __init__(self) -> None:
            self.seen: list[list[int]] = []

        def residuals(self, inputs: UNetInputs) -> Residuals | None:
            self.seen.append(list(inputs.frames))
            if 0 not in inputs.frames:
                return None
            assert torch.equal(inputs.latents.flatten(), inputs.embeddings.flatten())
            return Residuals((inputs.latents,), inputs.latents * 2)

    values = torch.arange(12.0).view(12, 1, 1, 1)  # two clips of six frames
    inputs = UNetInputs(
        latents=values, timestep=torch.tensor(1), embeddings=values.view(12, 1, 1), conditions=None, frames=range(6)
    )
    windows = plan_windows(6, 4, 2)
    control = Numbered()
    given = blended_residuals([control], inputs, windows)
    assert given is not None and control.seen == [[0, 1, 2, 3], [2, 3, 4, 5]]
    share = torch.cat([windows[0].share, torch.zeros(2)]).repeat(2)[:, None, None, None]
    assert torch.equal(given.mid, values * share * 2) and torch.equal(given.down[0], values * share)
    assert blended_residuals([], inputs, windows) is None


def test_a_closed_loop_does_not_know_where_it_begins(pipe: AnimateDiffPipeline) -> None:
    """Turning the noise round by the distance of two windows turns the clip round, over the seam."""
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    settings: dict[str, Any] = TINY | {"num_frames": 8, "window": 4, "overlap": 2, "closed_loop": True}
    for mode in ("unet", "motion"):
        loop = pipe("a cat", latents=latents, long_mode=mode, **settings).frames
        turned = pipe("a cat", latents=latents.roll(4, 2), long_mode=mode, **settings).frames
        assert relative(turned, loop.roll(4, 2)) < 1e-5
    line = pipe("a cat", latents=latents, **dict(settings, closed_loop=False)).frames
    assert relative(line, loop) > 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"long_mode": "motoin"}, "unknown long_mode 'motoin'; did you mean 'motion'"),
        ({"blend": "linear"}, "unknown blend 'linear'; .*known are pyramid"),
        ({"stride": 0}, "stride=0: expected 1 to 16"),
        ({"window": 33}, "window must be 1 to 32"),
        ({"window": 4, "overlap": 4}, "overlap must be at least 0 and less than the window of 4"),
    ],
)
def test_settings_out_of_range(pipe: AnimateDiffPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        pipe("a cat", **TINY | settings)


def test_settings_from_yaml_and_the_seam_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (request,) = parse_config(
        "{prompt: a, context_length: 12, context_overlap: 3, context_stride: 2, fuse_method: flat, closed_loop: true}"
    )
    assert (request.window, request.overlap, request.stride, request.blend) == (12, 3, 2, "flat")
    assert request.closed_loop and request.long_mode == "unet"
    with pytest.raises(UserError, match=r"line 2: unknown blend 'linear'"):
        parse_config("prompt: a\nfuse_method: linear")
    given = watched(monkeypatch)
    arguments = ["--closed-loop", "--stride", "2", "--blend", "gauss", "--long-mode", "motion", "--out", "a.gif"]
    code, out, err = run("a fox", *arguments)
    assert (code, err) == (0, "") and "; loop seam " in out
    assert [given[name] for name in ("closed_loop", "stride", "blend", "long_mode")] == [True, 2, "gauss", "motion"]
    assert load_result("a.gif").long_mode == "motion"
    assert "loop seam" not in run("a fox", "--out", "b.gif")[1]
    assert "unknown long_mode 'both'" in run("a fox", "--long-mode", "both")[2]
