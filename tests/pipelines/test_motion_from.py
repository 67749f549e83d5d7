"""The movement of a video: it moves the clip, leaves looks alone, and goes with windows, batches and the rest."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler
from support import pia, tiny_models
from support.golden import load_pipeline
from support.images import colour
from support.pipelines import pipeline, seeded
from support.sprite_clips import sprite_clip
from support.stops import Stopped, counted

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling.motion_from import chosen_modules, signal_shares
from animatediff.sprites.classifier import classify_clip, load_classifier

SMALL: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"
}  # fmt: skip


def video(num_frames: int = 4, seed: int = 5, clips: int = 1) -> torch.Tensor:
    """Noise that differs from frame to frame, (b, 3, f, 16, 16) in 0..1."""
    return torch.rand(clips, 3, num_frames, 16, 16, generator=seeded(seed)[0])


def latents(pipe: AnimateDiffPipeline | None = None, prompt: Any = "a fox", **settings: Any) -> torch.Tensor:
    return (pipe or pipeline())(prompt, **{"generator": seeded(3)[0], **SMALL, **settings}).frames


def calls(**settings: Any) -> list[int]:
    """Images that go through the UNet in each of its calls."""
    seen: list[int] = []
    hook = pipeline().unet.conv_in.register_forward_hook(lambda layer, args, out: seen.append(len(out)))
    try:
        latents(**settings)
    finally:
        hook.remove()
    return seen


def test_the_clip_moves_as_the_video_and_looks_as_the_text_says() -> None:
    """Of two videos that move apart: all else of the two clips is the same."""
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    found = {}
    for motion in ("left", "right"):
        frames = pipe(
            "a duck on a grey background", motion_from=sprite_clip(motion, 8, obj="rocket"), num_inference_steps=8,
            generator=seeded(1)[0], output_type="pt",
        ).frames[0]  # fmt: skip
        found[motion] = classify_clip(load_classifier(), frames)
    assert all((one.obj, one.background) == ("duck", "grey") for one in found.values()), found
    assert found["right"].travel[0] - found["left"].travel[0] > 8, found


def test_off_nothing_changes_and_nothing_of_it_stays() -> None:
    plain, moved = latents(), latents(motion_from=video())
    assert (moved - plain).abs().max() > 1e-2 * plain.abs().max()
    assert torch.equal(latents(motion_from=video(), motion_from_strength=0.0), plain)
    assert torch.equal(latents(), plain)


def test_what_stands_still_in_the_video_does_not_act() -> None:
    """Looks alone, the same in all frames, change the clip less than what moves."""
    moving = video()
    still = moving[:, :, :1].expand(-1, -1, 4, -1, -1)
    plain = latents()
    by_still, by_moving = ((latents(motion_from=one) - plain).abs().mean() for one in (still, moving))
    assert by_still < by_moving


@pytest.mark.parametrize(("start", "end", "acting"), [(0.0, 0.5, [1, 1, 0, 0]), (0.25, 0.75, [0, 1, 1, 0])])
def test_it_acts_in_the_steps_that_are_named(start: float, end: float, acting: list[int]) -> None:
    found = calls(motion_from=video(), motion_from_start=start, motion_from_end=end, num_inference_steps=4)
    assert found == [images for acts in acting for images in ([4, 8] if acts else [8])]


def test_windows_take_the_frames_that_are_theirs() -> None:
    settings: dict[str, Any] = {
        "num_frames": 6,
        "window": 4,
        "overlap": 2,
        "num_inference_steps": 1,
        "motion_from_end": 1.0,
    }
    given, other = video(6), video(6)
    other[:, :, 5] = 0.5
    assert calls(**settings, motion_from=given) == [4, 8, 4, 8]
    first, second = latents(**settings, motion_from=given), latents(**settings, motion_from=other)
    assert torch.equal(first[:, :, :2], second[:, :, :2]), "of the first window alone"
    assert (first[:, :, 4:] - second[:, :, 4:]).abs().max() > 1e-3 * first.abs().max()
    inside, plain = (latents(**settings, long_mode="motion", motion_from=one) for one in (given, None))
    assert (inside - plain).abs().max() > 1e-2 * plain.abs().max()


def test_a_video_for_each_clip_and_one_for_all() -> None:
    """Each clip is what it is alone, whatever its neighbours."""
    prompts, videos = ["a fox", "a cat at sea"], torch.cat([video(seed=5), video(seed=6)])
    both = latents(prompt=prompts, motion_from=videos, generator=seeded(1, 2))
    same = latents(prompt=prompts, motion_from=videos[:1], generator=seeded(1, 2))
    alone = [
        latents(prompt=prompt, motion_from=videos[place : place + 1], generator=seeded(1 + place)[0])[0]
        for place, prompt in enumerate(prompts)
    ]
    scale = both.abs().max()
    assert (both[0] - alone[0]).abs().max() < 1e-4 * scale and (both[1] - alone[1]).abs().max() < 1e-4 * scale
    assert (same[0] - alone[0]).abs().max() < 1e-4 * scale and (same[1] - alone[1]).abs().max() > 1e-2 * scale


@pytest.mark.parametrize("family", ["v1", "v2", "sdxl", "hotshot", "pia", "animatelcm_i2v"])
def test_every_layout(family: str, tmp_path: Path) -> None:
    """Also norms over all frames, a module in the mid block, SDXL's sizes and pooled prompts, and images."""
    if family in ("sdxl", "hotshot"):
        unet = tiny_models.save_base(tmp_path / "base.safetensors", "sdxl")
        tiny_models.save_motion(tmp_path / "motion.ckpt", unet, family)
        pipe = AnimateDiffPipeline.from_pretrained(tmp_path / "base.safetensors", torch_dtype=torch.float32)
        pipe.load_motion_module(tmp_path / "motion.ckpt")
    else:
        pipe = pia.pipeline() if family == "pia" else load_pipeline(family)
    small: dict[str, Any] = {"num_inference_steps": 1, "motion_from_end": 1.0}
    if family in ("pia", "animatelcm_i2v"):
        small["images"] = colour(200, 60, 20)
    plain, moved = latents(pipe, **small), latents(pipe, **small, motion_from=video())
    assert (moved - plain).abs().max() > 1e-3 * plain.abs().max()
    assert pipe.attachment is not None
    adapter = pipe.attachment.adapter
    sides = ["down", "up", *(["mid"] if adapter.mid_block is not None else [])]
    assert (family in ("v2", "animatelcm_i2v")) == ("mid" in sides)
    assert sum(len(chosen_modules(adapter, side)) for side in sides) == len(chosen_modules(adapter, "all"))
    assert 0 < len(chosen_modules(adapter, "up.1")) < len(chosen_modules(adapter, "up.0, up.1"))


