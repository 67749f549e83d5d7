"""What the UNet is given: conditions of each frame, SDXL's sizes, and latents, the same in training and sampling."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from support.training_clips import MODEL, SIZE

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import encode_images
from animatediff.sampling import latents
from animatediff.sampling.conditions import added_conditions, per_frame, size_time_ids
from animatediff.training.encode import Encoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_time_ids_are_those_of_diffusers(dtype: torch.dtype) -> None:
    linear = SimpleNamespace(in_features=8 * 6 + 32)
    unet = SimpleNamespace(
        config=SimpleNamespace(addition_time_embed_dim=8), add_embedding=SimpleNamespace(linear_1=linear)
    )
    pipe: Any = SimpleNamespace(unet=unet)
    expected = StableDiffusionXLPipeline._get_add_time_ids(pipe, (512, 768), (0, 0), (512, 768), dtype, 32)
    found = size_time_ids((512, 768), 3, dtype=dtype, device="cpu")
    assert found.dtype == dtype and torch.equal(found, expected.repeat(3, 1))


def test_conditions_go_to_every_frame_of_their_clip() -> None:
    pooled, ids = torch.rand(2, 5), size_time_ids((64, 64), 2, dtype=torch.float32, device="cpu")
    added = added_conditions(pooled, ids, range(3))
    assert added is not None
    assert torch.equal(added["text_embeds"], torch.stack([pooled[0]] * 3 + [pooled[1]] * 3))
    assert torch.equal(added["time_ids"], ids.repeat_interleave(3, 0))
    assert added_conditions(None, ids, range(3)) is None

    def travelling(frames: Any) -> torch.Tensor:
        return torch.tensor([10 * clip + frame for clip in range(2) for frame in frames])

    assert per_frame(travelling, [4, 7]).tolist() == [4, 7, 14, 17]


def test_latents_are_those_of_the_sampler() -> None:
    pipe: Any = AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype="float32")
    frames = torch.rand(2, 3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    expected = encode_images(pipe.vae, frames.flatten(0, 1), device)
    done: list[tuple[int, int]] = []
    found = latents.encode_images(
        pipe.vae, frames.flatten(0, 1) * 2 - 1, device=device, chunk_size=1, after_chunk=lambda *n: done.append(n)
    )
    assert torch.equal(found, expected)
    assert done == [(number, 6) for number in range(1, 7)]
    with torch.no_grad():
        means = pipe.vae.encode((frames * 2 - 1).flatten(0, 1)).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.equal(Encoder(pipe, device, size=(SIZE, SIZE)).latents(frames * 2 - 1), means.unflatten(0, (2, 3)))
