"""PIA (arXiv 2312.13964): an image at any frame of the clip, beside the noise of all frames, and an affinity mask."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from animatediff.errors import UserError
from animatediff.frames import Curve
from animatediff.media.images import fit
from animatediff.motion import image_channels
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting, at_frames
from animatediff.pipelines.conditions.routes import Loaded, is_chosen
from animatediff.pipelines.vae import drawn_latents
from animatediff.sampling.affinity import DEFAULT_AMOUNT, affinity_mask

if TYPE_CHECKING:
    from typing_extensions import Self

    from animatediff.pipelines.conditions.image import ImageCondition
    from animatediff.pipelines.parts import LoadedParts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PIACondition(Condition):
    """An image, the frame that shows it, and how like it the other frames are."""

    image: Image.Image
    frame: int
    """Negatives count from the end."""
    amount: str = DEFAULT_AMOUNT
    """A name in `MOTION_AMOUNTS`."""
    affinity: Curve | None = None
    """Affinity of each frame, in place of the preset."""
    strength: float = 1.0
    begins: bool = False
    """Whether sampling begins with the image, noised, at every frame."""
    mask: tuple[float, ...] = ()
    """Affinity of each frame; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, images: ImageCondition | None, parts: LoadedParts) -> PIACondition | None:
        """The image of a call that goes by this route; says where PIA is loaded and sees none.

        Raises UserError for a preset and a mask of its own at once.
        """
        if images is None or images.route != "pia":
            if Loaded.of(parts).first_layer and not is_chosen(call.image_mode):
                given = "none is given; add `images`" if images is None else f"{len(images.images)} are given"
                logger.warning("PIA animates one image, and %s: its motion module sees none", given)
            return None
        if parts.sparsectrl_kind == "rgb" and call.conditioning_frames is None:
            logger.warning(
                "the SparseCtrl encoder has no effect: PIA shows the image; `image_mode` sparsectrl is for the encoder"
            )
        if call.motion_amount not in (None, DEFAULT_AMOUNT) and call.image_affinity is not None:
            raise UserError(
                "`motion_amount` names a preset, and `image_affinity` is a mask of your own; give one of the two"
            )
        ((frame, image),) = images.images.items()
        assert isinstance(image, Image.Image), "latents are for another route"
        begins = call.strength is not None and call.strength < 1 and call.video is None and call.latents is None
        return cls(
            image=image,
            frame=frame,
            amount=call.motion_amount or DEFAULT_AMOUNT,
            affinity=call.image_affinity,
            strength=call.strength if begins and call.strength is not None else 1.0,
            begins=begins,
        )

    def fitted(self, clip: ClipShape) -> Self:
        (frame,) = at_frames({self.frame: self.image}, clip.num_frames)
        return replace(self, mask=tuple(affinity_mask(self.amount, self.affinity, clip.num_frames, frame)))

    def prepare(self, setting: Setting) -> Prepared:
        assert self.mask, "fitted before"
        clip, device = setting.clip, setting.device
        pixels = torch.from_numpy(np.asarray(fit(self.image, clip.width, clip.height)).copy())
        image = rearrange(pixels, "h w c -> 1 c h w").float() / 255
        latents = drawn_latents(setting.parts.vae, image, device, setting.generators)  # (1 or b, c, h, w)
        shown = latents[:, :, None].expand(clip.latents)
        return Prepared(
            image_channels=image_channels(torch.tensor(self.mask, device=device), shown),
            init_latents=shown if self.begins else None,
        )
