"""AnimateLCM-I2V: one image that the whole clip starts from, as features in the down blocks of the UNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.media.images import covered
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting
from animatediff.pipelines.vae import drawn_latents
from animatediff.sampling.image_features import ImageFeatures

if TYPE_CHECKING:
    from typing_extensions import Self

    from animatediff.motion.image_encoder import ImageEncoder


SEEDS = 2**64
"""Number of seeds that a generator takes."""


@dataclass(frozen=True, kw_only=True)
class I2VCondition(Condition):
    """An image, and how much the clip moves."""

    encoder: ImageEncoder
    image: Image.Image | Tensor
    """Tensors are latents (1 or b, c, h, w), scaled."""
    motion_scale: float
    enlarged: bool
    """Whether the clip is sampled again in another size."""

    @classmethod
    def of(cls, call: Arguments, encoder: Any, images: Mapping[int, Image.Image | Tensor]) -> I2VCondition:
        """The image of a call, for the encoder of the loaded motion modules.

        Raises UserError for one at another frame than the first.
        """
        ((frame, image),) = images.items()
        if frame != 0:
            raise UserError(
                f"AnimateLCM-I2V starts a clip from its image, at frame 0; got one for frame {frame}: give another "
                "`image_mode`, sparsectrl or latents"
            )
        return cls(
            encoder=encoder,
            image=image,
            motion_scale=call.image_motion_scale,
            enlarged=call.upscale is not None,
        )

    def fitted(self, clip: ClipShape) -> Self:
        if isinstance(self.image, Tensor):
            shape, size = tuple(self.image.shape), clip.latent_size
            if shape[0] not in (1, clip.num_clips) or shape[2:] != size:
                raise UserError(
                    f"images: latents must be (1 or {clip.num_clips}, {clip.channels}, {size[0]}, {size[1]}) for this "
                    f"call, got {shape}"
                )
            if self.enlarged:
                raise UserError("images: latents are of one size, and `upscale` samples in two; give the image itself")
        return self

    def networks(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def prepare(self, setting: Setting) -> Prepared:
        latents = self.image if isinstance(self.image, Tensor) else self._encoded(self.image, setting)
        features = ImageFeatures(
            encoder=self.encoder, latents=latents.to(setting.device), motion_scale=self.motion_scale
        )
        return Prepared(features=features)

    def _encoded(self, image: Image.Image, setting: Setting) -> Tensor:
        """Latents (1 or b, c, h, w): draws of the VAE's distribution, as the module was trained with.

        Their noise is of a stream of its own beside the clip's (its seed and 1), so that the steps have the noise of a
        clip without an image. The original draws it from torch's own stream, which no seed of a call sets.
        """
        pixels = np.asarray(covered(image, setting.clip.width, setting.clip.height))
        images = rearrange(torch.from_numpy(np.array(pixels)), "h w c -> 1 c h w").float() / 255
        own = {
            id(generator): torch.Generator().manual_seed((generator.initial_seed() + 1) % SEEDS)
            for generator in setting.generators
        }
        streams = [own[id(generator)] for generator in setting.generators]
        return drawn_latents(setting.parts.vae, images, setting.device, streams)
