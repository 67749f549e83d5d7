"""What the UNet is given: conditions of each frame, SDXL's sizes, and latents, the same in training and sampling."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from support.close import relative
from support.training_clips import MODEL, MOTION, SIZE

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import encode_images
from animatediff.sampling import latents
from animatediff.sampling.conditions import added_conditions, per_frame, size_time_ids
from animatediff.training.encode import Encoder, of_one_length


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
        images = latents.for_vae((frames * 2 - 1).flatten(0, 1))
        means = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
    assert torch.equal(Encoder(pipe, device, size=(SIZE, SIZE)).latents(frames * 2 - 1), means.unflatten(0, (2, 3)))


LONG = ", ".join(f"a ball number {number} that moves to the right" for number in range(14)) + ", and (falls:1.3)"


def test_long_captions_are_read_as_animate_reads_them(tmp_path: Path) -> None:
    pipe: Any = AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype="float32", motion_adapter=MOTION)
    seen: list[torch.Tensor] = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    size = {"height": SIZE, "width": SIZE, "num_frames": 2}
    pipe(LONG, **size, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    hook.remove()
    encoder = Encoder(pipe, torch.device("cpu"), size=(SIZE, SIZE), cache=str(tmp_path))
    whole = encoder.text([LONG]).embeddings
    assert whole.shape[1] > 77 and torch.equal(whole[0], seen[0][0])
    plain = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    for short in ("up", "(up:1.3)"):
        assert torch.equal(encoder.text([short]).embeddings, pipe.base.encode_prompt(prompt=[short], **plain)[0])
    again = Encoder(pipe, torch.device("cpu"), size=(SIZE, SIZE), cache=str(tmp_path))
    stored = again.text([LONG, "up"]).embeddings
    assert relative(stored[:1], whole) < 1e-3 and stored.shape == (2, *whole.shape[1:])


def test_captions_of_different_length_are_read_as_by_themselves() -> None:
    """Attention to repeated keys and values is attention to them once."""
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randn(7 * number, 4, generator=generator, dtype=torch.float64) for number in (1, 2, 3)]
    same = of_one_length(texts)
    assert [len(text) for text in same] == [42, 42, 42]
    query = torch.randn(1, 5, 4, generator=generator, dtype=torch.float64)
    for alone, repeated in zip(texts, same, strict=True):
        a, b = (torch.nn.functional.scaled_dot_product_attention(query, t[None], t[None]) for t in (alone, repeated))
        assert torch.allclose(a, b, atol=1e-12)
    assert all(a is not b and torch.equal(a, b) for a, b in zip(texts[:1], of_one_length(texts[:1]), strict=True))
