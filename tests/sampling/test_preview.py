"""Images of latents by a linear map: like the decoded frames, small, and only where they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import decode_images
from animatediff.render import build_request
from animatediff.render.events import Event
from animatediff.render.renderer import Renderer
from animatediff.sampling.preview import MAPS, MAX_SIDE, fit_map, preview_image, preview_kind
from recipes.bundled.preview import correlation, examples


@pytest.mark.parametrize("kind", MAPS)
def test_shape_range_and_which_frame(kind: Any) -> None:
    latents = torch.randn(4, 5, 6, 10, generator=torch.Generator().manual_seed(1))
    image = preview_image(latents, kind)
    assert image.dtype == np.uint8 and image.shape == (6, 10, 3) and np.ptp(image) > 50
    assert np.array_equal(image, preview_image(latents[:, 2], kind)), "the middle one"
    assert preview_image(100 * latents, kind).max() == 255
    assert preview_image(torch.full((4, 2, 2), torch.nan), kind).shape == (2, 2, 3)
    large = preview_image(torch.zeros(4, 300, 600), kind)
    assert max(large.shape[:2]) <= MAX_SIDE and large.shape == (100, 200, 3)


def test_a_map_is_found_again() -> None:
    generator = torch.Generator().manual_seed(1)
    factors, added = torch.randn(4, 3, generator=generator), torch.rand(3, generator=generator)
    latents = torch.randn(8, 4, 6, 6, generator=generator)
    images = torch.einsum("nchw,cr->nrhw", latents, factors) + added[:, None, None]
    found, plus = fit_map(latents, images)
    assert torch.allclose(found, factors, atol=1e-5) and torch.allclose(plus, added, atol=1e-5)


def test_previews_of_the_bundled_model_are_like_its_frames() -> None:
    """As like as a linear map of its latents can be: it is fitted to other images by least squares."""
    latents, images = examples(64, seed=2)
    drawn = torch.stack([torch.from_numpy(preview_image(one, "bundled").copy()) for one in latents])
    assert correlation(drawn.permute(0, 3, 1, 2) / 255, images) > 0.7
    vae = AnimateDiffPipeline.from_bundled().vae
    with torch.no_grad():
        decoded = torch.nn.functional.avg_pool2d(decode_images(vae, latents[:16]), 4)
    assert correlation(drawn[:16].permute(0, 3, 1, 2) / 255, decoded) > 0.7


def test_which_map_suits_a_vae() -> None:
    def vae(scale: float, levels: int = 4, channels: int = 4) -> Any:
        config = {"scaling_factor": scale, "block_out_channels": (8,) * levels, "latent_channels": channels}
        return SimpleNamespace(config=config)

    assert [preview_kind(vae(scale)) for scale in (0.18215, 0.13025, 0.5)] == ["sd1", "sdxl", None]
    assert preview_kind(vae(1.0, levels=3)) == "bundled" and preview_kind(vae(0.18215, channels=16)) is None
    assert preview_kind(AnimateDiffPipeline.from_bundled().vae) == "bundled"


def test_only_on_request() -> None:
    renderer = Renderer.of(AnimateDiffPipeline.from_bundled())
    request = build_request({"prompt": "a fox", "num_frames": 2, "steps": 2, "seed": 1})
    frames = []
    for preview in (False, True):
        events: list[Event] = []
        frames += [clip.array() for clip in renderer.clips([request], on_event=events.append, preview=preview)]
        shown = [event.preview is not None for event in events if event.phase == "denoise"]
        assert shown == [preview] * 2
        assert all(event.preview is None for event in events if event.phase != "denoise")
    assert np.array_equal(*frames)
