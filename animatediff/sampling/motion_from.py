"""Movement of a video, laid over the clip inside the motion modules, without its looks.

At each step that it acts in, the video is noised and goes through the UNet by itself, with an empty prompt. What the
temporal attention of a motion module adds there, less its mean over the frames, is how the video changes from frame to
frame; what is the same in all frames, most of the looks, is gone with the mean (as in MOFT, arXiv 2405.14864, section
3.2). This change is added in the same module of the clip (injection, as AnyV2V, arXiv 2403.14468, does with whole
features). Negative prompts go without, so that guidance strengthens the movement as it strengthens the prompt.

The video has the clip's own noise: a motion module brings together what noise tells apart, and does so for the clip as
well. Other choices that were measured moved less, or lost the object (docs/motion_from.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from einops import rearrange
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionModule
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.edm import is_edm
from animatediff.sampling.schedulers import full_config

ALL = "all"
BLOCKS = ("down", "mid", "up")
"""Sides of the UNet whose motion modules a movement can be taken from."""
NOISIEST = 0.6
"""Most noise on the video, as a share of the timesteps of training: in more, little is seen of its movement."""


class PredictAlone(Protocol):
    """Calls the UNet on clips without any condition but their prompts."""

    def __call__(
        self, latents: Tensor, timestep: Tensor, frames: Sequence[int], given: Conditioning, *, residuals: Residuals
    ) -> Tensor: ...


class Residuals(Protocol):
    """Sees what each motion module adds in a call of the UNet, (b*f, c, h, w), and may return something else."""

    def __call__(self, module: MotionModule, residual: Tensor, num_frames: int) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class MotionSource:
    """The videos of a call whose movement is taken, one a clip."""

    latents: Tensor
    """(b, c, f, h, w), scaled."""
    noise: Tensor
    """Noise of the clips, of the same shape."""
    given: Conditioning
    """An empty prompt for each of them."""
    modules: Collection[MotionModule]
    alphas_cumprod: Tensor
    """(T,) share of signal at each timestep of training."""
    active: Container[float]
    """Timesteps of the sampler at which it acts."""
    strength: float

    def over(
        self, predict: PredictAlone, timestep: Tensor, frames: Sequence[int], given: Conditioning
    ) -> Residuals | None:
        """What acts in a call of the UNet for these frames and rows of the call; None where nothing does.

        predict: calls the UNet on the videos, once.
        """
        rows = range(given.num_negative, len(given.clips))
        if float(timestep) not in self.active or not rows:
            return None
        clips = list(dict.fromkeys(given.clips[row] for row in rows))
        seen = _Seen(self.modules)
        latents, at = self.noised(float(timestep), clips)
        predict(latents[:, :, list(frames)], at.to(timestep), frames, self._beside(given, clips), residuals=seen)
        return _Moved(seen.changes, {row: clips.index(given.clips[row]) for row in rows}, self.strength)

    def _beside(self, given: Conditioning, clips: list[int]) -> Conditioning:
        """The empty prompts, with what else this UNet takes beside a prompt; IP-Adapters are shown nothing."""
        count, inside = len(clips), given.guidance_embeds
        return replace(
            self.given.of(clips),
            image_embeds=[part.new_zeros(count, 1, *part.shape[2:]) for part in given.image_embeds],
            guidance_embeds=None if inside is None else inside[:1].expand(count, -1),
        )

    def noised(self, timestep: float, clips: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Videos of some clips (n, c, f, h, w) as the UNet takes them at a timestep, and the timestep of their noise.

        With no more noise than `NOISIEST`: models of zero terminal SNR would see none of them in their first step.
        """
        most = len(self.alphas_cumprod) - 1
        at = min(timestep, round(NOISIEST * most))
        low = int(at)  # samplers of sigmas have timesteps between those of training
        signal = torch.lerp(self.alphas_cumprod[low], self.alphas_cumprod[min(low + 1, most)], at - low)
        signal = signal.to(self.latents)
        rows = list(clips)
        return signal.sqrt() * self.latents[rows] + (1 - signal).sqrt() * self.noise[rows], torch.tensor(at)


@dataclass
class _Seen:
    """Notes how the residual of each module changes over the frames."""

    modules: Collection[MotionModule]
    changes: dict[MotionModule, Tensor] = field(default_factory=dict)
    """Module -> (n, f, c, h, w)."""

    def __call__(self, module: MotionModule, residual: Tensor, num_frames: int) -> Tensor:
        if module in self.modules:
            self.changes[module] = _change(rearrange(residual, "(b f) c h w -> b f c h w", f=num_frames))
        return residual


@dataclass
class _Moved:
    """Adds the changes of the videos to some rows of a batch."""

    changes: dict[MotionModule, Tensor]
    rows: dict[int, int]
    """Row of the batch -> which video it follows."""
    strength: float

    def __call__(self, module: MotionModule, residual: Tensor, num_frames: int) -> Tensor:
        change = self.changes.get(module)
        if change is None:
            return residual
        clips = rearrange(residual, "(b f) c h w -> b f c h w", f=num_frames).clone()
        rows = list(self.rows)
        clips[rows] = clips[rows] + self.strength * change[list(self.rows.values())]
        return clips.flatten(0, 1)


def _change(residual: Tensor) -> Tensor:
    """A residual (b, f, c, h, w) less its mean over the frames."""
    return residual - residual.mean(1, keepdim=True)


def chosen_modules(adapter: MotionAdapter, blocks: str) -> list[MotionModule]:
    """The motion modules that `blocks` names: sides of the UNet or blocks there, such as `down, up` or `up.1`.

    Raises UserError for a name that is none, and for a block that has no motion modules.
    """
    by_block = {_short(name): list(modules) for name, modules in adapter.modules_by_block()}
    found: list[Any] = []
    for name in filter(None, re.split(r"[\s,]+", blocks)):
        own = [modules for block, modules in by_block.items() if name in (ALL, block, block.partition(".")[0])]
        if not own:
            known = [block for block, modules in by_block.items() if modules]
            raise UserError(
                f"`motion_from_blocks`: no motion modules stand in {name!r}; this model has them in "
                f"{', '.join(side for side in BLOCKS if any(block.startswith(side) for block in known))}, block by "
                f"block {', '.join(sorted(known))}"
            )
        found += [module for modules in own for module in modules if module not in found]
    if not found:
        raise UserError("`motion_from_blocks` names no block; give all, down, mid or up")
    return found


def _short(name: str) -> str:
    """`up_blocks.1` -> `up.1`, `mid_block` -> `mid`."""
    return re.sub(r"_blocks?", "", name)


def signal_shares(scheduler: Any) -> Tensor:
    """Share of signal at each timestep of training, (T,), of the model that a scheduler samples.

    Raises UserError for a model that was not trained on a table of betas.
    """
    shares = getattr(scheduler, "alphas_cumprod", None)
    if is_edm(full_config(scheduler)) or not isinstance(shares, Tensor):
        raise UserError(
            "`motion_from` noises a video as the base model was trained, by a table of betas, and this one was trained "
            "on EDM noise levels; let ControlNets carry the movement, or begin with the video (`video`)"
        )
    return shares.float().cpu()
