"""Stage `motion`: the motion modules, in an image model that stays as it is (arXiv 2307.04725, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from animatediff.bundled import is_bundled
from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionNumerics
from animatediff.training.stages.base import Stage
from animatediff.weights.families import FAMILIES, Family, Recommended
from animatediff.weights.motion import original_tensors, tables_in
from animatediff.weights.storage.files import save_tensors

if TYPE_CHECKING:
    from animatediff.training.config import TrainConfig


class MotionStage(Stage):
    """All motion modules. The output projections of new ones are zero, so that training starts as the image model."""

    file_name = "motion_module.safetensors"
    family: Family

    def build(self) -> dict[str, nn.Parameter]:
        config, pipe = self.config, self.pipe
        recommended = self._recommended()
        if config.start_from is not None:
            found = pipe.load_motion_module(config.start_from)
            self.module_betas = found.betas
            self.betas = self.betas or found.betas
            self.family = replace(found, betas=self.betas, recommended=recommended)
            assert pipe.attachment is not None
            adapter = pipe.attachment.adapter
            if adapter.conv_in is not None:
                raise UserError(
                    f"{config.start_from}: its first layer sees an image beside the noise (PIA), and no stage shows it "
                    "one; start from another motion module"
                )
            if config.norm is not None:
                adapter.set_motion_norm(over_frames=config.norm == "over-frames")
                self.family = replace(self.family, numerics=adapter.numerics)
        else:
            numerics = MotionNumerics(
                image_norm_over_frames=config.image_norm_over_frames,
                motion_norm_over_frames=config.norm == "over-frames",
                max_positions=config.max_positions,
            )
            self.family = replace(
                FAMILIES["custom"],
                numerics=numerics,
                betas=self.betas,
                recommended=recommended,
                norm_groups=pipe.unet.config["norm_num_groups"],
            )
            adapter = MotionAdapter.from_unet(pipe.unet, mid_block=config.mid_block, numerics=numerics)
        check_positions(config, self.family, str(config.start_from))
        self.module_betas = self.betas or self.module_betas  # which the file states as its family's
        pipe.set_motion_adapter(adapter, self.family)
        load_domain_adapter(self)
        adapter.float()
        return {name: value for name, value in adapter.named_parameters() if not name.startswith("img_encoder.")}

    def _recommended(self) -> Recommended:
        data, validation = self.config.data, self.config.validation
        return Recommended(
            num_frames=data.num_frames,
            num_inference_steps=validation.num_inference_steps,
            guidance_scale=validation.guidance_scale,
            height=data.height,
            width=data.width,
        )

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        assert self.pipe.attachment is not None
        tables = tables_in(self.pipe.attachment.adapter)
        state = original_tensors(self.out_dtype(tensors), self.family.numerics.max_positions, tables)
        save_tensors(path, state, {**self.family.metadata(), **metadata})


def load_domain_adapter(stage: Stage) -> None:
    """Put the frozen domain adapter of the configuration, if any, into the image layers."""
    if (adapter := stage.config.domain_adapter) is not None:
        stage.pipe.load_lora_weights(adapter.path, adapter_name="domain_adapter", scale=adapter.scale)


def missing_motion_module(config: TrainConfig) -> UserError:
    """The error for a stage that builds on a motion module which is not named."""
    return UserError(
        f"motion_module is missing: the stage {config.stage} builds on a trained one; name its file "
        "(v3_sd15_mm.ckpt, mm_sd_v15_v2.ckpt, or one that the stage motion has saved)"
    )


def check_positions(config: TrainConfig, family: Family, source: str) -> None:
    """Raise UserError for clips of more frames than the motion module, from `source`, knows positions of."""
    if config.data.num_frames > (limit := family.numerics.max_positions):
        raise UserError(
            f"data.num_frames={config.data.num_frames}: {source} knows {limit} frame positions; "
            "train on at most as many frames"
        )


def load_frozen_motion(stage: Stage) -> Family:
    """Plug in the motion module that a stage builds on; the noise schedule becomes the one it was trained with.

    Raises UserError if none is named and the image model is not the bundled one.
    """
    config = stage.config
    source = config.motion_module
    if source is None:
        if not is_bundled(config.model):
            raise missing_motion_module(config)
        source = "bundled"
    family = stage.pipe.load_motion_module(source)
    check_positions(config, family, source)
    stage.module_betas = family.betas
    load_domain_adapter(stage)
    return family
