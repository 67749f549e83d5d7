"""What img2img starts from: frames of a video, or one image that fades from frame to frame."""

from __future__ import annotations

import base64
import binascii
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from animatediff.errors import UserError
from animatediff_webui import host
from animatediff_webui.settings import Settings, said


def source_frames(settings: Settings) -> list[Image.Image]:
    """Frames of the video or folder that a clip starts from; as many as it is to have, if that is said.

    Raises UserError for a file that is missing or no video, and if two are given.
    """
    given = {name: value for name in ("video_source", "video_path") if (value := getattr(settings, name))}
    if len(given) > 1:
        raise UserError(f"{' and '.join(map(said, given))}: two sources; give one of them")
    ((name, value),) = given.items()
    path = Path(value).expanduser()
    if not path.exists():
        raise UserError(f"{said(name)}: {path} does not exist on the machine of the WebUI")
    from animatediff.media.read import read_video

    frames, _ = read_video(path)
    return [Image.fromarray(frame) for frame in frames[: settings.video_length or None]]


def fade_latents(p: Any, settings: Settings) -> None:
    """Let frames follow the initial image less and less: frame k has 1 - k^power / scale of it, the rest is noise.

    With a last frame, that one counts likewise from the end; where both are more than the whole, both are scaled down.
    `p.init_latent` (f, c, h, w) is replaced; not under a mask, whose outside is to stay.
    """
    if getattr(p, "mask", None) is not None:
        if settings.last_frame is not None:
            raise UserError(f"{said('last_frame')}: not with a mask, under which all frames start from the image")
        return
    latents: Tensor = p.init_latent
    num_frames = len(latents)
    first = fading(num_frames, settings.latent_power, settings.latent_scale)
    mixed = latents * first.to(latents)[:, None, None, None]
    rest = 1 - first
    if settings.last_frame is not None:
        last = fading(num_frames, settings.latent_power_last, settings.latent_scale_last).flip(0)
        total = (first + last).clamp(min=1)
        first, last = first / total, last / total
        end = _encoded(p, as_image(settings.last_frame)).to(latents)
        mixed = latents * first.to(latents)[:, None, None, None] + end * last.to(latents)[:, None, None, None]
        rest = 1 - first - last
    noise = host.module("rng").ImageRNG(tuple(latents.shape[1:]), p.seeds).next().to(latents)
    p.init_latent = mixed + noise * rest.to(latents)[:, None, None, None]


def fading(num_frames: int, power: float, scale: float) -> Tensor:
    """Weight of the initial image at each frame, (f,) in 0..1.

    >>> fading(3, 1.0, 4.0).tolist()
    [1.0, 0.75, 0.5]
    """
    return (1 - torch.arange(num_frames, dtype=torch.float32) ** power / scale).clamp(min=0)


def as_image(given: Any) -> Image.Image:
    """An image of the page, or of an API's base64 text. Raises UserError for anything else."""
    if isinstance(given, Image.Image):
        return given.convert("RGB")
    if hasattr(given, "ndim"):
        return Image.fromarray(given).convert("RGB")
    try:
        text = str(given).partition("base64,")[2] or str(given)
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True))).convert("RGB")
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError) as error:
        raise UserError(f"{said('last_frame')}: no image; give one as base64 text") from error


def _encoded(p: Any, image: Image.Image) -> Tensor:
    """The latents (1, c, h, w) of an image, at the size of the clip."""
    import numpy as np

    images, devices, shared = host.module("images"), host.module("devices"), host.module("shared")
    image = images.resize_image(p.resize_mode if p.resize_mode != 3 else 0, image, p.width, p.height)
    pixels = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)[None]
    pixels = pixels.to(shared.device, dtype=devices.dtype_vae)
    return host.module("sd_samplers_common").images_tensor_to_samples(pixels, None, p.sd_model)
