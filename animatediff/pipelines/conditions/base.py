"""Interface of conditions: ways of conditioning a clip besides its prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.frames import frame_indices
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.parts import LoadedParts
from animatediff.sampling import Control, Schedule
from animatediff.sampling.camera import CameraPoses
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.image_features import ImageFeatures
from animatediff.sampling.keep_frames import KeepFrames
from animatediff.sampling.motion_from import MotionSource

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Suggestion:
    """Length and shape of a clip that follow from a condition where the call leaves them open."""

    size: tuple[int, int]
    """(width, height) in pixels whose proportions the clip takes."""
    num_frames: int | None = None
    exact: bool = False
    """Whether the size itself is taken, not its proportions alone."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Circumstances in which a condition is prepared."""

    parts: LoadedParts
    clip: ClipShape
    schedule: Schedule
    """Timesteps that will be sampled."""
    noise: Tensor
    """(b, c, f, h, w)."""
    generators: Sequence[torch.Generator]
    """One a clip, behind the draw of the noise."""
    guidance: bool
    empty_prompt: Callable[[int], Conditioning]
    """Conditioning of so many clips by an empty prompt alone."""
    device: torch.device
    callbacks: Callbacks


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Contribution of a condition to sampling."""

    controls: Sequence[Control] = ()
    """Sources of residuals, asked at each call of the UNet."""
    image_embeds: Sequence[Tensor] = ()
    """Image embeddings, one tensor an IP-Adapter: (b, 1 or f, ...), with guidance the negative ones first."""
    features: ImageFeatures | None = None
    """Features of an image for the down blocks of the UNet."""
    image_channels: Tensor | None = None
    """(b, c, f, h, w) channels behind the noisy latents, of motion modules with a first layer for them."""
    init_latents: Tensor | None = None
    """(b, c, f, h, w) latents that sampling begins with, noised."""
    keep: KeepFrames | None = None
    """Latent replacement at known frames."""
    camera: CameraPoses | None = None
    """Camera poses, for the motion modules."""
    motion: MotionSource | None = None
    """Videos whose movement the clips take."""


class Condition:
    """Base of a condition of a clip besides its prompt, made from a call's arguments; one in each file here."""

    suggestion: Suggestion | None = None
    """Size and length that the clip takes where the call leaves them open."""
    num_frames: int | None = None
    """Frames of the clip where neither the call nor a suggestion says it."""
    max_frames: int | None = None
    """Frames that the condition can see at once, where it is limited."""
    strength: float = 1.0
    """Fraction of the steps that are made; less than 1 begins with latents that the condition prepares."""

    def fitted(self, clip: ClipShape) -> Self:
        """The condition for a clip of this shape. Raises UserError if it does not fit; nothing is computed."""
        return self

    def check_steps(self, timesteps: Tensor) -> None:
        """Raise UserError where the condition acts in none of the steps of a call, though it is to act."""
        return

    def networks(self) -> Sequence[torch.nn.Module]:
        """Networks that must be on the device while the clip is sampled."""
        return ()

    def prepare(self, setting: Setting) -> Prepared:
        """Compute the contribution to sampling, once a clip."""
        return Prepared()


@dataclass
class PreparedConditions:
    """Contributions of all conditions, joined."""

    controls: list[Control] = field(default_factory=list)
    image_embeds: list[Tensor] = field(default_factory=list)
    features: ImageFeatures | None = None
    image_channels: Tensor | None = None
    init_latents: Tensor | None = None
    keep: KeepFrames | None = None
    camera: CameraPoses | None = None
    motion: MotionSource | None = None


def prepare_all(conditions: Sequence[Condition], setting: Setting) -> PreparedConditions:
    """Prepare conditions, in order."""
    joined = PreparedConditions()
    for condition in conditions:
        prepared = condition.prepare(setting)
        joined.controls += prepared.controls
        joined.image_embeds += prepared.image_embeds
        joined.features = joined.features if prepared.features is None else prepared.features
        joined.image_channels = joined.image_channels if prepared.image_channels is None else prepared.image_channels
        joined.init_latents = joined.init_latents if prepared.init_latents is None else prepared.init_latents
        joined.keep = joined.keep if prepared.keep is None else prepared.keep
        joined.camera = joined.camera if prepared.camera is None else prepared.camera
        joined.motion = joined.motion if prepared.motion is None else prepared.motion
    return joined


def at_frames(images: Mapping[int, Any], num_frames: int) -> dict[int, Any]:
    """Images by frame from 0. Raises UserError for a frame beyond the clip, or with two images."""
    frames = frame_indices(list(images), len(images), num_frames)
    return dict(zip(frames, images.values(), strict=True))


@contextmanager
def on_device(networks: Sequence[Any], device: torch.device) -> Iterator[None]:
    """Bring SparseCtrl encoders and ControlNets to `device` for a while, where a pipeline keeps them elsewhere."""
    homes = [network.device for network in networks]
    try:
        for network in networks:
            network.to(device)
        yield
    finally:
        for network, home in zip(networks, homes, strict=True):
            network.to(home)
