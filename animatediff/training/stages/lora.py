"""Stages `adapter` and `motion_lora`: LoRAs in the layouts of the published domain adapter and MotionLoRAs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from animatediff.training.stages.base import Stage
from animatediff.training.stages.lora_weights import SPATIAL, TEMPORAL, LoRA
from animatediff.training.stages.motion import load_frozen_motion
from animatediff.weights.storage.files import save_tensors


class AdapterStage(Stage):
    """The domain adapter: the look of single frames of the videos, so that the motion module need not learn it."""

    file_name = "domain_adapter.safetensors"

    def build(self) -> dict[str, nn.Parameter]:
        self.lora = LoRA(self.pipe.unet, SPATIAL, config=self.config, kinds=("domain_adapter",))
        self.loaded = self.lora.trained_with
        return self.lora.parameters

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        save_tensors(path, self.out_dtype(self.lora.original(tensors)), metadata)


class MotionLoraStage(Stage):
    """A MotionLoRA: one camera move or pattern of motion, on a trained motion module that stays as it is."""

    file_name = "motion_lora.safetensors"

    def build(self) -> dict[str, nn.Parameter]:
        self.family = load_frozen_motion(self)
        self.lora = LoRA(self.pipe.unet, TEMPORAL, config=self.config, kinds=("motion_lora",))
        self.loaded = self.lora.trained_with
        return self.lora.parameters

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        save_tensors(path, self.out_dtype(self.lora.original(tensors)), metadata)
