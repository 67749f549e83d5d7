"""The training YAML of the original AnimateDiff, as settings of a TrainConfig."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.render.request import unknown_key

RENAMED = {
    "pretrained_model_path": "model",
    "max_train_steps": "steps",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "learning_rate": "learning_rate",
    "lr_warmup_steps": "warmup_steps",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "epsilon",
    "adam_weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "ema_decay": "ema",
    "gradient_checkpointing": "gradient_checkpointing",
    "num_workers": "workers",
    "checkpointing_steps": "save_every",
    "validation_steps": "validate_every",
    "validation_steps_tuple": "validate_at",
    "global_seed": "seed",
}
"""One key, one setting."""
TRAIN_DATA = {
    "csv_path": "path",
    "video_folder": "video_folder",
    "sample_stride": "stride",
    "sample_n_frames": "num_frames",
}
VALIDATION_DATA = {
    "prompts": "prompts",
    "num_inference_steps": "num_inference_steps",
    "guidance_scale": "guidance_scale",
}
STRUCTURED = (
    *("image_finetune", "output_dir", "unet_checkpoint_path", "unet_additional_kwargs", "noise_scheduler_kwargs"),
    *("train_data", "validation_data", "trainable_modules", "cfg_random_null_text", "cfg_random_null_text_ratio"),
    *("max_train_epoch", "lr_scheduler", "mixed_precision_training"),
)
WITHOUT_EFFECT = {
    "scale_lr": "the learning rate is what it says",
    "enable_xformers_memory_efficient_attention": "attention is PyTorch's own, xformers is never used",
    "checkpointing_epochs": "checkpoints are counted in steps",
    "is_debug": "`steps`=2 makes a short run",
}
"""Keys that are accepted and do nothing, and why."""
KNOWN = (*RENAMED, *STRUCTURED, *WITHOUT_EFFECT)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = ("linear", "scaled_linear")
MARKS = ("train_data", "image_finetune", "max_train_steps", "trainable_modules", "pretrained_model_path")
DEFAULT_NULL_TEXT = 0.1


def is_original(values: Mapping[Any, Any]) -> bool:
    """Whether these are the original's settings."""
    return "stage" not in values and any(key in values for key in MARKS)


def from_original(values: Mapping[Any, Any], where: str, lines: Mapping[Any, int]) -> tuple[dict[str, Any], list[str]]:
    """Settings of a TrainConfig, and a sentence about each key that has no effect here.

    Raises UserError for an unknown key, naming the nearest, and for what this trainer does not do.
    """
    for key in values:
        if key not in KNOWN:
            line = f", line {lines[key]}" if key in lines else ""
            raise unknown_key(key, KNOWN, f"{where}{line}: ")
    given = {key: value for key, value in values.items() if value is not None and value != ""}
    settings: dict[str, Any] = {new: given[old] for old, new in RENAMED.items() if old in given}
    notes = [f"{key} has no effect: {why}" for key, why in WITHOUT_EFFECT.items() if given.get(key) not in (None, -1)]
    image = bool(given.get("image_finetune", False))
    settings["stage"] = "image" if image else "motion"
    _modules(given.get("trainable_modules"), image, where)
    settings["data"] = _train_data(given.get("train_data"), image, where)
    settings["validation"] = _renamed(given.get("validation_data") or {}, VALIDATION_DATA, f"{where}: validation_data")
    if "output_dir" in given:
        settings["out"] = str(Path(str(given["output_dir"])) / Path(where).stem)
    if "unet_checkpoint_path" in given:
        settings["unet"] = given["unet_checkpoint_path"]
    if given.get("max_train_epoch", -1) not in (-1, 0):
        raise UserError(f"{where}: max_train_epoch={given['max_train_epoch']}: say max_train_steps instead")
    settings["steps"] = given.get("max_train_steps", 100)
    ratio = given.get("cfg_random_null_text_ratio", DEFAULT_NULL_TEXT)
    settings["caption_dropout"] = ratio if given.get("cfg_random_null_text", True) else 0.0
    settings["precision"] = "fp16" if given.get("mixed_precision_training") else "no"
    settings["lr_schedule"] = str(given.get("lr_scheduler", "constant")).replace("constant_with_warmup", "constant")
    settings |= _noise(given.get("noise_scheduler_kwargs") or {}, where)
    settings |= _unet(given.get("unet_additional_kwargs") or {}, image, where, notes)
    return settings, notes


def _modules(names: Any, image: bool, where: str) -> None:
    if names is None:
        return
    wanted = ["."] if image else ["motion_modules."]
    if list(names) != wanted:
        raise UserError(
            f"{where}: trainable_modules={list(names)}: image_finetune: {str(image).lower()} trains {wanted}; "
            "for other parts choose a stage (adapter, motion, motion_lora, sparsectrl, image) in a YAML of ours"
        )


def _renamed(values: Any, table: Mapping[str, str], where: str, *, also: tuple[str, ...] = ()) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: expected settings as `key: value`")
    for key in values:
        if key not in table:
            raise unknown_key(key, (*table, *also), f"{where}: ")
    return {table[key]: value for key, value in values.items() if value is not None}


def _train_data(values: Any, image: bool, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping) or not values.get("csv_path"):
        raise UserError(f"{where}: train_data is missing; expected csv_path, video_folder, sample_size, ...")
    size = values.get("sample_size", 256)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    rest = {key: value for key, value in values.items() if key not in ("sample_size", "is_image")}
    data = _renamed(rest, TRAIN_DATA, f"{where}: train_data", also=("sample_size",))
    return {"kind": "csv", "height": height, "width": width, **data}


def _noise(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The schedule; the other settings must be those of Stable Diffusion, which the image model states itself."""
    for name, known in BETAS.items():
        if name in values and float(values[name]) != known:
            raise UserError(f"{where}: noise_scheduler_kwargs.{name}={values[name]}: only {known} is trained with")
    schedule = values.get("beta_schedule")
    if schedule is None:
        return {}
    if schedule not in SCHEDULES:
        raise UserError(f"{where}: noise_scheduler_kwargs.beta_schedule={schedule!r}: known are {', '.join(SCHEDULES)}")
    return {"schedule": schedule}


def _unet(values: Mapping[str, Any], image: bool, where: str, notes: list[str]) -> dict[str, Any]:
    if image:
        return {}
    inner = values.get("motion_module_kwargs") or {}
    settings: dict[str, Any] = {
        "mid_block": bool(values.get("motion_module_mid_block", False)),
        # In the original, true means per frame.
        "image_norm_over_frames": not values.get("use_inflated_groupnorm", False),
    }
    if "temporal_position_encoding_max_len" in inner:
        settings["max_positions"] = inner["temporal_position_encoding_max_len"]
    fixed = {
        "motion_module_resolutions": [1, 2, 4, 8],
        "motion_module_decoder_only": False,
        "motion_module_type": "Vanilla",
        "unet_use_cross_frame_attention": False,
        "unet_use_temporal_attention": False,
    }
    fixed_inner = {
        "num_attention_heads": 8,
        "num_transformer_block": 1,
        "attention_block_types": ["Temporal_Self", "Temporal_Self"],
        "temporal_position_encoding": True,
        "temporal_attention_dim_div": 1,
    }
    for table, given in ((fixed, values), (fixed_inner, inner)):
        for name, known in table.items():
            if name in given and given[name] is not None and given[name] != known:
                raise UserError(f"{where}: unet_additional_kwargs.{name}={given[name]!r}: only {known!r} is trained")
    return settings
