"""Images as a user gives them: files, PIL, arrays, tensors; brought to one size and one range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.limits import MAX_ASPECT
from animatediff.media.pixels import on_white
from animatediff.media.stills import open_image

Resize = Literal["crop", "pad", "stretch"]
RESIZES: tuple[Resize, ...] = ("crop", "pad", "stretch")

LATENT_CHANNELS = 4
"""A tensor of so many channels is taken as latents, not as an image."""


def as_image(given: Any, setting: str = "image") -> Image.Image:
    """An image in RGB, from a file's path or from memory: PIL, an array (h, w), (h, w, 3 or 4), a tensor (c, h, w).

    Arrays and tensors are uint8, uint16, bool, or in 0..1. `setting` is what messages call them. Raises UserError for
    anything else.
    """
    if isinstance(given, (str, Path)):
        return open_image(given)
    if isinstance(given, Image.Image):
        return on_white(given)
    pixels = given.detach().cpu().float().numpy() if isinstance(given, Tensor) and given.is_floating_point() else given
    pixels = np.asarray(pixels.cpu() if isinstance(pixels, Tensor) else pixels)
    if isinstance(given, Tensor) and pixels.ndim == 3:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        pixels = pixels / 65_535
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[-1] in (3, 4))
    if not fits or not (pixels.dtype == np.uint8 or pixels.dtype.kind == "f"):
        raise UserError(
            f"`{setting}` takes files, PIL images, arrays (h, w, 3) and tensors (3, h, w), 8 or 16 bits or 0..1, not "
            f"{type(given).__name__} {pixels.dtype} {tuple(np.shape(given))}"
        )
    if pixels.dtype.kind == "f":
        if not bool(((pixels >= -1e-4) & (pixels <= 1 + 1e-4)).all()):  # also false for what is not a number
            raise UserError(f"`{setting}`: images are in 0..1, this goes from {pixels.min():.3g} to {pixels.max():.3g}")
        pixels = (pixels.clip(0, 1) * 255).round()
    return on_white(Image.fromarray(np.ascontiguousarray(pixels.astype(np.uint8))))


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The largest part of that shape from the middle, scaled to width x height pixels."""
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return image.resize((width, height), Image.Resampling.BILINEAR, box=box)


def covered(image: Image.Image, width: int, height: int) -> Image.Image:
    """The image scaled as AnimateLCM-I2V's own program does: to whole pixels that cover the frame (Lanczos), then cut.

    `fit` cuts to the shape first, to parts of a pixel.
    """
    scale = max(width / image.width, height / image.height)
    if width / height > image.width / image.height:
        size = (width, round(scale * image.height))
    else:
        size = (round(scale * image.width), height)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return image.resize(size, Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))


