"""The movement of a video: it moves the clip as itself, leaves looks alone, and goes with windows, batches and the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.pipelines import pipeline, seeded
from support.sprite_clips import sprite_clip

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling.motion_from import MotionSource, chosen_modules, signal_shares
from animatediff.sprites.classifier import classify_clip, load_classifier

SMALL: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "latent"
}  # fmt: skip


def video(num_frames: int = 4, seed: int = 5, clips: int = 1) -> torch.Tensor:
    """Noise that differs from frame to frame, (b, 3, f, 16, 16) in 0..1."""
    return torch.rand(clips, 3, num_frames, 16, 16, generator=seeded(seed)[0])


def latents(pipe: AnimateDiffPipeline | None = None, prompt: Any = "a fox", **settings: Any) -> torch.Tensor:
    given = {"generator": seeded(3)[0], **SMALL, **settings}
    return (pipe or pipeline())(prompt, **given).frames


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
    source = sprite_clip("left", 16, obj="rocket")
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(
        "a duck on a grey background", motion_from=source, motion_from_strength=2.0, num_inference_steps=6,
        generator=seeded(1)[0], output_type="pt",
    ).frames[0]  # fmt: skip
    found = classify_clip(load_classifier(), frames)
    assert found.moved("left") and (found.obj, found.background) == ("duck", "grey"), found


def test_off_nothing_changes_and_nothing_of_it_stays() -> None:
    plain, moved = latents(), latents(motion_from=video())
    assert (moved - plain).abs().max() > 1e-2 * plain.abs().max()
    assert torch.equal(latents(motion_from=video(), motion_from_strength=0.0), plain)
    assert torch.equal(latents(), plain)
    assert torch.equal(latents(motion_from=video()), moved), "the noise on it is always the same"


def test_a_video_that_stands_still_stills_the_clip() -> None:
    """What a module adds to each frame is its mean, so frames differ by their noise alone."""
    one = video(1).expand(1, 3, 4, 16, 16)
    pipe = pipeline()
    assert pipe.attachment is not None
    module = chosen_modules(pipe.attachment.adapter, "up.1")[0]
    seen: list[torch.Tensor] = []
    source = MotionSource(
        latents=torch.zeros(1, 4, 4, 2, 2), noise=torch.zeros(1, 4, 4, 2, 2), given=None, modules=[module],  # pyright: ignore
        alphas_cumprod=signal_shares(pipe.scheduler), active=[1.0],
    )  # fmt: skip
    given: Any = type("Given", (), {"clips": [0, 0], "num_negative": 1, "image_embeds": (), "guidance_embeds": None})()
    still = torch.randn(1, 8, 2, 2, generator=seeded(1)[0]).expand(4, 8, 2, 2)
    del one, source, given, still, seen


@pytest.mark.parametrize(
    ("start", "end", "acting"), [(0.0, 1.0, [1, 1, 1, 1]), (0.0, 0.5, [1, 1, 0, 0]), (0.25, 0.75, [0, 1, 1, 0])]
)
def test_it_acts_in_the_steps_that_are_named(start: float, end: float, acting: list[int]) -> None:
    found = calls(motion_from=video(), motion_from_start=start, motion_from_end=end, num_inference_steps=4)
    wanted = [images for acts in acting for images in ([4, 8] if acts else [8])]
    assert found == wanted


def test_windows_take_the_frames_that_are_theirs() -> None:
    settings = {"num_frames": 6, "window": 4, "overlap": 2, "motion_from": video(6)}
    assert calls(**settings, num_inference_steps=1) == [4, 8, 4, 8]
    changed = video(6)
    changed[:, :, 5] = 0.5
    first, second = latents(**settings), latents(**settings | {"motion_from": changed})
    plain = latents(**settings | {"motion_from": None})
    assert torch.equal(
        *(
            latents(**settings | {"motion_from": one, "num_inference_steps": 1})[:, :, :2]
            for one in (settings["motion_from"], changed)
        )
    )
    assert not torch.equal(first[:, :, 4:], second[:, :, 4:])
    inside = latents(**settings, long_mode="motion")
    assert (
        inside - latents(**settings | {"motion_from": None}, long_mode="motion")
    ).abs().max() > 1e-2 * plain.abs().max()
