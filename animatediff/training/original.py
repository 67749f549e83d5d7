"""The training YAML of the original AnimateDiff and of its forks, as settings of a TrainConfig."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.render.request import unknown_key
from animatediff.training import forks
from animatediff.training.forks import is_on

RENAMED = {
    "pretrained_model_path": "model",
    "unet_checkpoint_path": "unet",
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
OFF = {
    "lr_warmup_steps": 0,
    "max_grad_norm": None,
    "ema_decay": None,
    "num_workers": None,
    "checkpointing_steps": 0,
    "validation_steps": 0,
}
"""Keys of which -1 is off -> the value of their setting that is."""
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
    *("image_finetune", "output_dir", "unet_additional_kwargs", "noise_scheduler_kwargs", "checkpointing_epochs"),
    *("train_data", "validation_data", "trainable_modules", "cfg_random_null_text", "cfg_random_null_text_ratio"),
    *("max_train_epoch", "lr_scheduler", "mixed_precision_training"),
)
STRUCTURED_NAMES = {
    "out": "output_dir",
    "precision": "mixed_precision_training",
    "lr_schedule": "lr_scheduler",
    "caption_dropout": "cfg_random_null_text_ratio",
    "steps": "max_train_steps",
    "save_every": "checkpointing_steps",
    "max_positions": "unet_additional_kwargs.motion_module_kwargs.temporal_position_encoding_max_len",
}
"""Setting -> the key that it follows from."""
WITHOUT_EFFECT = {
    "scale_lr": "the learning rate is what it says",
    "enable_xformers_memory_efficient_attention": "attention is PyTorch's own, xformers is never used",
    "is_debug": "max_train_steps: 2 makes a short run",
}
"""Keys that are accepted and do nothing, and why."""
KNOWN = (*RENAMED, *STRUCTURED, *WITHOUT_EFFECT, *forks.KNOWN)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = ("linear", "scaled_linear")
NUM_TIMESTEPS = 1000
OF_SAMPLING = ("steps_offset", "clip_sample", "set_alpha_to_one", "timestep_spacing", "skip_prk_steps", "thresholding")
"""Settings of a noise scheduler that say how it samples."""
MARKS = ("train_data", "image_finetune", "max_train_steps", "trainable_modules", "pretrained_model_path")
DEFAULT_NULL_TEXT = 0.1
FIXED = {
    "motion_module_resolutions": [1, 2, 4, 8],
    "motion_module_decoder_only": False,
    "motion_module_type": "Vanilla",
    "unet_use_cross_frame_attention": False,
    "unet_use_temporal_attention": False,
    "use_motion_module": True,
}
FIXED_INNER = {
    "num_attention_heads": 8,
    "num_transformer_block": 1,
    "attention_block_types": ["Temporal_Self", "Temporal_Self"],
    "temporal_position_encoding": True,
    "temporal_attention_dim_div": 1,
}
"""Settings of motion modules, and the only value that is trained."""


@dataclass
class Translated:
    """Settings of a TrainConfig, and what is to be known of the keys that they are from."""

    settings: dict[str, Any]
    notes: list[str]
    """A sentence about each key that has no effect here."""
    written: dict[str, str] = field(default_factory=dict)
    """Setting ("data.stride") -> the key that it is written as ("train_data.sample_stride")."""
    epochs: dict[str, float] = field(default_factory=dict)
    """Settings that are given as a number of epochs: steps, save_every."""


def is_original(values: Mapping[Any, Any]) -> bool:
    """Whether these are the original's settings."""
    return "stage" not in values and any(key in values for key in MARKS)


