"""Images of plain colours with a square, and images as a VAE gives them back."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from animatediff.media.images import as_tensor
from animatediff.pipelines.vae import decode_images, encode_images


def colour(*rgb: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    picture = Image.new("RGB", size, rgb)
    picture.paste((250, 250, 250), (8, 8, 20, 20))
    return picture


RED, BLUE = colour(220, 20, 20), colour(20, 20, 220)


def through_the_vae(pipe: Any, picture: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        pixels = as_tensor(picture, 32, 32)[0].transpose(0, 1)
        return decode_images(pipe.vae, encode_images(pipe.vae, pixels, torch.device("cpu")))[0]