def test_models_of_edm_noise_levels_are_refused() -> None:
    with pytest.raises(UserError, match=r"trained on EDM noise levels; let ControlNets .* or begin with the video"):
        signal_shares(EDMEulerScheduler())


def test_it_goes_with_the_rest() -> None:
    """Halves of guidance apart give the same; other ways of sampling take it."""
    given: dict[str, Any] = {"motion_from": video()}
    plain = latents(**given)
    assert (latents(**given, vram="10MB") - plain).abs().max() < 1e-3 * plain.abs().max()
    others: list[dict[str, Any]] = [
        {"pag_scale": 2.0}, {"freeinit": 2}, {"guidance_scale": 1.0},
        {"video": video(seed=8), "strength": 0.9, "num_inference_steps": 3},
    ]  # fmt: skip
    for more in others:
        found, without = latents(**given, **more), latents(**more)
        assert found.isfinite().all() and (found - without).abs().max() > 1e-3 * without.abs().max(), more
    assert latents(**given, upscale=1.5, num_inference_steps=3).shape[-2:] == (12, 12)
    pipe, before = pipeline(), pipeline().base.scheduler
    try:
        for name in ("euler_karras", "pndm", "lcm"):
            pipe.set_scheduler(name)
            assert latents(**given).isfinite().all()
    finally:
        pipe.base.scheduler = before