def from_original(values: Mapping[Any, Any], where: str, lines: Mapping[Any, int]) -> Translated:
    """Settings of a TrainConfig.

    Raises UserError for an unknown key, naming the nearest, and for what this trainer does not do.
    """
    for key in values:
        if key not in KNOWN:
            line = f", line {lines[key]}" if key in lines else ""
            raise unknown_key(key, KNOWN, f"{where}{line}: ")
    if simple := forks.is_simple(values):
        values = forks.from_simple(values)
    given = {key: value for key, value in values.items() if value is not None and value != ""}
    written = {new: old for old, new in RENAMED.items() if old in given}
    settings: dict[str, Any] = {
        new: OFF[old] if old in OFF and given[old] == -1 else given[old] for old, new in RENAMED.items() if old in given
    }
    notes = [f"{key} has no effect: {why}" for key, why in WITHOUT_EFFECT.items() if given.get(key) not in (None, -1)]
    image = is_on(given.get("image_finetune"))
    settings["stage"], written["stage"] = "image" if image else "motion", "image_finetune"
    _modules(given.get("trainable_modules"), image, where)
    own, more = forks.from_forks(given, where, written)
    notes += more
    settings["data"] = _train_data(given, image, where, notes, written)
    settings["validation"] = _table(
        given.get("validation_data") or {},
        {**VALIDATION_DATA, **forks.VALIDATION_DATA},
        forks.VALIDATION_WITHOUT_EFFECT,
        (where, "validation_data", "validation"),
        notes,
        written,
    )
    name = next((str(given[key]) for key in forks.NAMES if key in given), None)
    if "output_dir" in given or name is not None:
        settings["out"] = str(Path(str(given.get("output_dir", "outputs"))) / (name or Path(where).stem))
    if "validate_at" in settings:
        at = settings["validate_at"]
        settings["validate_at"] = [step for step in (at if isinstance(at, list | tuple) else [at]) if step != -1]
    epochs = _epochs(settings, given, where, notes)
    ratio = given.get("cfg_random_null_text_ratio", DEFAULT_NULL_TEXT)
    settings["caption_dropout"] = ratio if is_on(given.get("cfg_random_null_text", True)) else 0.0
    half = given.get("mixed_precision_training")
    settings["precision"] = half if is_on(half) and isinstance(half, str) else "fp16" if is_on(half) else "no"
    settings["lr_schedule"] = str(given.get("lr_scheduler", "constant")).replace("constant_with_warmup", "constant")
    settings |= _noise(given.get("noise_scheduler_kwargs") or {}, where, notes, written)
    started = own.get("stage") == "motion_lora" or bool({"start_from", "motion_module"} & own.keys())
    settings |= _unet(given.get("unet_additional_kwargs") or {}, image, started, where, notes)
    if at := [*own.pop("validate_at", []), *settings.get("validate_at", [])]:
        settings["validate_at"] = at
    settings |= own
    if settings.get("seed") == -1:
        del settings["seed"]
        notes.append(f"{written['seed']}=-1: a run that can go on needs a seed that stays, so 42 is taken")
    if simple:
        notes = [forks.in_short_form(note) for note in notes]
        written |= {name: forks.in_short_form(key) for name, key in written.items()}
    return Translated(settings, notes, {**STRUCTURED_NAMES, **written}, epochs)


def as_written(message: str, written: Mapping[str, str]) -> str:
    """`message` with settings under the keys that the user wrote: those in backquotes, and those before `=` or `:`.

    >>> as_written("steps=2: too few `steps` for 2 steps", {"steps": "max_train_steps"})
    'max_train_steps=2: too few `max_train_steps` for 2 steps'
    """
    if not written:
        return message
    names = "|".join(map(re.escape, sorted(written, key=len, reverse=True)))
    return re.sub(rf"(?<=`)({names})(?=`)|(?<![\w.`/-])({names})(?==)", lambda m: written[m[1] or m[2]], message)


def _modules(names: Any, image: bool, where: str) -> None:
    if names is None:
        return
    wanted = ["."] if image else ["motion_modules."]
    if (names if isinstance(names, list | tuple) else [names]) != wanted:
        raise UserError(
            f"{where}: trainable_modules={names}: image_finetune: {str(image).lower()} trains {wanted}; "
            "for other parts choose a stage (adapter, motion, motion_lora, sparsectrl, image) in a YAML of ours"
        )