def shaped(image: Image.Image, width: int, height: int, how: Resize) -> Image.Image:
    """The image at width x height: its middle (`crop`), all of it between black bars (`pad`), or distorted."""
    if how == "crop" or image.size == (width, height):
        return fit(image, width, height)
    if how == "stretch":
        return image.resize((width, height), Image.Resampling.BILINEAR)
    scale = min(width / image.width, height / image.height)
    inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    whole = Image.new("RGB", (width, height))
    whole.paste(image.resize(inner, Image.Resampling.BILINEAR), ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return whole


def check_aspect(size: tuple[int, int], name: str | Path = "") -> None:
    """Raise UserError for an image of `size` (width, height) that is too slim for a clip to take its shape."""
    slim = max(size) / min(size)
    where = f"{name}: " if name else ""
    MAX_ASPECT.check(slim, f"{where}an image of {size[0]} x {size[1]} is {slim:,.0f} times as long as wide")


def size_like(
    size: tuple[int, int], area: int, *, width: int | None = None, height: int | None = None
) -> tuple[int, int]:
    """(width, height) of a clip in the shape of an image of `size` (width, height): about `area` pixels.

    Multiples of 8. A side that is given is kept, and the other follows. Raises UserError for a shape beyond
    `max_aspect` that would be followed.

    >>> size_like((1920, 1080), 512 * 512)
    (680, 384)
    """
    if width is not None and height is not None:
        return width, height
    ratio = size[0] / size[1]
    check_aspect(size)
    if width is None and height is None:
        width, height = _multiple((area * ratio) ** 0.5), _multiple((area / ratio) ** 0.5)
    elif width is None:
        assert height is not None
        width = _multiple(height * ratio)
    else:
        height = _multiple(width / ratio)
    assert width is not None and height is not None
    return width, height


def _multiple(side: float) -> int:
    return max(8, round(side / 8) * 8)


def stretched(image: Image.Image) -> Image.Image:
    """The image in grey, its darkest point black and its brightest white (`normalize_condition_images`)."""
    grey = np.asarray(image.convert("RGB"), dtype=np.float32).mean(axis=-1)
    grey -= grey.min()
    grey /= max(float(grey.max()), 1e-6)
    return Image.fromarray((grey * 255).round().astype(np.uint8)).convert("RGB")


def as_tensor(images: Any, width: int, height: int, setting: str = "conditioning_frames") -> Tensor:
    """Images (1 or b, 3, n, height, width) in 0..1, float32, or latents (1 or b, 4, n, h, w) as they are.

    images: one or a sequence of PIL images (cut to shape, see `fit`), arrays (h, w), (h, w, 3) or (n, h, w, 3),
    uint8 or in 0..1, or tensors (c, h, w), (n, c, h, w) or (b, c, n, h, w) in 0..1, scaled to size where they are
    images. `setting` is what messages call them. Raises UserError for anything else.
    """
    given = list(images) if isinstance(images, Sequence) and not isinstance(images, str) else [images]
    if not given:
        raise UserError(f"{setting} is empty: give at least one image, or leave it out")
    tensors = [_as_clip(image, width, height, setting) for image in given]
    shapes = {(t.shape[0], t.shape[1], *t.shape[3:]) for t in tensors}
    if len(shapes) > 1:
        raise UserError(
            f"the images differ in kind or size: {', '.join(str(tuple(t.shape)) for t in tensors)} as (b, c, n, h, w)"
        )
    return torch.cat(tensors, dim=2)


def _as_clip(image: Any, width: int, height: int, setting: str) -> Tensor:
    """One thing that was given, (1 or b, c, n, h, w)."""
    if isinstance(image, Image.Image):
        image = np.asarray(fit(on_white(image), width, height))
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Tensor):
        raise UserError(
            f"{setting} takes PIL images, arrays and tensors, not {type(image).__name__}; "
            "open files with PIL.Image.open"
        )
    if image.ndim not in (3, 4, 5):
        raise UserError(f"a tensor of images is (c, h, w), (n, c, h, w) or (b, c, n, h, w), got {_of(image)}")
    if image.ndim < 5:
        stacked = image[None] if image.ndim == 3 else image
        image = stacked.transpose(0, 1)[None]  # (1, c, n, h, w)
    channels = image.shape[1]
    if channels == LATENT_CHANNELS:
        return image.float()
    if channels not in (1, 3):
        raise UserError(f"a tensor of images has 1 or 3 channels, of latents {LATENT_CHANNELS}; got {_of(image)}")
    scaled = image / 255 if image.dtype == torch.uint8 else image.float()
    if not bool(((scaled >= -1e-4) & (scaled <= 1 + 1e-4)).all()):  # also false for what is not a number
        low, high = float(scaled.min()), float(scaled.max())
        raise UserError(f"images are in 0..1, these go from {low:.3g} to {high:.3g}; latents have 4 channels")
    return _sized(scaled.clamp(0, 1).expand(-1, 3, -1, -1, -1), width, height)


def _sized(clips: Tensor, width: int, height: int) -> Tensor:
    if clips.shape[-2:] == (height, width):
        return clips
    flat = clips.transpose(1, 2).flatten(0, 1)
    flat = torch.nn.functional.interpolate(flat, size=(height, width), mode="bilinear", antialias=True)
    return flat.unflatten(0, (clips.shape[0], -1)).transpose(1, 2).clamp(0, 1)


def _from_array(array: np.ndarray) -> Tensor:
    """(n, c, h, w) of an array with channels last."""
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise UserError(f"an array of images is (h, w), (h, w, 3) or (n, h, w, 3), got {array.shape}")
    return torch.from_numpy(np.array(array)).permute(0, 3, 1, 2)  # a copy, as arrays of PIL images are read-only


def _of(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
