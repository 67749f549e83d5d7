"""Pictures that a clip shows at some of its frames ("animate my picture"): by which route, and with what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError, nearest
from animatediff.frames import frame_indices
from animatediff.media.images import fit, on_white
from animatediff.pipelines.ip_adapter import has_ip_adapter, picture_states, travelling_states
from animatediff.pipelines.vae import encode_pictures
from animatediff.sampling.keep_frames import Hold, between, hold_shares

logger = logging.getLogger(__name__)

Route = Literal["sparsectrl", "ip-adapter", "latents"]
ROUTES: dict[Route, str] = {
    "sparsectrl": "the SparseCtrl RGB encoder, which was trained to show them",
    "ip-adapter": "the IP-Adapter, which takes their content and style, not their exact pixels",
    "latents": "their latents, held at their frames while the others are made",
}
"""From the best to the one that needs nothing."""


def choose_route(mode: str | None, encoder_kind: str | None, ip_adapter: bool) -> Route:
    """The route of `mode`, or the best one for what is loaded. Raises UserError for one that lacks its weights."""
    if mode is not None and mode not in ROUTES:
        close = nearest(mode, ROUTES)
        hint = f"did you mean {close}? " if close else ""
        raise UserError(f"unknown image_mode {mode!r}; {hint}known are {', '.join(ROUTES)}")
    if mode == "sparsectrl" and encoder_kind != "rgb":
        loaded = "none is loaded" if encoder_kind is None else f"the one loaded is for {encoder_kind}"
        raise UserError(
            f"image_mode=sparsectrl takes a SparseCtrl encoder for RGB pictures, and {loaded}; give one with "
            "--sparsectrl FILE, or put it into models/SparseCtrl"
        )
    if mode == "ip-adapter" and not ip_adapter:
        raise UserError(
            "image_mode=ip-adapter takes an IP-Adapter, and none is loaded; give one with --ip-adapter FILE"
        )
    for route in ROUTES:
        if route == mode:
            return route
    if encoder_kind == "rgb":
        return "sparsectrl"
    return "ip-adapter" if ip_adapter else "latents"


@dataclass(frozen=True)
class MovingPictures:
    """Pictures by frame, as they were given, and the route that they take."""

    pictures: Mapping[int, Image.Image]
    """Negative frames count from the end."""
    route: Route

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first picture."""
        return next(iter(self.pictures.values())).size

    def joined(self, conditions: Any, indices: Sequence[int]) -> tuple[Any, Sequence[int]]:
        """Conditions and indices of SparseCtrl with these pictures added."""
        if self.route != "sparsectrl":
            return conditions, indices
        if conditions is None:
            return list(self.pictures.values()), list(self.pictures)
        listed = list(conditions) if isinstance(conditions, Sequence) else [conditions]
        return [*listed, *self.pictures.values()], [*indices, *self.pictures]

    def at_frames(self, num_frames: int) -> dict[int, Image.Image]:
        """The pictures by frame from 0. Raises UserError for a frame beyond the clip, or with two pictures."""
        frames = frame_indices(list(self.pictures), len(self.pictures), num_frames)
        return dict(zip(frames, self.pictures.values(), strict=True))

    def hold(self, vae: Any, noise: Tensor, size: tuple[int, int]) -> Hold:
        """What holds the frames to them. noise: (b, c, f, h, w), on the device of the clip; size: (height, width)."""
        placed = self.at_frames(noise.shape[2])
        pixels = np.stack([np.asarray(fit(picture, size[1], size[0])) for picture in placed.values()])
        stacked = rearrange(torch.from_numpy(pixels), "n h w c -> n c h w").float() / 255
        latents = rearrange(encode_pictures(vae, stacked, noise.device), "n c h w -> 1 c n h w")
        known = between(latents, list(placed), noise.shape[2]).expand(noise.shape)
        return Hold(known=known, noise=noise, shares=hold_shares(noise.shape[2], list(placed)))


def moving_pictures(images: Any, mode: str | None, pipe: Any) -> MovingPictures | None:
    """The pictures of a call, a single one for frame 0 or a mapping of frames to pictures; None without any.

    Says which route they take. Raises UserError for what is no picture, and as `choose_route`.
    """
    if images is None:
        if mode is not None:
            raise UserError(f"image_mode={mode} is given, but no picture; add images={{0: picture}} (--image FILE)")
        return None
    given = images if isinstance(images, Mapping) else {0: images}
    pictures: dict[int, Image.Image] = {}
    for frame, picture in given.items():
        if isinstance(picture, np.ndarray) and picture.dtype == np.uint8:
            picture = Image.fromarray(picture)
        if not isinstance(picture, Image.Image):
            raise UserError(
                f"images takes PIL images or uint8 arrays (h, w, 3), one or {{frame: picture}}, not "
                f"{type(picture).__name__}; open files with PIL.Image.open"
            )
        pictures[frame] = on_white(picture)
    if not pictures:
        raise UserError("images is empty: give at least one picture, or leave it out")
    kind = pipe.sparsectrl.kind if pipe.sparsectrl is not None else None
    route = choose_route(mode, kind, has_ip_adapter(pipe.unet))
    count = "1 picture" if len(pictures) == 1 else f"{len(pictures)} pictures"
    logger.info("%s by way of %s", count, ROUTES[route])
    return MovingPictures(pictures, route)


def adapter_states(
    image: Any,
    pictures: Any,
    shown: MovingPictures | None,
    num_frames: int,
    num_clips: int,
    *,
    guidance: bool,
    device: torch.device,
) -> list[Tensor]:
    """What the IP-Adapters of a pipeline see: `pictures`, or those that are shown, which it goes through with the clip.

    Raises UserError as `picture_states`.
    """
    if pictures is None and shown is not None and has_ip_adapter(image.unet):
        placed = shown.at_frames(num_frames)
        return travelling_states(image, placed, num_frames, num_clips, guidance=guidance, device=device)
    return picture_states(image, pictures, num_clips, guidance=guidance, device=device)
