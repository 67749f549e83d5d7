"""SparseCtrl as a control of the host: residuals for every frame, from images at some frames of the clip."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import torch
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from einops import repeat
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.models.residuals import Residuals
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.weights.sparsectrl import empty_sparsectrl, load_sparsectrl

from .conditions import encoded, sized
from .layers import Holder, in_host, weight_dtype
from .messages import in_host_words
from .windows import CLIP_FRAMES, current_frames


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded SparseCtrl encoder: its weights as a model of the host."""

    patcher: ModelPatcher
    path: Path

    @property
    def network(self) -> SparseCtrl:
        """The encoder, whose weights are the host's to move."""
        return self.patcher.model.network


def check_encoder(path: Path) -> None:
    """Raise UserError for a file that `load_encoder` would refuse; reads its header alone."""
    network, _ = empty_sparsectrl(path)
    if network.add_embedding is not None:
        raise UserError(
            f"{path}: a SparseCtrl encoder for SDXL, which these nodes do not run; `animatediff animate` does"
        )


def load_encoder(path: Path) -> Encoder:
    """Load a SparseCtrl encoder. Raises UserError as `load_sparsectrl`, and for one of SDXL."""
    check_encoder(path)
    return Encoder(patcher=in_host(Holder(load_sparsectrl(path, dtype=weight_dtype()))), path=path)


class SparseControl(ControlBase):
    """SparseCtrl in the conditioning of the host, beside and between other ControlNets."""

    def __init__(self, encoder: Encoder, images: Tensor, indices: Sequence[int]) -> None:
        """images: (n, h, w, 3) in 0..1; indices: a frame of the clip for each, negatives from the end."""
        super().__init__()
        self.encoder, self.indices = encoder, tuple(indices)
        self.cond_hint_original = images
        self.model: Any = None
        """The model that is sampled, while it is."""
        self.embedded: Tensor | None = None
        """(n + 1, d, h, w): the images as the encoder embeds them, and behind them a frame without one."""

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """The host calls this once before each sampling."""
        super().pre_run(model, percent_to_timestep_function)
        self.model = model
        with in_host_words():
            self._check(model.diffusion_model)

    def cleanup(self) -> None:
        """The host calls this behind each sampling."""
        super().cleanup()
        self.model = self.embedded = None

    def get_models(self) -> list[ModelPatcher]:
        """What the host loads before it samples: the encoder, and the networks of the controls before this one."""
        return [*super().get_models(), self.encoder.patcher]

    def copy(self) -> SparseControl:
        """The same control, to be set otherwise."""
        other = SparseControl(self.encoder, self.cond_hint_original, self.indices)
        self.copy_to(other)
        return other

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: dict[str, Any], batched_number: int, transformer_options: dict[str, Any]
    ) -> Any:
        """The residuals of all controls for one call of the UNet. x_noisy: (b*f, c, h, w); None where none acts."""
        before = self.previous_controlnet
        merged = None if before is None else before.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and not self.timestep_range[1] <= float(t[0]) <= self.timestep_range[0]:
            return merged
        residuals = self._residuals(x_noisy, t, cond, len(x_noisy) // batched_number, transformer_options)
        if residuals is None:
            return merged
        control = {"middle": [residuals.mid], "output": list(residuals.down)}
        return self.control_merge(control, merged, output_dtype=None)

    def _residuals(
        self, x: Tensor, t: Tensor, cond: dict[str, Any], num_frames: int, options: dict[str, Any]
    ) -> Residuals | None:
        """None where the window of frames has no image."""
        total = options.get(CLIP_FRAMES, num_frames)
        with in_host_words():
            keyframes = frame_indices(self.indices, len(self.cond_hint_original), total)
        none = len(keyframes)
        places = {frame: place for place, frame in enumerate(keyframes)}
        found = [places.get(frame, none) for frame in current_frames(options, num_frames)]
        if min(found) == none:
            return None
        dtype = self.model.get_dtype_inference()
        if self.embedded is None or self.embedded.shape[-2:] != x.shape[-2:]:
            self.embedded = self._embed(x, dtype)
        embedded = self.embedded[torch.tensor(found, device=self.embedded.device)]
        text = cond.get("crossattn_controlnet", cond["c_crossattn"])
        return self.encoder.network.residuals(
            repeat(embedded, "f d h w -> (b f) d h w", b=len(x) // num_frames),
            self.model.model_sampling.timestep(t).float(),
            comfy.model_management.cast_to_device(text, x.device, dtype),
            num_frames,
        )

    def _embed(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Bring the images to the size of the latents `x`, encode them where the encoder reads latents, embed them."""
        network = self.encoder.network
        height, width = x.shape[-2:]
        if network.kind == "rgb":
            images = encoded(self.cond_hint_original, self.vae, self.model, height, width)
        else:
            factor = network.sparse_config.factor
            images = sized(self.cond_hint_original, height * factor, width * factor)
        images = images.to(x.device, dtype)
        condition = torch.cat([images, torch.zeros_like(images[:1])])
        mask = torch.ones_like(condition[:, :1])
        mask[-1] = 0
        return network.embed(condition, mask)

    def _check(self, unet: nn.Module) -> None:
        network = self.encoder.network
        if network.kind == "rgb" and self.vae is None:
            raise UserError(f"{self.encoder.path.name} takes images: connect the VAE of the checkpoint to it")
        wide = [conv.out_channels for conv in (*network.controlnet_down_blocks, network.controlnet_mid_block)]
        skips = skip_channels(unet)
        if wide != skips:
            raise UserError(
                f"{self.encoder.path.name} does not fit this MODEL: it acts on {'-'.join(map(str, wide))} channels, "
                f"the model has {'-'.join(map(str, skips))}; a SparseCtrl encoder runs on the kind of base model it "
                "was trained on (SD 1.5 for the published ones)"
            )


def skip_channels(unet: Any) -> list[int]:
    """Channels of the skip connections of a UNet in LDM's names, and those in the middle."""
    found = []
    for block in unet.input_blocks:
        width = None
        for layer in block:
            width = getattr(layer, "out_channels", None) or getattr(layer, "in_channels", None) or width
        found.append(width)
    return [*found, found[-1]]


def with_control(conditioning: list[Any], control: SparseControl, copies: dict[Any, SparseControl]) -> list[Any]:
    """A conditioning of the host with a control in it, behind those that it has.

    copies: the controls made so far, by the one before: positive and negative get the same, so that the host can put
    both into one batch.
    """
    found = []
    for embeddings, settings in conditioning:
        before = settings.get("control")
        if before not in copies:
            copies[before] = control.copy()
            copies[before].set_previous_controlnet(before)
        found.append([embeddings, {**settings, "control": copies[before], "control_apply_to_uncond": False}])
    return found
