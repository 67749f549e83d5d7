"""The original's run keys, of 2023 and later, as settings of an AnimateRequest, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from animatediff.errors import UserError
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.request import FIELDS, AnimateRequest, unknown_key

logger = logging.getLogger(__name__)

TRAVEL = {
    "prompt_map": "prompt_travel",
    "head_prompt": "prompt_head",
    "tail_prompt": "prompt_tail",
    "prompt_fixed_ratio": "prompt_hold",
}
"""Keys of animatediff-cli-prompt-travel, which the original has no word for."""

RENAMED = {
    "W": "width",
    "H": "height",
    "L": "num_frames",
    "n_prompt": "negative_prompt",
    "motion_module_path": "motion_module",
    "controlnet_path": "sparsectrl",
    "controlnet_config": "sparsectrl_config",
    "controlnet_images": "control_images",
    "controlnet_image_indexs": "control_indices",
    "controlnet_image_indexes": "control_indices",
    "init_image": "image",
    **TRAVEL,
}
"""One key, one setting."""

ALIASES = {
    "context_length": "window",
    "context_overlap": "overlap",
    "context_stride": "stride",
    "fuse_method": "blend",
    "frame_rate": "fps",
    "loop_count": "loop",
    "loop_number": "loop",
    "video_length": "num_frames",
    "video_path": "video",
    "sampler_name": "scheduler",
    "cfg_scale": "guidance_scale",
    "freeinit_iters": "freeinit",
    "prompts": "prompt",
    "n_prompts": "negative_prompt",
    "vae_path": "vae",
    "num_inference_steps": "steps",
    "controlnet_conditioning_scale": "control_scale",
    "controlnet_frame_indices": "control_indices",
}
"""Names by which users of ComfyUI, A1111's extension, animatediff-cli and diffusers know our settings; read, not
written."""

FORMER = {"domain_lora_scale": "adapter_lora_scale", "domain_lora_path": "adapter_lora_path"}
"""Keys of earlier files of the original -> their later names."""

EACH = ("motion_module", "guidance_scale", "steps")
"""Settings whose lists give a run each."""

BASE_KEYS = ("dreambooth_path", "ckpt_path", "model", "pretrained_model_path", "base_model_path")
"""Keys that name the image model; the first that is not empty counts: `dreambooth_path` replaces the weights."""

OF_SPARSECTRL = (
    "controlnet_config",
    "controlnet_image_indexs",
    "controlnet_image_indexes",
    "normalize_condition_images",
)
"""Mean nothing where no SparseCtrl encoder is named, and are then passed over, as by the original."""

STRUCTURED = (
    *("lora_model_path", "lora_path", "lora_alpha", "adapter_lora_path", "adapter_lora_scale"),
    *("motion_module_lora_configs", "base", "path", "random_seed"),
)
RUN_KEYS = (
    *RENAMED,
    *ALIASES,
    *FORMER,
    *BASE_KEYS,
    *STRUCTURED,
    "inference_config",
    "motion_module",
    "seed",
    "prompt",
)
KNOWN = tuple(dict.fromkeys((*RUN_KEYS, *FIELDS)))

DEFAULT_LORA_ALPHA = 0.8


def is_run(value: Any) -> bool:
    """Whether a mapping is one run, rather than a mapping of names to runs."""
    return isinstance(value, Mapping) and any(key in KNOWN for key in value)


def _put(values: dict[str, Any], setting: str, value: Any, key: str, where: str) -> None:
    if setting in values and values[setting] != value:
        raise UserError(f"{where}{key!r} and another key both set {setting!r}, to different values; keep one of them")
    values[setting] = value


def settings_of(run: Mapping[Any, Any], where: str = "") -> dict[str, Any]:
    """The settings that a run asks for, by the names of AnimateRequest; empty strings mean nothing.

    Values are not validated here. Raises UserError for an unknown key, naming the nearest.
    """
    given: dict[str, Any] = {}
    for key, value in run.items():
        if not isinstance(key, str) or key not in KNOWN:
            raise unknown_key(key, KNOWN, where)
        if value is not None and value != "":
            _put(given, FORMER.get(key, key), value, key, where)
    if "controlnet_path" not in given and "sparsectrl" not in given:
        given = _without(given, OF_SPARSECTRL, "no SparseCtrl encoder is named (controlnet_path)", where)

    values: dict[str, Any] = {}
    for key, value in given.items():
        if (setting := RENAMED.get(key) or ALIASES.get(key)) is not None:
            _put(values, setting, value, key, where)
        elif key in FIELDS and key != "model":
            _put(values, key, value, key, where)
    if "random_seed" in given:  # the seeds that a finished run really used
        values["seed"] = given["random_seed"]
    _put_models(values, given, where)
    _put_loras(values, given, where)
    try:
        return normal_prompts(values)
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _without(given: Mapping[str, Any], keys: Iterable[str], reason: str, where: str) -> dict[str, Any]:
    """`given` without keys that have no effect, which is logged."""
    if idle := [key for key in keys if key in given]:
        logger.info("%s%s without effect: %s", where, ", ".join(idle), reason)
    return {key: value for key, value in given.items() if key not in idle}


def _put_models(values: dict[str, Any], given: Mapping[str, Any], where: str) -> None:
    candidates = [given[key] for key in BASE_KEYS if key in given]
    if "base" in given:  # 2023: `base` is the image model, `path` a LoRA on it
        candidates.insert(0, given["base"])
    elif "path" in given:
        candidates.insert(0, given["path"])
    if candidates:
        _put(values, "model", candidates[0], "path", where)
    if others := [name for name in dict.fromkeys(map(str, candidates)) if name != str(candidates[0])]:
        logger.info("%s%s replaces %s, which is not needed", where, candidates[0], ", ".join(others))


def _put_loras(values: dict[str, Any], given: Mapping[str, Any], where: str) -> None:
    scale = given.get("lora_alpha", DEFAULT_LORA_ALPHA)
    paths = [given[key] for key in ("lora_model_path", "lora_path") if key in given]
    if "base" in given and "path" in given:
        paths.append(given["path"])
    if paths:
        listed = [path for item in paths for path in (item if isinstance(item, list) else [item])]
        _put(values, "loras", [{"path": path, "scale": scale} for path in listed], "lora_model_path", where)
    else:
        _without(given, ["lora_alpha"], "no LoRA is named (lora_model_path)", where)
    if "adapter_lora_path" not in given:
        _without(given, ["adapter_lora_scale"], "no adapter is named (adapter_lora_path)", where)
    else:
        adapter = {"path": given["adapter_lora_path"], "scale": given.get("adapter_lora_scale", 1.0)}
        _put(values, "domain_adapter", adapter, "adapter_lora_path", where)
    if "motion_module_lora_configs" in given:
        _put(values, "motion_loras", _motion_loras(given["motion_module_lora_configs"], where), "motion_loras", where)


def _motion_loras(configs: Any, where: str) -> list[dict[str, Any]]:
    configs = configs if isinstance(configs, list) else [configs]
    found = []
    for config in configs:
        if not isinstance(config, Mapping):
            raise UserError(f"{where}motion_module_lora_configs: expected entries of path and alpha")
        for key in config:
            if key not in ("path", "alpha"):
                raise unknown_key(key, ("path", "alpha"), f"{where}motion_module_lora_configs: ")
        if config.get("path"):
            found.append({"path": config["path"], "scale": config.get("alpha", 1.0)})
    return found


def to_original(
    request: AnimateRequest, renamed: Callable[[dict[str, Any]], dict[str, Any]] = lambda stored: stored
) -> dict[str, Any]:
    """A run in the original's keys, and in ours where it has none; `load_config` reads it back as the same request.

    renamed: gives the files of the record other names.
    """
    stored = renamed(request.stored())
    run: dict[str, Any] = {}
    if "motion_loras" in stored:
        refs = stored.pop("motion_loras")
        run["motion_module_lora_configs"] = [{"path": ref["path"], "alpha": ref.get("scale", 1.0)} for ref in refs]
    if "domain_adapter" in stored:
        ref = stored.pop("domain_adapter")
        run |= {"adapter_lora_path": ref["path"], "adapter_lora_scale": ref.get("scale", 1.0)}
    if len(stored.get("loras", ())) == 1:
        (ref,) = stored.pop("loras")
        run |= {"lora_model_path": ref["path"], "lora_alpha": ref.get("scale", 1.0)}
    if "model" in stored:
        run["pretrained_model_path"] = stored.pop("model")
    for key, setting in RENAMED.items():
        if setting in stored and setting != "motion_module" and key not in TRAVEL:
            run[key] = stored.pop(setting)
    if "prompt_travel" in stored:
        stored["prompt_travel"] = [{int(frame): text for frame, text in t.items()} for t in stored["prompt_travel"]]
    seeds = stored.pop("seed", [-1])
    return run | stored | {"random_seed": seeds}
