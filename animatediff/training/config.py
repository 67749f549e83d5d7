"""The configuration of a training run: one for all stages, validated and frozen."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from animatediff.errors import UserError
from animatediff.render import WeightRef
from animatediff.render.request import Count, Name, Size
from animatediff.training.data.config import DataConfig
from animatediff.training.portable import without_folders

logger = logging.getLogger(__name__)

Stage = Literal["adapter", "motion", "motion_lora", "sparsectrl", "camera", "image"]
STAGES: tuple[Stage, ...] = ("adapter", "motion", "motion_lora", "sparsectrl", "camera", "image")
LrSchedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial"]
Logger = Literal["tensorboard", "wandb", "trackio"]

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Every = Annotated[int, BeforeValidator(lambda value: 0 if value == -1 else value), Field(ge=0)]
"""A number of steps; 0, and -1, is never."""

OLD_NAMES = {
    "accumulation": "gradient_accumulation_steps",
    "batch": "batch_size",
    "clip_norm": "max_grad_norm",
    "coarse_share": "curriculum_fraction",
    "coarse_stride": "curriculum_stride",
    "min_snr": "snr_gamma",
    "optimiser": "optimizer",
    "warmup": "warmup_steps",
}
"""Settings that had another name before -> their names now. Files and checkpoints with the old ones still work."""


def current_names(values: Mapping[Any, Any], where: str = "") -> tuple[dict[Any, Any], list[str]]:
    """Put settings under the names of today. Also returns the old names. Raises UserError for one given under both.

    >>> current_names({"batch": 2, "steps": 5})
    ({'batch_size': 2, 'steps': 5}, ['batch'])
    """
    old = [key for key in values if key in OLD_NAMES]
    for key in old:
        if OLD_NAMES[key] in values:
            raise UserError(
                f"{where}`{key}` is the old name of `{OLD_NAMES[key]}`, and both are given; leave `{key}` out"
            )
    return {OLD_NAMES.get(key, key): value for key, value in values.items()}, old


def warn_old_names(names: Iterable[str], where: str = "") -> None:
    """Log a warning for each old name of a setting that was used."""
    for name in sorted(names):
        logger.warning("%s`%s` is called `%s` now; the old name still works", where, name, OLD_NAMES[name])


def _listed(value: Any) -> Any:
    return () if value is None else value if isinstance(value, (list, tuple)) else [value]


def _with_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) and value.strip() else value or None


def _dashed(value: Any) -> Any:
    return value.replace("_", "-") if isinstance(value, str) else value


def _word(value: Any) -> Any:
    return "no" if value is False or value is None else value  # YAML reads a bare `no` as false


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValidationConfig(_Frozen):
    """Validation while a run goes on: videos of fixed prompts, and a loss on fixed clips."""

    prompts: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """One video (or image, where the stage has no motion) each; none is rendered where there are none."""
    negative_prompt: str = ""
    num_inference_steps: Count = 25
    guidance_scale: NotNegative = 7.5
    num_frames: Count | None = None
    """None, here and below, is the value of the data."""
    height: Size | None = None
    width: Size | None = None
    fps: Positive = 8
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig | None = None
    """Clips that training does not see, for the validation loss; None takes the first of the training data."""
    num_items: Annotated[int, Field(ge=0)] = 8
    """Clips that the validation loss is measured on; 0 measures none."""
    buckets: Count = 5
    """Equal parts of the schedule, each with a loss of its own."""


class TrainConfig(_Frozen):
    """Everything that decides a run. `docs/training.md` has a recipe for each stage."""

    stage: Stage
    model: Annotated[str, Field(min_length=1)] = "bundled"
    """Image model: single file, diffusers folder, hub id, "bundled", or a part of the bundled set ("bundled/neon").

    Names of that set, such as "bundled/sparsectrl_rgb", stand for files elsewhere too.
    """
    vae: Name = None
    unet: Name = None
    """UNet weights in diffusers names in place of the model's, such as an image_finetune run of the original saves."""
    motion_module: Name = None
    """Frozen motion module of the stages motion_lora, sparsectrl and camera; None is the bundled one on the bundled
    model."""
    domain_adapter: Annotated[WeightRef | None, BeforeValidator(_with_path)] = None
    """Frozen domain adapter in the image layers, as the motion module of v3 was trained with."""
    start_from: Name = None
    """Weights of this stage's kind to go on from, in place of new ones; in the stage motion also "bundled".
    In the stage sparsectrl an encoder of the other kind gives its body."""

    mid_block: bool = False
    """motion: whether a new motion module has a module in the mid block, as v2."""
    image_norm_over_frames: bool = False
    """motion: whether the GroupNorms of the image layers see all frames, as v1; otherwise per frame."""
    norm: Annotated[Literal["per-frame", "over-frames"] | None, BeforeValidator(_dashed)] = None
    """motion: GroupNorm of the motion modules, per-frame as the original, or over-frames as diffusers runs them all.

    None is that of `start_from`, else per-frame."""
    max_positions: Count = 32
    """motion: length of the position tables of a new motion module."""
    image_layers: Literal["full", "lora"] = "full"
    """image: train all weights of the UNet, or a LoRA."""
    new_unet: bool = False
    """image: begin with random weights in place of the model's: an image model from nothing."""
    lora_convolutions: bool = False
    """image: let a LoRA change the convolutions as well, as kohya's `conv_dim`: more of a style, in a larger file."""
    lora_format: Literal["kohya", "diffusers"] = "kohya"
    """image: key names of the LoRA."""
    rank: Count | None = None
    """Rank of LoRAs; None is as published: 128 for adapter, 64 for motion_lora, and 32 for image."""
    alpha: Positive | None = None
    """LoRAs act by alpha / rank; None is alpha = rank. Published files have none, so it is multiplied in on saving."""
    condition: Literal["rgb", "scribble"] = "rgb"
    """sparsectrl: the kind of condition: frames as images, or sketches of them."""
    max_conditions: Count = 4
    """sparsectrl: the most frames of a clip that the encoder is given."""

    data: DataConfig
    caption_dropout: Fraction = 0.1
    """Fraction of captions left out, so that guidance works."""
    curriculum_fraction: Fraction = 0.0
    """Temporal curriculum: the first part of the run, 0 to 1, trains on one frame in `curriculum_stride` alone.

    Wide motion comes first then, at less cost.
    """
    curriculum_stride: Annotated[int, Field(ge=1)] = 2
    workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that read data; None is 0 on a CPU and up to 8 with a GPU."""

    steps: Count
    """Updates of the weights."""
    batch_size: Count = 1
    """Clips that go through the model at once, in each process."""
    gradient_accumulation_steps: Count = 1
    """Batches whose gradients make one update."""
    learning_rate: Positive = 1e-4
    lr_schedule: LrSchedule = "constant"
    warmup_steps: Every = 0
    """Steps over which the learning rate rises from 0."""
    lr_floor: Fraction = 0.0
    """Fraction of the learning rate that the schedule does not go below."""
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.01
    max_grad_norm: Positive | None = 1.0
    """Gradients are scaled down to this norm."""
    ema: Decay | None = None
    """Decay of the averaged weights; where given, the averaged ones are saved and validated."""
    precision: Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_word)] = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    device: Literal["auto", "cpu"] = "auto"

    prediction: Literal["epsilon", "v_prediction"] | None = None
    """The target of the model's prediction; None is that of the image model."""
    zero_terminal_snr: bool | None = None
    """Whether the last noise level has no signal left (arXiv 2305.08891); None is as the image model says. Wants
    `prediction` v_prediction."""
    schedule: Literal["linear", "scaled_linear"] | None = None
    """Noise schedule (0.00085 to 0.012); None is the motion module's, else the image model's."""
    noise_offset: NotNegative = 0.0
    """Noise shared by all pixels and frames of a channel, so that clips may be dark or bright as a whole."""
    snr_gamma: Positive | None = None
    """Gamma of min-SNR weighting (arXiv 2303.09556)."""
    timestep_power: Positive = 1.0
    """Timesteps are 1000 * u ** power with u uniform: 1 is uniform, less favours the noisy half."""
    stratified: bool = False
    """One timestep in each of as many equal parts as an update has clips: less variance than independent draws."""

    out: Name = None
    """Folder of the run; None is outputs/{name of the configuration}."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    save_every: Every = 500
    keep: Count = 2
    """Checkpoints kept for resuming."""
    weights_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision of the weights that are saved for use; checkpoints keep all digits."""
    keep_weights: bool = False
    """Keep the weights of every save, in weights/, for comparison."""
    validate_every: Every = 0
    """Where there are prompts, also before step 1, for a video of the model as it was."""
    validate_at: Annotated[tuple[int, ...], BeforeValidator(_listed)] = ()
    """Further steps to validate at; 0 is before step 1."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    log_every: Count = 10
    log: Annotated[tuple[Logger, ...], BeforeValidator(_listed)] = ()
    """Trackers that take the metrics, beside the terminal and curve.jsonl."""

    _written: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def written(self) -> dict[str, str]:
        """Setting ("data.stride") -> the key that the user wrote it as, where that is another."""
        return self._written

    @model_validator(mode="before")
    @classmethod
    def _current_names(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values, old = current_names(values)
        warn_old_names(old)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be less than steps={self.steps}")
        if self.stage == "motion" and self.data.num_frames > self.max_positions and self.start_from is None:
            raise ValueError(
                f"data.num_frames={self.data.num_frames} is more than max_positions={self.max_positions}: "
                "a motion module is trained on at most as many frames as it has positions"
            )
        if self.curriculum_fraction and self.stage not in ("motion", "motion_lora"):
            raise ValueError(f"curriculum_fraction is for clips; the stage {self.stage} does not train motion")
        if self.new_unet and (self.image_layers == "lora" or self.unet or self.start_from):
            raise ValueError("new_unet begins with random weights: leave unet, start_from and image_layers=lora out")
        if self.stage == "camera" and not self.data.camera_paths:
            raise ValueError("the stage camera learns from clips with the path of their camera; set data.camera_paths")
        if self.data.num_frames < 2 and not self.single_frames:
            raise ValueError(f"data.num_frames={self.data.num_frames}: the stage {self.stage} needs clips of 2 or more")
        return self

    @property
    def single_frames(self) -> bool:
        """Whether the stage learns from images, so from single frames of videos."""
        return self.stage in ("adapter", "image")

    @property
    def lora_rank(self) -> int:
        """The rank that LoRAs of this run have."""
        return self.rank or {"adapter": 128, "motion_lora": 64}.get(self.stage, 32)

    def clips(self) -> DataConfig:
        """The data as this stage sees it."""
        return self.data.model_copy(update={"num_frames": 1}) if self.single_frames else self.data

    def stored(self) -> dict[str, Any]:
        """The settings that are not the default, as plain JSON values, to be stored with the weights.

        They tell no folders of this machine: names of files are portable (`render.portable`).
        """
        return self._portable()[0]

    def hashes(self) -> dict[str, str]:
        """Short hashes of the weights that the run builds on, by setting, to be stored with what it makes."""
        return self._portable()[1]

    def _portable(self) -> tuple[dict[str, Any], dict[str, str]]:
        return without_folders(self.model_dump(mode="json", exclude_defaults=True, exclude={"out"}))


ONLY_FOR: dict[str, tuple[Stage, ...]] = {
    "mid_block": ("motion",),
    "image_norm_over_frames": ("motion",),
    "norm": ("motion",),
    "max_positions": ("motion",),
    "image_layers": ("image",),
    "new_unet": ("image",),
    "lora_format": ("image",),
    "lora_convolutions": ("image",),
    "rank": ("adapter", "motion_lora", "image"),
    "alpha": ("adapter", "motion_lora", "image"),
    "condition": ("sparsectrl",),
    "max_conditions": ("sparsectrl",),
    "motion_module": ("motion_lora", "sparsectrl", "camera"),
    "domain_adapter": ("motion", "motion_lora", "sparsectrl", "camera"),
}
"""Settings that mean something in some stages alone."""

OF_NEW_MODULES = ("mid_block", "image_norm_over_frames", "max_positions")
"""Settings of motion modules that begin anew; those to go on from have their own."""

SAME_ON_RESUME = (
    *("stage", "model", "vae", "unet", "new_unet", "motion_module", "domain_adapter", "start_from", "mid_block"),
    *("image_norm_over_frames", "norm", "max_positions", "image_layers", "lora_convolutions", "rank", "alpha"),
    *("condition", "optimizer", "prediction", "zero_terminal_snr", "schedule", "seed"),
)
"""Settings that a run cannot change halfway: the weights or what they mean would be others."""
