"""SparseCtrl (arXiv 2311.16933): images or sketches at some frames of the clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from einops import rearrange
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.media.batches import clips_of, for_clips, stacked
from animatediff.media.images import LATENT_CHANNELS
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting
from animatediff.pipelines.conditions.controlnet import acting
from animatediff.pipelines.vae import encode_images
from animatediff.sampling.sparsectrl import SparseControl, check_images, embed

if TYPE_CHECKING:
    from typing_extensions import Self

    from animatediff.models.sparsectrl import SparseCtrl


@dataclass(frozen=True, kw_only=True)
class SparseCtrlCondition(Condition):
    """Images at frames of a clip, and how strongly and when they act."""

    encoder: SparseCtrl
    given: Any
    """Images as the call has them."""
    indices: Sequence[int]
    """Frames of the images; negatives count from the end."""
    scale: float
    start: float
    end: float
    guess: bool = False
    each: int = 1
    """Clips of each prompt."""
    max_frames: int | None = None
    images: Tensor | None = None
    """(1 or b, c, n, H, W) in 0..1, or latents; set when fitted."""
    frames: Sequence[int] = ()
    """From 0; set when fitted."""

    @classmethod
    def of(cls, call: Arguments, encoder: SparseCtrl | None, shown: dict[int, Any]) -> SparseCtrlCondition | None:
        """The conditioning frames of a call and, behind them, those that it shows by this route (`shown`).

        Raises UserError for images without an encoder, and settings out of range.
        """
        given, indices = call.conditioning_frames, list(call.controlnet_frame_indices)
        if given is None and not shown:
            return None
        if given is None:
            given, indices = list(shown.values()), list(shown)
        elif shown:
            listed = list(given) if isinstance(given, Sequence) else [given]
            given, indices = [*listed, *shown.values()], [*indices, *shown]
        if encoder is None:
            raise UserError(
                "conditioning_frames are given, but no SparseCtrl encoder that reads them; call load_sparsectrl, or "
                "load_controlnet for ControlNets"
            )
        (start, end, scale), *_ = acting(call, 1, "one SparseCtrl encoder")
        return cls(
            encoder=encoder,
            given=given,
            indices=indices,
            scale=scale,
            start=start,
            end=end,
            guess=call.guess_mode,
            each=call.num_videos_per_prompt or 1,
            max_frames=encoder.sparse_config.max_positions,
        )

    def fitted(self, clip: ClipShape) -> Self:
        height, width = clip.height, clip.width
        if self.encoder.kind == "scribble":
            height, width = (side * self.encoder.sparse_config.factor for side in clip.latent_size)
        images = stacked(clips_of(self.given), width, height, "conditioning_frames")
        images = for_clips(images, clip.num_clips, self.each, "images")
        frames = frame_indices(self.indices, images.shape[2], clip.num_frames)
        fitted = replace(self, images=images, frames=frames)
        if not fitted._wants_encoding:
            check_images(self.encoder, images, clip.latent_size, clip.num_clips)
        return fitted

    def networks(self) -> Sequence[nn.Module]:
        return (self.encoder,)

    def prepare(self, setting: Setting) -> Prepared:
        assert self.images is not None, "fitted before"
        images = self.images
        if self._wants_encoding:
            latents = encode_images(setting.parts.vae, rearrange(images, "b c n h w -> (b n) c h w"), setting.device)
            images = rearrange(latents, "(b n) c h w -> b c n h w", b=len(images))
        control = SparseControl(
            encoder=self.encoder,
            embedded=embed(self.encoder, images),
            keyframes=self.frames,
            scale=self.scale,
            active=setting.schedule.between(self.start, self.end),
            guess=self.guess,
        )
        return Prepared(controls=(control,))

    @property
    def _wants_encoding(self) -> bool:
        assert self.images is not None, "fitted before"
        return self.encoder.kind == "rgb" and self.images.shape[1] != LATENT_CHANNELS