def _epochs(settings: dict[str, Any], given: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, float]:
    """The settings that are given in epochs. Raises UserError for two lengths of one run."""
    found: dict[str, float] = {}
    key = next((key for key in ("max_train_epoch", *forks.EPOCHS) if is_on(given.get(key))), None)
    if not is_on(given.get("max_train_steps")):
        settings["steps"] = 100
        if key is not None:
            found["steps"] = _number(given[key], key, where)
        elif "max_train_steps" in given:
            raise UserError(f"{where}: max_train_steps={given['max_train_steps']}: say how many, or max_train_epoch")
    elif key is not None:
        raise UserError(
            f"{where}: {key}={given[key]} and max_train_steps={given['max_train_steps']} are two lengths of one run: "
            f"say max_train_steps and leave {key} out, or set max_train_steps: -1"
        )
    if is_on(epochs := given.get("checkpointing_epochs")):
        if is_on(given.get("checkpointing_steps")):
            notes.append("checkpointing_epochs has no effect: checkpointing_steps says it")
        else:
            found["save_every"] = _number(epochs, "checkpointing_epochs", where)
    return found


def _number(value: Any, key: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise UserError(f"{where}: {key}={value!r}: expected a number of epochs above 0, or -1 for none")
    return float(value)


def _table(
    values: Any,
    table: Mapping[str, str],
    without_effect: Mapping[str, str],
    place: tuple[str, str, str],
    notes: list[str],
    written: dict[str, str],
) -> dict[str, Any]:
    """Nested settings by a table. place: the file, the key of the settings there, and their name here."""
    where, outer, ours = place
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {outer}: expected settings as `key: value`")
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key in without_effect:
            if is_on(value):
                notes.append(f"{outer}.{key} has no effect: {without_effect[key]}")
        elif key not in table:
            raise unknown_key(key, (*table, *without_effect), f"{where}: {outer}: ")
        elif value is not None:
            if (name := table[key]) in found and found[name] != value:
                raise UserError(f"{where}: {outer}: {written[f'{ours}.{name}']} and {key} contradict each other")
            found[name], written[f"{ours}.{name}"] = value, f"{outer}.{key}"
    return found


def _train_data(
    given: Mapping[str, Any], image: bool, where: str, notes: list[str], written: dict[str, str]
) -> dict[str, Any]:
    values = given.get("train_data")
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{where}: train_data is missing; expected csv_path, video_folder, sample_size, ...")
    values = {key: value for key, value in values.items() if value is not None and value != ""}
    kinds = given.get("dataset_types") or []
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if single := values.pop("single_video_path", None):
        raise UserError(
            f"{where}: the single video {single!r}: clips come with a caption of their own; put it into a folder "
            "beside a .txt of its name that holds the prompt, and name the folder (dataset_types: [folder], "
            "train_data.path; in the short form mode_type: folder, video.path)"
        )
    values.pop("single_video_prompt", None)
    size = _size(values.pop("sample_size", None), where)
    rates = {key: rate for key in forks.FPS if is_on(rate := values.pop(key, None))}
    for side in ("width", "height") if values.get("manual_sample_size") is True else ():
        values.pop(side, None)  # MotionDirector's: sample_size counts then
    if {"n_sample_frames", "sample_n_frames"} <= values.keys():
        values.pop("sample_n_frames")  # MotionDirector's, for its validation
    table = {**TRAIN_DATA, **forks.TRAIN_DATA, "sample_size": "height"}
    data = _table(values, table, forks.TRAIN_DATA_WITHOUT_EFFECT, (where, "train_data", "data"), notes, written)
    if not data.get("path"):
        raise UserError(f"{where}: train_data is missing csv_path, the list of the clips; or name a folder by path")
    if len(set(rates.values())) > 1:
        raise UserError(f"{where}: train_data: {' and '.join(rates)} contradict each other")
    for key, rate in rates.items():
        data["fps"], written["data.fps"] = rate, f"train_data.{key}"
    size = {name: side for name, side in size.items() if name not in data}
    written |= {f"data.{name}": "train_data.sample_size" for name in size}
    kind = "csv" if "csv_path" in values else "folder" if "folder" in kinds else "auto"
    if is_on(given.get("cache_latents")) or given.get("cached_latent_dir"):
        folder = given.get("cached_latent_dir") or str(Path(str(given.get("output_dir", "outputs"))) / "cache")
        data["cache"], written["data.cache"] = folder, "cached_latent_dir"
    return {"kind": kind, **size, **data}


def _size(size: Any, where: str) -> dict[str, int]:
    """Height and width: of one number, of a list of one, or of [height, width]."""
    sides = [256] if size is None else list(size) if isinstance(size, list | tuple) else [size]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) not in (1, 2) or not whole:
        raise UserError(f"{where}: train_data.sample_size={size!r}: expected one number, or [height, width]")
    return {"height": sides[0], "width": sides[-1]}


