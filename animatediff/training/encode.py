"""From pictures and captions to what the UNet takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.training.data.cache import LatentCache, fingerprint

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.data.loader import Batch

FRAMES_AT_ONCE = 16
"""Pictures that go through the VAE together; what it needs for more is memory, not time."""
MAX_CAPTIONS = 2048
"""Captions whose states are remembered."""

States = tuple[Tensor, ...]
"""Text states (n, d), and for SDXL the pooled text (d,)."""


class Encoder:
    """The frozen VAE and text encoders of a pipeline, and what they made before."""

    def __init__(self, pipe: AnimateDiffPipeline, device: torch.device, cache: str | None = None) -> None:
        """`cache`: a folder for latents and text states, found again by the weights that made them."""
        self._image: Any = pipe.base
        self._vae: Any = pipe.vae
        self._device = device
        self._known: dict[str, States] = {}
        self.latent_cache = self._text_cache = None
        if cache is not None:
            self.latent_cache = LatentCache(cache, f"latents {fingerprint(pipe.vae, pipe.vae.config.scaling_factor)}")
            texts = [fingerprint(encoder) for encoder in pipe.text_encoders]
            self._text_cache = LatentCache(cache, f"text {texts}")

    def clips(self, batch: Batch) -> Tensor:
        """The latents of a batch (b, f, c, h, w), float32, on the device: those it brings, or made and remembered."""
        missing, frames, brought = batch.get("missing", []), batch.get("frames"), batch.get("latents")
        new: dict[int, Tensor] = {}
        if frames is not None:
            for i, clip in zip(missing, self.latents(frames), strict=True):
                new[i] = self._remembered(batch["key"][i], clip)
        rest = iter(()) if brought is None else iter(brought)
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
        """frames (b, f, 3, h, w) in -1..1 -> the mean of their latents (b, f, c, h, w), float32, on the device.

        The mean, not a draw: the spread of Stable Diffusion's VAE is tiny, and the same frames give the same latents.
        """
        pictures = frames.flatten(0, 1).to(self._device, self._vae.dtype)
        means = [self._vae.encode(part).latent_dist.mean for part in pictures.split(FRAMES_AT_ONCE)]
        latents = torch.cat(means).float() * self._vae.config.scaling_factor
        return latents.unflatten(0, frames.shape[:2])

    @torch.no_grad()
    def text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """States (b, n, d) and, for SDXL, pooled text (b, d), on the device."""
        states = [self._known.get(caption) or self._remember(caption) for caption in captions]
        while len(self._known) > MAX_CAPTIONS:
            self._known.pop(next(iter(self._known)))
        together = [torch.stack(part).to(self._device) for part in zip(*states, strict=True)]
        return together[0], together[1] if len(together) > 1 else None

    def _remember(self, caption: str) -> States:
        stored = self._text_cache.get(caption) if self._text_cache is not None else None
        states = self._encode_text(caption) if stored is None else self._unpacked(stored)
        if stored is None and self._text_cache is not None:
            self._text_cache.put(caption, torch.cat([part.flatten() for part in states]))
        self._known[caption] = states
        return states

    def _encode_text(self, caption: str) -> States:
        # One at a time: in a batch the last digits would depend on its size, and a resumed run would differ in them.
        encoded = self._image.encode_prompt(
            prompt=[caption], device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return (encoded[0][0].cpu(), *([encoded[2][0].cpu()] if len(encoded) > 2 else []))

    def _unpacked(self, flat: Tensor) -> States:
        """States from the cache, where they lie end to end."""
        pooled = 0
        if getattr(self._image, "text_encoder_2", None) is not None:
            pooled = self._image.text_encoder_2.config.projection_dim
        width = self._image.unet.config.cross_attention_dim
        states = flat[: len(flat) - pooled].view(-1, width)
        return (states, flat[len(flat) - pooled :]) if pooled else (states,)

    def added(self, pooled: Tensor | None, size: tuple[int, int]) -> dict[str, Tensor] | None:
        """SDXL's conditions for pictures of `size` (height, width) pixels; None for other models."""
        if pooled is None:
            return None
        width = self._image.text_encoder_2.config.projection_dim
        ids = self._image._get_add_time_ids(size, (0, 0), size, pooled.dtype, width).to(self._device)
        return {"text_embeds": pooled, "time_ids": ids.repeat(len(pooled), 1)}
