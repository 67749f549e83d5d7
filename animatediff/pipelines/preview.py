"""Small images of a clip while it is denoised: by a tiny decoder where there is one, else by a linear map."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from animatediff.bundled import tiny_decoder_path
from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.pipelines.vae import decode_images, to_bytes
from animatediff.sampling.preview import middle_frame, preview_image, preview_kind
from animatediff.weights.base.components import empty_model
from animatediff.weights.base.tiny_vae import load_tiny_vae, preview_file

logger = logging.getLogger(__name__)

Draw = Callable[[Tensor], np.ndarray]
"""From scaled latents (c, f, h, w) to an image of the middle frame, uint8 (h, w, 3)."""
MAX_LATENTS = 64
"""Of each side that a tiny decoder is given, as it makes up to 8 pixels of each; larger latents are averaged down."""


def previews(vae: Any, roots: Roots = HERE) -> Draw | None:
    """How clips of a VAE's latents are previewed; None where nothing suits them.

    A tiny VAE draws its own previews; the latents of others go through the tiny decoder that ships with the bundled
    model, or one by its published name in models/vae_approx (`taesd_decoder`, `taesdxl_decoder`), else a linear map.
    """
    if type(vae).__name__ == "AutoencoderTiny":
        return _drawn_by(_copy(vae))
    kind = preview_kind(vae)
    if kind is None:
        return None
    path = tiny_decoder_path() if kind == "bundled" else preview_file(kind, roots)
    if path is not None:
        try:
            return _drawn_by(load_tiny_vae(path, dtype=torch.float32))
        except UserError as error:
            logger.warning("previews are coarse: %s", error)
    return lambda latents: preview_image(latents, kind)


def _copy(vae: Any) -> Any:
    """A tiny VAE of the same weights for previews alone: hooks that move the other one stay with it."""
    if any(value.device.type == "meta" for value in vae.state_dict().values()):
        return None
    copy = empty_model("vae", {**vae.config, "_class_name": "AutoencoderTiny"})
    decoder = {name: value.detach() for name, value in vae.decoder.state_dict().items()}
    copy.decoder.load_state_dict(decoder, assign=True)
    return copy.eval()


def _drawn_by(tiny: Any) -> Draw | None:
    if tiny is None:
        return None
    tiny.encoder = torch.nn.Identity()

    @torch.no_grad()
    def draw(latents: Tensor) -> np.ndarray:
        tiny.decoder.to(latents.device, torch.float32 if latents.device.type == "cpu" else torch.float16)
        small = middle_frame(latents, MAX_LATENTS).nan_to_num()
        return to_bytes(decode_images(tiny, small[None]).nan_to_num())[0].numpy()

    return draw
