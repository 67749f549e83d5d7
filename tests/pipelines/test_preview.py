"""Previews while a clip is denoised: by a tiny decoder where there is one, and like the frames."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

from animatediff.bundled import tiny_decoder_path
from animatediff.files import Roots
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.preview import MAX_LATENTS, previews
from animatediff.pipelines.vae import decode_images, to_bytes
from animatediff.sampling.preview import preview_image
from animatediff.weights.base.tiny_vae import original_decoder
from animatediff.weights.recognise import recognise
from recipes.bundled.preview import correlation, examples


@pytest.fixture(scope="module")
def sd1() -> Any:
    """What a preview asks of the VAE of SD 1.5."""
    config = {"scaling_factor": 0.18215, "block_out_channels": (8,) * 4, "latent_channels": 4}
    return SimpleNamespace(config=config)


def tiny(seed: int = 0) -> AutoencoderTiny:
    torch.manual_seed(seed)
    return AutoencoderTiny(decoder_block_out_channels=(8,) * 4, num_decoder_blocks=(1, 1, 1, 1)).eval()


def nowhere(folder: Path) -> Roots:
    return Roots(models=(folder / "models",))


def test_the_bundled_decoder_is_small_and_draws_what_the_vae_does(caplog) -> None:
    assert tiny_decoder_path().stat().st_size < 0.3e6
    assert recognise(tiny_decoder_path()).kind == "vae_tiny_decoder"
    vae = AnimateDiffPipeline.from_bundled().vae
    draw = previews(vae)
    assert draw is not None
    latents, _ = examples(32, seed=2)
    with torch.no_grad():
        frames = decode_images(vae, latents)
    drawn = torch.stack([torch.from_numpy(draw(one[:, None]).copy()) for one in latents]).permute(0, 3, 1, 2) / 255
    assert drawn.shape == frames.shape
    assert not caplog.records, "nothing is said at every step"
    assert correlation(drawn, frames) > 0.95


def test_a_tiny_vae_draws_its_own_previews_of_the_middle_frame(tmp_path: Path) -> None:
    vae = tiny()
    draw = previews(vae, nowhere(tmp_path))
    assert draw is not None
    latents = torch.randn(4, 3, 4, 6)
    with torch.no_grad():
        wanted = to_bytes(decode_images(vae, latents[:, 1][None]))[0].numpy()
    assert np.array_equal(draw(latents), wanted) and wanted.shape == (32, 48, 3)
    assert draw(torch.full((4, 1, 2, 2), torch.nan)).shape == (16, 16, 3)
    assert draw(torch.randn(4, 1, MAX_LATENTS * 2, 8)).shape == (8 * MAX_LATENTS, 32, 3)
    assert all(value.is_contiguous() for value in vae.state_dict().values())


def test_published_files_in_vae_approx_draw_previews(tmp_path: Path, sd1: Any, caplog) -> None:
    roots, latents = nowhere(tmp_path), torch.randn(4, 1, 4, 4)

    def image() -> np.ndarray:
        draw = previews(sd1, roots)
        assert draw is not None
        return draw(latents)

    linear = preview_image(latents, "sd1")
    assert np.array_equal(image(), linear), "no such folder"
    folder = tmp_path / "models" / "vae_approx"
    folder.mkdir(parents=True)
    save_file(original_decoder(tiny().decoder.state_dict()), folder / "taesdxl_decoder.safetensors")
    assert np.array_equal(image(), linear), "for SDXL alone"
    (folder / "taesdxl_decoder.safetensors").rename(folder / "taesd_decoder.safetensors")
    with torch.no_grad():
        wanted = to_bytes(decode_images(tiny(), latents[:, 0][None]))[0].numpy()
    assert np.array_equal(image(), wanted)
    assert not caplog.records
    (folder / "taesd_decoder.safetensors").write_bytes(b"damaged")
    assert np.array_equal(image(), linear)
    assert "previews are coarse" in caplog.text and "taesd_decoder.safetensors" in caplog.text


def test_latents_of_unknown_kind_have_no_preview(tmp_path: Path, sd1: Any) -> None:
    odd = SimpleNamespace(config={**sd1.config, "scaling_factor": 0.5})
    assert previews(odd, nowhere(tmp_path)) is None