def test_fast_mode_takes_it_in_its_full_steps() -> None:
    twelve: dict[str, Any] = {**SMALL, "num_inference_steps": 12}
    plan = pipeline().job("a fox", **twelve, fast="max").fast
    full = None if plan is None else plan(12)
    assert full is not None
    seen = calls(motion_from=video(), motion_from_end=1.0, num_inference_steps=12, fast="max")
    assert sum(images == 8 for images in seen) == len(full), "with and without the prompt"
    assert len(seen) == 12 + len(full)


def test_a_stopped_call_goes_on_with_the_same_video(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"motion_from": video(), "num_inference_steps": 3}
    wanted = latents(**settings)
    saved: dict[str, Any] = {"resume": tmp_path, "save_every": 0.0}
    with counted(pipeline(), 8), pytest.raises(Stopped):  # the video is encoded by 4 calls, two steps take 3
        latents(**settings, **saved)
    assert list(tmp_path.iterdir())
    with counted(pipeline()) as again:
        assert torch.equal(latents(**settings, **saved), wanted)
    assert again.count < 8
    settings["motion_from"] = video(seed=6)
    other = latents(**settings)
    assert (other - wanted).abs().max() > 1e-3 * wanted.abs().max()


def test_the_plan_counts_it() -> None:
    settings: dict[str, Any] = {**SMALL, "num_frames": 8, "height": 64, "width": 64}
    frames = torch.rand(1, 3, 8, 64, 64)
    plain, moved = (pipeline().plan("a fox", **settings, motion_from=given).phases for given in (None, frames))
    assert [one.tensors for one in moved] > [one.tensors for one in plain]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"motion_from": video(3)}, "has 3 frames, but the clip has 4 (`num_frames`)"),
        ({"motion_from": video(1)}, "a single frame does not move"),
        ({"motion_from": "clip.mp4"}, "`motion_from`: video takes a list of PIL images"),
        ({"motion_from": video(clips=3)}, "want `motion_from` for all of them"),
        ({"motion_from": video(), "num_frames": 1}, "a clip of 1 frame does not move"),
        (
            {"motion_from": video(), "motion_from_start": 0.97},
            "motion_from_start=0.97 is not before motion_from_end=0.95",
        ),
        ({"motion_from": video(), "num_inference_steps": 1}, "no whole one of 1 lies between 0 and 0.95"),
        ({"motion_from": video(), "motion_from_blocks": "mid"}, "no motion modules stand in 'mid'; this model has"),
        ({"motion_from": video(), "motion_from_blocks": ","}, "names no block"),
        ({"motion_from": video(), "motion_from_strength": 30}, "expected 0 to 20"),
        ({"motion_from": torch.rand(1, 4, 4, 3, 3)}, "latents of `motion_from` must be (8, 8) for this clip"),
    ],
)
def test_mistakes_are_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        pipeline().check("a fox", **SMALL | settings)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_length_shape_and_what_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    """The video has both, where the call leaves them open; an image comes before its shape."""
    given = np.zeros((6, 32, 64, 3), np.uint8)
    job = pipeline().job("a fox", motion_from=given)
    assert job.clip.num_frames == 6 and job.clip.width == 2 * job.clip.height
    shown = pipeline().job("a fox", motion_from=given, images=colour(200, 60, 20), image_mode="latents")
    assert shown.clip.num_frames == 6 and shown.clip.width == shown.clip.height
    with caplog.at_level(logging.WARNING):
        pipeline().job("a fox", motion_from_end=0.5)
    assert "`motion_from_end` has no effect: no video is given whose movement" in caplog.text
