"""Images that a clip shows at some of its frames: the route that they take, and latent replacement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from animatediff.errors import UserError, unknown
from animatediff.media.images import fit, on_white
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, Suggestion, at_frames
from animatediff.pipelines.conditions.ip_adapter import has_ip_adapter
from animatediff.pipelines.parts import LoadedParts
from animatediff.pipelines.vae import encode_images
from animatediff.sampling.keep_frames import KeepFrames, between, keep_fractions

if TYPE_CHECKING:
    from typing_extensions import Self

logger = logging.getLogger(__name__)

Route = Literal["sparsectrl", "ip-adapter", "latents"]
ROUTES: dict[Route, str] = {
    "sparsectrl": "the SparseCtrl RGB encoder, which was trained to show them",
    "ip-adapter": "the IP-Adapter, which takes their content and style, not their exact pixels",
    "latents": "their latents, kept at their frames while the others are made",
}
"""From the best to the one that needs nothing."""


def choose_route(mode: str | None, encoder_kind: str | None, ip_adapter: bool) -> Route:
    """The route of `mode`, or the best one for what is loaded. Raises UserError for one that lacks its weights."""
    if mode is not None and mode not in ROUTES:
        raise unknown("image_mode", mode, ROUTES)
    if mode == "sparsectrl" and encoder_kind != "rgb":
        loaded = "none is loaded" if encoder_kind is None else f"the one loaded is for {encoder_kind}"
        raise UserError(
            f"image_mode=sparsectrl takes a SparseCtrl encoder for RGB images, and {loaded}; name one by `sparsectrl`, "
            "or put it into models/SparseCtrl"
        )
    if mode == "ip-adapter" and not ip_adapter:
        raise UserError("image_mode=ip-adapter takes an IP-Adapter, and none is loaded; name one by `ip_adapter`")
    for route in ROUTES:
        if route == mode:
            return route
    if encoder_kind == "rgb":
        return "sparsectrl"
    return "ip-adapter" if ip_adapter else "latents"


@dataclass(frozen=True, kw_only=True)
class ImageCondition(Condition):
    """Images by frame, and their route: the clip takes the shape of the first.

    By the route `latents` the frames are kept to the images' latents; the other routes are conditions of their own,
    which read `images`.
    """

    images: Mapping[int, Image.Image]
    """Negative frames count from the end."""
    route: Route
    suggestion: Suggestion | None = None
    placed: Mapping[int, Image.Image] | None = None
    """By frame from 0; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, parts: LoadedParts) -> ImageCondition | None:
        """The images of a call, a single one for frame 0 or a mapping of frames to images; says which route they take.

        Raises UserError for what is no image, and as `choose_route`.
        """
        if call.images is None:
            if call.image_mode is not None:
                raise UserError(
                    f"image_mode={call.image_mode} is given, but no image; add `images`, as in images={{0: image}}"
                )
            return None
        given = call.images if isinstance(call.images, Mapping) else {0: call.images}
        images: dict[int, Image.Image] = {frame: _opened(image) for frame, image in given.items()}
        if not images:
            raise UserError("images is empty: give at least one image, or leave it out")
        route = choose_route(call.image_mode, parts.sparsectrl_kind, has_ip_adapter(parts.unet))
        count = "1 image" if len(images) == 1 else f"{len(images)} images"
        logger.info("%s by way of %s", count, ROUTES[route])
        return cls(images=images, route=route, suggestion=Suggestion(next(iter(images.values())).size))

    def fitted(self, clip: ClipShape) -> Self:
        return replace(self, placed=at_frames(self.images, clip.num_frames))

    def prepare(self, setting: Setting) -> Prepared:
        if self.route != "latents":
            return Prepared()
        assert self.placed is not None, "fitted before"
        clip, noise = setting.clip, setting.noise.to(setting.device, torch.float32)
        pixels = np.stack([np.asarray(fit(image, clip.width, clip.height)) for image in self.placed.values()])
        stacked = rearrange(torch.from_numpy(pixels), "n h w c -> n c h w").float() / 255
        latents = rearrange(encode_images(setting.parts.vae, stacked, noise.device), "n c h w -> 1 c n h w")
        frames = list(self.placed)
        known = between(latents, frames, clip.num_frames).expand(noise.shape)
        return Prepared(keep=KeepFrames(known=known, noise=noise, fractions=keep_fractions(clip.num_frames, frames)))


def _opened(image: Any) -> Image.Image:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise UserError(
            f"images takes PIL images or uint8 arrays (h, w, 3), one or {{frame: image}}, not "
            f"{type(image).__name__}; open files with PIL.Image.open"
        )
    return on_white(image)
