"""Images that a clip shows at some of its frames: the route that they take, and latent replacement."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError
from animatediff.media.color_match import matched, mean_hsv
from animatediff.media.images import LATENT_CHANNELS, fit, on_white
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, Suggestion, at_frames
from animatediff.pipelines.conditions.routes import ROUTES, Loaded, choose_route, is_chosen
from animatediff.pipelines.parts import LoadedParts
from animatediff.pipelines.vae import encode_images
from animatediff.sampling.keep_frames import KeepFrames, between, keep_fractions

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImageCondition(Condition):
    """Images by frame, and their route: the clip takes the shape of the first.

    By the route `latents` the frames are kept to the images' latents; the other routes are conditions of their own,
    which read `images`.
    """

    images: Mapping[int, Image.Image | Tensor]
    """Negative frames count from the end. Tensors are latents (1 or b, c, h, w)."""
    route: str
    """A name in `ROUTES`."""
    suggestion: Suggestion | None = None
    placed: Mapping[int, Image.Image | Tensor] | None = None
    """By frame from 0; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts) -> ImageCondition | None:
        """The images of a call, a single one for frame 0 or a mapping of frames to images; says which route they take.

        Raises UserError for what is no image, and as `choose_route`.
        """
        if call.images is None:
            if is_chosen(call.image_mode):
                raise UserError(
                    f"image_mode={call.image_mode} is given, but no image; add `images`, as in images={{0: image}}"
                )
            return None
        given = call.images if isinstance(call.images, Mapping) else {0: call.images}
        images = {frame: _opened(image) for frame, image in given.items()}
        if not images:
            raise UserError("images is empty: give at least one image, or leave it out")
        route = choose_route(call.image_mode, Loaded.of(parts), len(images))
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        logger.info("%s by way of %s", count, ROUTES[route].title)
        if any(isinstance(image, Tensor) for image in images.values()):
            if route != "i2v":
                raise UserError(
                    f"images: latents are for the route i2v (AnimateLCM-I2V), and this clip takes {route}; give images"
                )
            if call.color_match:
                raise UserError(
                    "`color_match` needs the image itself, and `images` holds latents; leave one of them out"
                )
        return cls(images=images, route=route, suggestion=_suggestion(next(iter(images.values())), parts))

    def fitted(self, clip: ClipShape) -> Self:
        return replace(self, placed=at_frames(self.images, clip.num_frames))

    def prepare(self, setting: Setting) -> Prepared:
        if self.route != "latents":
            return Prepared()
        assert self.placed is not None, "fitted before"
        clip, noise = setting.clip, setting.noise.to(setting.device, torch.float32)
        shown = [image for image in self.placed.values() if isinstance(image, Image.Image)]
        pixels = np.stack([np.asarray(fit(image, clip.width, clip.height)) for image in shown])
        stacked = rearrange(torch.from_numpy(pixels), "n h w c -> n c h w").float() / 255
        latents = rearrange(encode_images(setting.parts.vae, stacked, noise.device), "n c h w -> 1 c n h w")
        frames = list(self.placed)
        known = between(latents, frames, clip.num_frames).expand(noise.shape)
        return Prepared(keep=KeepFrames(known=known, noise=noise, fractions=keep_fractions(clip.num_frames, frames)))


def color_match(call: Arguments, conditions: Iterable[Condition]) -> Callable[[Tensor], Tensor] | None:
    """What moves the colours of frames (n, 3, H, W) to those of the image of a call; None where nothing is to."""
    shown = next((condition for condition in conditions if isinstance(condition, ImageCondition)), None)
    if not call.color_match or shown is None:
        return None
    image = next(iter(shown.images.values()))
    assert isinstance(image, Image.Image), "checked when the condition was made"
    return partial(matched, wanted=mean_hsv(image))


def _suggestion(image: Image.Image | Tensor, parts: LoadedParts) -> Suggestion:
    if isinstance(image, Image.Image):
        return Suggestion(image.size)
    height, width = (side * parts.base.vae_scale_factor for side in image.shape[-2:])
    return Suggestion((width, height), exact=True)


def _opened(image: Any) -> Image.Image | Tensor:
    if isinstance(image, Tensor) and image.ndim in (3, 4) and image.shape[-3] == LATENT_CHANNELS:
        return image if image.ndim == 4 else image[None]
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(
            f"images takes PIL images or uint8 arrays (h, w, 3), one or {{frame: image}}, not "
            f"{type(image).__name__}; open files with PIL.Image.open"
        )
    return on_white(image)
