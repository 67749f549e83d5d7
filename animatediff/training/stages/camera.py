"""Stage `camera`: a CameraCtrl model, which lets a trained motion model follow a path of the camera (arXiv 2404.02101).

Encoder and merge layers train, all else is frozen. New merge layers are zero, so that training begins as the motion
model alone. Clips bring the path that they were filmed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff.bundled import named
from animatediff.camera import CameraPath
from animatediff.camera.path import INTRINSICS
from animatediff.models.camera import CameraConfig, CameraCtrl
from animatediff.motion import MotionAdapter
from animatediff.training.models import base_pipeline
from animatediff.training.objective import ClipLoss, Objective
from animatediff.training.stages.base import Stage
from animatediff.training.stages.motion import load_frozen_motion
from animatediff.weights.cameractrl import config_metadata, groups_of, load_cameractrl, original_entries
from animatediff.weights.storage.files import save_tensors

if TYPE_CHECKING:
    from animatediff.training.data import Batch

FEWEST_POSITIONS = 16
"""Positions that a new encoder has at least, as the published one."""


class CameraLoss(ClipLoss):
    """The loss of a UNet whose motion modules take camera poses."""

    def __init__(
        self, unet: nn.Module, objective: Objective, frames: Any, control: CameraCtrl, adapter: MotionAdapter
    ) -> None:
        super().__init__(unet, objective, frames)
        self.control = control
        self._adapter = (adapter,)  # its modules are the UNet's

    def residuals(
        self, t: Tensor, embeddings: Tensor, added: Mapping[str, Tensor] | None, num_frames: int, **inputs: Tensor
    ) -> dict[str, Any]:
        """Tell the motion modules the poses; the UNet gets nothing. inputs: `rays` (b, 6, f, H, W)."""
        assert self.frames is not None
        # It stays until the next call: gradient checkpointing runs the modules again in the backward pass.
        self.frames.camera = self.control.at_modules(self._adapter[0], self.control.tokens(inputs["rays"]))
        return {}


class CameraStage(Stage):
    """Pose encoder and merge layers; the UNet, its motion modules and its domain adapter stay as they are."""

    file_name = "camera_control.safetensors"

    def build(self) -> dict[str, nn.Parameter]:
        config, pipe = self.config, self.pipe
        self.family = load_frozen_motion(self)
        assert pipe.attachment is not None
        layout, factor = pipe.attachment.adapter.layout, base_pipeline(pipe).vae_scale_factor
        if config.start_from is None:
            positions = max(FEWEST_POSITIONS, config.data.num_frames)
            control = CameraCtrl(CameraConfig.of(layout, factor=factor, max_positions=positions))
        else:
            control = load_cameractrl(named(config.start_from), layout=layout)
        pipe.set_camera_control(control.float())
        self.control = control.train()
        return dict(self.control.named_parameters())

    def module(self, objective: Objective) -> nn.Module:
        assert self.pipe.attachment is not None
        return CameraLoss(self.pipe.unet, objective, self.frames, self.control, self.pipe.attachment.adapter)

    def inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        height, width = self.config.data.height, self.config.data.width
        rays = [path.rays(height, width) for path in paths_of(batch)]
        return {"rays": torch.cat(rays).to(latents.device)}

    def validation_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Tensor]:
        return self.inputs(batch, latents)

    def render_inputs(self, batch: Batch, latents: Tensor) -> dict[str, Any]:
        return {"camera": paths_of(batch)[0]}

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        state = original_entries(self.out_dtype(tensors), self.control)
        save_tensors(path, state, {**config_metadata(self.control.config), **metadata}, groups=groups_of(state))


def paths_of(batch: Batch) -> list[CameraPath]:
    """The path of each clip of a batch."""
    poses = batch.get("poses")
    assert poses is not None, "the configuration asks for clips with paths"
    intrinsics = torch.tensor([INTRINSICS], dtype=torch.float64).repeat(poses.shape[1], 1)
    return [CameraPath(to_world=one, intrinsics=intrinsics) for one in poses]
