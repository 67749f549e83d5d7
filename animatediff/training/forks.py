"""Keys of training YAML that forks of the original have, MotionDirector's for AnimateDiff among them.

Each is a setting here, has no effect and says why, or is refused with the setting that does it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from animatediff.errors import UserError

START = ("resume_ckpt", "resume_from", "motion_module_checkpoint_path", "pretrained_motion_module_path")
"""Keys for weights to go on from."""
MOTION_MODULE = ("motion_module_path", "motion_module")
"""Keys for the motion module: the frozen one of a MotionLoRA, otherwise the one to go on from."""
RENAMED = {
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "domain_adapter_path": "domain_adapter",
    "mixed_precision": "precision",
    "snr_gamma": "snr_gamma",
    "noise_offset": "noise_offset",
    "logger_interval": "log_every",
    "optimizer": "optimizer",
    "seed": "seed",
}
"""One key, one setting."""
EIGHT_BIT = ("use_adamw8bit", "use_8bit_adam", "use_8bit")
EPOCHS = ("num_train_epochs",)
NAMES = ("lora_name", "save_name", "name")
"""Keys for the last part of the output folder."""
STRUCTURED = (
    *("dataset_types", "mode_type", "video", "cache_latents", "cached_latent_dir", "use_offset_noise"),
    *("offset_noise_strength", "use_wandb", "report_to", "sample_before_training"),
)
SPATIAL = (
    "only layers of motion are trained; `stage` image with image_layers: lora trains the others, in a run of its own"
)
WITHOUT_EFFECT = {
    "use_lion_optim": "the optimizer is AdamW, which wants a learning rate some three to ten times as high as Lion's",
    "learning_rate_spatial": SPATIAL,
    "single_spatial_lora": SPATIAL,
    "train_sample_validation": SPATIAL,
    "lora_unet_dropout": "LoRAs have no dropout here",
    "use_text_augmenter": "captions are taken as they are",
    "use_motion_lora_format": "MotionLoRAs are always written in that format",
    "quality": "clips are of 256x256 unless sample_size of the long form's train_data says another size",
    "training_config": "it is not read; its settings can stand in this file",
    "simple_mode": "settings of this file count, whichever they are",
    "launcher": "torchrun says what it needs by itself",
    "allow_tf32": "PyTorch's own setting is kept",
    "enable_torch_2_attn": "attention is PyTorch's own in any case",
    "extend_dataset": "clips are drawn without end",
}
"""Keys that do nothing here, and why."""
REFUSED = {
    "resume_from_checkpoint": "the same command goes on with a run; leave it out, or name weights by resume_ckpt",
    "train_text_encoder": "the text encoder stays as it is; leave it out",
    "trainable_text_modules": "the text encoder stays as it is; leave it out",
    "validation_epochs": "validations are counted in steps: say validation_steps",
    "dropout": "there is no dropout here; leave it out",
    "lora_path": "weights to go on from are named by resume_ckpt",
}
"""Keys that are refused unless they are off, and what to do."""
TRAIN_DATA = {
    "n_sample_frames": "num_frames",
    "num_frames": "num_frames",
    "video_length": "num_frames",
    "frame_step": "stride",
    "width": "width",
    "height": "height",
    "path": "path",
    "video_dir": "path",
    "json_path": "path",
}
FPS = ("fps", "sample_fps", "target_fps")
"""Keys of the training data for the frames taken of a second; 0 and -1 are off."""
TRAIN_DATA_WITHOUT_EFFECT = {
    "is_image": "image_finetune says it",
    "manual_sample_size": "the size is what it says",
    "use_bucketing": "all clips have one size; `resize` of the data says how they get it",
    "sample_start_idx": "clips are cut at places drawn anew each time",
    "max_chunks": "clips are cut at places drawn anew each time",
    "start_time": "clips are cut at places drawn anew each time",
    "fallback_prompt": "clips without a caption are named by the check; give each a .txt of its name",
    "validation_prompt": "validation_data says it",
}
VALIDATION_DATA = {
    "negative_prompt": "negative_prompt",
    "n_prompt": "negative_prompt",
    "validation_seed": "seed",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "num_frames": "num_frames",
    "sample_n_frames": "num_frames",
    "video_length": "num_frames",
    "fps": "fps",
}
VALIDATION_WITHOUT_EFFECT = {"spatial_scale": SPATIAL, "sample_preview": "samples are rendered where prompts are given"}
KNOWN = (
    *(*START, *MOTION_MODULE, *RENAMED, *EIGHT_BIT, *EPOCHS, *NAMES, *STRUCTURED),
    *(*WITHOUT_EFFECT, *REFUSED),
)
OURS = {
    **dict.fromkeys(START, "start_from"),
    **dict.fromkeys(EIGHT_BIT, "optimizer: adamw8bit"),
    **dict.fromkeys(EPOCHS, "steps"),
    **dict.fromkeys(NAMES, "out"),
    **RENAMED,
    "motion_module_path": "motion_module",
    "max_train_epoch": "steps",
    "use_lion_optim": "optimizer",
    "use_wandb": "log",
    "report_to": "log",
    "cache_latents": "data.cache",
    "cached_latent_dir": "data.cache",
    "resume_from_checkpoint": "resume",
}
"""Keys of forks in a configuration of ours, and the setting to take."""
DEFAULT_OFFSET = 0.1
"""Noise offset where `use_offset_noise` gives none."""


def is_simple(values: Mapping[Any, Any]) -> bool:
    """Whether these are the settings of MotionDirector's short form."""
    return "mode_type" in values and isinstance(values.get("video"), Mapping)


