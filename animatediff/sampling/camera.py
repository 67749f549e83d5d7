"""Camera poses of one call: their features, as the motion modules take them at each call of the UNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from animatediff.models.camera import CameraCtrl
from animatediff.motion import CameraMerge, MotionAdapter, MotionModule

KEPT = 16
"""Windows whose features are kept over the steps; those of further ones are computed anew, a tenth of a UNet call."""


@dataclass(frozen=True, kw_only=True)
class CameraPoses:
    """A CameraCtrl model with the Plücker rays of a call's clips.

    A clip that fits the encoder's positions is encoded as a whole. Of a longer one, the frames of each call of the UNet
    are encoded by themselves, as the original does with its windows.
    """

    control: CameraCtrl
    adapter: MotionAdapter
    rays: Callable[[Sequence[int]], Tensor]
    """Frames of the clips -> their rays (1 or n, 6, f, H, W); those of all of a long clip would not fit into memory."""
    num_frames: int
    """Of the whole clip."""
    scale: float = 1.0
    follow_weights: bool = True
    """Whether rays come to the device and type of the weights; not where layers bring their weights to the input."""
    _kept: dict[tuple[int, ...], list[Tensor]] = field(default_factory=dict, init=False, repr=False)

    def merges(
        self, clips: Sequence[int], frames: Sequence[int], dtype: torch.dtype
    ) -> Mapping[MotionModule, CameraMerge]:
        """What each motion module takes in a call for these clips (one a row of its batch) and frames."""
        asked = tuple(frames)
        key = tuple(range(self.num_frames)) if self.num_frames <= self.control.config.max_positions else asked
        tokens = self._kept.get(key)
        if tokens is None:
            tokens = self._tokens(key, dtype)
            if len(self._kept) < KEPT:
                self._kept[key] = tokens
        if key != asked:
            index = torch.tensor(asked, device=tokens[0].device)
            tokens = [part.index_select(1, index) for part in tokens]
        if len(tokens[0]) > 1:
            tokens = [part[list(clips)] for part in tokens]
        return self.control.at_modules(self.adapter, tokens, self.scale)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the features that are kept."""
        return sum(part.numel() * part.element_size() for parts in self._kept.values() for part in parts)

    @torch.no_grad()
    def _tokens(self, frames: Sequence[int], dtype: torch.dtype) -> list[Tensor]:
        rays = self.rays(frames)
        if self.follow_weights:
            rays = rays.to(self.control.device, self.control.dtype)
        return [part.to(dtype) for part in self.control.tokens(rays)]
