"""The stages of training, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from animatediff.training.stages.base import Stage

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.config import TrainConfig

__all__ = ["Stage", "make_stage"]


def make_stage(config: TrainConfig, pipe: AnimateDiffPipeline) -> Stage:
    """The stage that the configuration names, on a fresh pipeline. Raises UserError for files that do not fit."""
    from animatediff.training.stages.camera import CameraStage
    from animatediff.training.stages.image import ImageLoraStage, ImageStage
    from animatediff.training.stages.lora import AdapterStage, MotionLoraStage
    from animatediff.training.stages.motion import MotionStage
    from animatediff.training.stages.sparsectrl import SparseCtrlStage

    image = ImageStage if config.image_layers == "full" else ImageLoraStage
    stages: dict[str, type[Stage]] = {
        "adapter": AdapterStage,
        "motion": MotionStage,
        "motion_lora": MotionLoraStage,
        "sparsectrl": SparseCtrlStage,
        "camera": CameraStage,
        "image": image,
    }
    return stages[config.stage](config, pipe)