def _noise(values: Any, where: str, notes: list[str], written: dict[str, str]) -> dict[str, Any]:
    """The schedule and what is predicted; the rest must be Stable Diffusion's, which the image model states itself."""
    place = f"{where}: noise_scheduler_kwargs"
    if not isinstance(values, Mapping):
        raise UserError(f"{place}: expected settings as `key: value`")
    known = (*BETAS, "beta_schedule", "num_train_timesteps", "prediction_type", "rescale_betas_zero_snr", *OF_SAMPLING)
    for key in values:
        if key not in known:
            raise unknown_key(key, known, f"{place}: ")
    fixed = {**BETAS, "num_train_timesteps": NUM_TIMESTEPS}
    for name, value in fixed.items():
        if values.get(name) is not None and not _equal(values[name], value):
            raise UserError(f"{place}.{name}={values[name]}: only {value} is trained with")
    usual = {"steps_offset": 1, "clip_sample": False}
    if odd := [name for name in OF_SAMPLING if is_on(values.get(name)) and values[name] != usual.get(name)]:
        notes.append(f"noise_scheduler_kwargs.{odd[0]} has no effect: it says how to sample, and is not trained with")
    settings: dict[str, Any] = {}
    for name, ours in (("prediction_type", "prediction"), ("rescale_betas_zero_snr", "zero_terminal_snr")):
        if values.get(name) is not None:
            settings[ours], written[ours] = values[name], f"noise_scheduler_kwargs.{name}"
    if (schedule := values.get("beta_schedule")) is None:
        return settings
    if schedule not in SCHEDULES:
        raise UserError(f"{place}.beta_schedule={schedule!r}: known are {', '.join(SCHEDULES)}")
    return {**settings, "schedule": schedule}


def _equal(value: Any, known: float) -> bool:
    try:
        return float(value) == known
    except (TypeError, ValueError):
        return False


def _unet(values: Any, image: bool, started: bool, where: str, notes: list[str]) -> dict[str, Any]:
    """Settings of new motion modules. started: whether motion modules are there already."""
    place = f"{where}: unet_additional_kwargs"
    if not isinstance(values, Mapping) or not isinstance(inner := values.get("motion_module_kwargs") or {}, Mapping):
        raise UserError(f"{place}: expected settings as `key: value`")
    if image:
        if is_on(values.get("use_motion_module", bool(inner))):
            notes.append("unet_additional_kwargs has no effect: image_finetune: true trains no motion modules")
        return {}
    known = (*FIXED, "motion_module_mid_block", "use_inflated_groupnorm", "motion_module_kwargs")
    known_inner = (*FIXED_INNER, "temporal_position_encoding_max_len", "zero_initialize")
    for given, table, names in ((values, FIXED, known), (inner, FIXED_INNER, known_inner)):
        for name in given:
            if name not in names:
                raise unknown_key(name, names, f"{place}: ")
        for name, only in table.items():
            if given.get(name) is not None and given[name] != only:
                raise UserError(f"{place}.{name}={given[name]!r}: only {only!r} is trained")
    if inner.get("zero_initialize") is False:
        notes.append("zero_initialize has no effect: new motion modules always begin with outputs of zero")
    if started:
        notes.append("unet_additional_kwargs has no effect: the file of the motion module says it")
        return {}
    settings: dict[str, Any] = {
        "mid_block": bool(values.get("motion_module_mid_block", False)),
        # In the original, true means per frame.
        "image_norm_over_frames": not values.get("use_inflated_groupnorm", False),
    }
    if inner.get("temporal_position_encoding_max_len") is not None:
        settings["max_positions"] = inner["temporal_position_encoding_max_len"]
    return settings