def from_simple(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """MotionDirector's short form in the keys of its long one, with the values that it takes by default."""
    video = dict(values["video"])
    prompt = video.pop("validation_prompt", None)
    long = {key: value for key, value in values.items() if key not in ("video", "mode_type")}
    long.setdefault("lora_rank", 32)
    long.setdefault("learning_rate", 5e-4)
    long.setdefault("max_train_steps", 300)
    long.setdefault("dataset_types", [values["mode_type"]])
    long.setdefault("validation_data", {"prompts": [prompt] if prompt else []})
    data = dict(long.get("train_data") or {})
    single = values["mode_type"] == "single_video"
    for theirs, key in (
        ("path", "single_video_path" if single else "path"),
        ("training_prompt", "single_video_prompt" if single else "fallback_prompt"),
    ):
        if theirs in video:
            data[key] = video.pop(theirs)
    long["train_data"] = {**data, **video}
    return long


def in_short_form(text: str) -> str:
    """A text with keys of MotionDirector's long form under their names in the short one."""
    for long, short in (
        ("train_data.fallback_prompt", "video.training_prompt"),
        ("train_data", "video"),
        ("validation_data.prompts", "video.validation_prompt"),
    ):
        text = text.replace(long, short)
    return text


def from_forks(given: Mapping[str, Any], where: str, written: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Settings of a TrainConfig for the keys of forks among `given`, and a sentence for each that has no effect.

    written: takes setting -> key. Raises UserError for a key whose work another setting does, naming it.
    """
    settings: dict[str, Any] = {}

    def put(name: str, key: str, value: Any) -> None:
        if name in settings and settings[name] != value:
            raise UserError(f"{where}: {written[name]} and {key} are two names of one setting; leave one out")
        settings[name], written[name] = value, key

    for key, text in REFUSED.items():
        if is_on(given.get(key)):
            raise UserError(f"{where}: {key}={given[key]!r}: {text}")
    for key, name in RENAMED.items():
        if is_on(given.get(key)) or (key == "seed" and key in given):
            put(name, key, given[key])
    for key in EIGHT_BIT:
        if is_on(given.get(key)):
            put("optimizer", key, "adamw8bit")
    lora = is_on(given.get("lora_rank")) and not is_on(given.get("image_finetune"))
    for key in START:
        if key in given:
            put("start_from", key, given[key])
    for key in MOTION_MODULE:
        if key in given:
            put("motion_module" if lora else "start_from", key, given[key])
    if lora:
        settings["stage"] = "motion_lora"
        written["stage"] = "lora_rank"
    if is_on(given.get("use_offset_noise")) or "offset_noise_strength" in given:
        on = is_on(given.get("use_offset_noise", True))
        put("noise_offset", "offset_noise_strength", given.get("offset_noise_strength", DEFAULT_OFFSET) if on else 0.0)
    trackers = given.get("report_to") or ("wandb" if is_on(given.get("use_wandb")) else None)
    if trackers not in (None, "none"):
        put("log", "report_to" if "report_to" in given else "use_wandb", trackers)
    if is_on(given.get("sample_before_training")):
        settings["validate_at"] = [0]
    notes = [f"{key} has no effect: {why}" for key, why in WITHOUT_EFFECT.items() if is_on(given.get(key))]
    return settings, notes


def is_on(value: Any) -> bool:
    """Whether a key asks for anything: not None, "", false, 0, or -1.

    >>> [is_on(value) for value in (None, "", False, "false", 0, -1, -1.0, [], 4, "x")]
    [False, False, False, False, False, False, False, False, True, True]
    """
    if isinstance(value, str) and value.strip().lower() in ("false", "none", "null", "-1"):
        return False
    return bool(value) and not (isinstance(value, int | float) and value == -1)
