"""From frames and captions to latents and prompt embeddings, each made once and remembered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from animatediff.prompts.encode import chunks_needed, encode, fits
from animatediff.sampling.conditions import size_time_ids
from animatediff.sampling.latents import encode_images
from animatediff.training.data.cache import LatentCache, fingerprint
from animatediff.training.models import base_pipeline, text_encoders

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.data.loader import Batch

IMAGES_AT_ONCE = 16
"""Images that go through the VAE together; for more it needs more memory, and no less time."""
MAX_CAPTIONS = 2048
"""Captions whose embeddings are remembered."""

Embeddings = tuple[Tensor, ...]
"""Prompt embeddings (n, d) of one caption, and for SDXL the pooled ones (d,)."""


class TextConditions(NamedTuple):
    """Captions as the UNet takes them."""

    embeddings: Tensor
    """(b, n, d)"""
    pooled: Tensor | None = None
    """(b, d) of SDXL."""
    time_ids: Tensor | None = None
    """(b, 6) sizes and crops of SDXL."""


def of_one_length(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat the prompt embeddings (n, d) of texts until all are equally long.

    Attention to the same keys several times is attention to them once, so that each is read as it is by itself,
    whatever it stands beside; padding would be read as well.
    """
    length = math.lcm(*(len(text) for text in texts))
    return [text.repeat(length // len(text), 1) for text in texts]


class Encoder:
    """The frozen VAE and text encoders of a pipeline, with a memory of earlier results."""

    def __init__(
        self, pipe: AnimateDiffPipeline, device: torch.device, *, size: tuple[int, int], cache: str | None = None
    ) -> None:
        """size: height and width of the clips; cache: folder of latents and embeddings, apart for other weights."""
        self._base = base_pipeline(pipe)
        self._vae: Any = pipe.vae
        self._device, self._size = device, size
        self._known: dict[str, Embeddings] = {}
        self.latent_cache = self._text_cache = None
        if cache is not None:
            config = pipe.vae.config
            statistics = [value for name in ("latents_mean", "latents_std") if (value := config.get(name)) is not None]
            made_by = fingerprint(pipe.vae, config.scaling_factor, *statistics)
            self.latent_cache = LatentCache(cache, f"latents {made_by}")
            encoders = [fingerprint(encoder) for encoder in text_encoders(pipe)]
            self._text_cache = LatentCache(cache, f"text {encoders}")

    def clips(self, batch: Batch) -> Tensor:
        """Latents of a batch (b, f, c, h, w), float32, on the device: from the cache, or made and put there."""
        missing, frames, cached = batch.get("missing", []), batch.get("frames"), batch.get("latents")
        new: dict[int, Tensor] = {}
        if frames is not None:
            for i, clip in zip(missing, self.latents(frames), strict=True):
                new[i] = self._remembered(batch["key"][i], clip)
        rest = iter(()) if cached is None else iter(cached)
        clips = [new[i] if i in new else next(rest) for i in range(len(batch["key"]))]
        # In one layout: the autoencoder may give another than the cache, and convolutions then differ in the last bits.
        return torch.stack([clip.to(self._device).float().contiguous() for clip in clips])

    def _remembered(self, key: str, latents: Tensor) -> Tensor:
        if self.latent_cache is None:
            return latents
        latents = latents.half()  # rounded here too, so that the first time gives what later ones give
        self.latent_cache.put(key, latents)
        return latents

    @torch.no_grad()
    def latents(self, frames: Tensor) -> Tensor:
        """Encode frames (b, f, 3, h, w) in -1..1 as latents (b, f, c, h, w), float32, on the device."""
        latents = encode_images(self._vae, frames.flatten(0, 1), device=self._device, chunk_size=IMAGES_AT_ONCE)
        return latents.unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> TextConditions:
        """Encode captions, on the device."""
        known = [self._known.get(caption) or self._remember(caption) for caption in captions]
        while len(self._known) > MAX_CAPTIONS:
            self._known.pop(next(iter(self._known)))
        texts, *pooled = zip(*known, strict=True)
        embeddings = torch.stack(of_one_length(texts)).to(self._device)
        pooled = [torch.stack(part).to(self._device) for part in pooled]
        if not pooled:
            return TextConditions(embeddings)
        ids = size_time_ids(self._size, len(captions), dtype=pooled[0].dtype, device=self._device)
        return TextConditions(embeddings, pooled[0], ids)

    def _remember(self, caption: str) -> Embeddings:
        # Caches from before hold the first 77 tokens of long ones alone, under their plain names.
        key = caption if fits(self._base, caption) else f"whole: {caption}"
        stored = self._text_cache.get(key) if self._text_cache is not None else None
        embeddings = self._encode_text(caption) if stored is None else self._unpacked(stored)
        if stored is None and self._text_cache is not None:
            self._text_cache.put(key, torch.cat([part.flatten() for part in embeddings]))
        self._known[caption] = embeddings
        return embeddings

    def _encode_text(self, caption: str) -> Embeddings:
        # One at a time: in a batch the last digits would depend on its size, and a resumed run would differ in them.
        if not fits(self._base, caption):  # as `animate` reads it: in chunks, with the weights of brackets
            number = chunks_needed(self._base, [caption])
            whole = encode(self._base, [caption], num_chunks=number, clip_skip=None, device=self._device)
            return (whole.states[0].cpu(), *([] if whole.pooled is None else [whole.pooled[0].cpu()]))
        encoded = self._base.encode_prompt(
            prompt=[caption], device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return (encoded[0][0].cpu(), *([encoded[2][0].cpu()] if len(encoded) > 2 else []))

    def _unpacked(self, flat: Tensor) -> Embeddings:
        """Embeddings from the cache, where they lie end to end."""
        pooled = 0
        if getattr(self._base, "text_encoder_2", None) is not None:
            pooled = self._base.text_encoder_2.config.projection_dim
        width = self._base.unet.config.cross_attention_dim
        embeddings = flat[: len(flat) - pooled].view(-1, width)
        return (embeddings, flat[len(flat) - pooled :]) if pooled else (embeddings,)
