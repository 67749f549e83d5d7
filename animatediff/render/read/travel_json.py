"""JSON files of animatediff-cli-prompt-travel as settings, with what they ask for and this project lacks named."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.read.travel_images import travel_controlnets, travel_ip_adapter
from animatediff.render.request import unknown_key

logger = logging.getLogger(__name__)

DATA = Path("data")
"""Folder in which that tool looks for the files that a configuration names."""

SETTINGS = {
    "path": "model",
    "vae_path": "vae",
    "motion_module": "motion_module",
    "steps": "steps",
    "guidance_scale": "guidance_scale",
    "prompt_map": "prompt_travel",
    "prompt": "prompt",
    "prompts": "prompt",
    "head_prompt": "prompt_head",
    "tail_prompt": "prompt_tail",
    "prompt_fixed_ratio": "prompt_hold",
}
"""Keys that mean the same as a setting here."""

CONVERTED = (
    *("base", "lora_alpha", "seed", "n_prompt", "n_prompts", "scheduler", "clip_skip", "tensor_interpolation_slerp"),
    *("lora_map", "motion_lora_map", "img2img_map", "controlnet_map", "ip_adapter_map", "output"),
)
PASSED_OVER = ("name", "compile", "unet_batch_size", "result", "stylize_config", "upscale_config")
"""Do not change the frames that its `generate` makes; the last two are for other commands of that tool."""

SWITCHED = ("lcm_map", "gradual_latent_hires_fix_map")
"""Blocks with a switch `enable`, of features that cannot be read from such a file here."""

KNOWN = (*SETTINGS, *CONVERTED, *PASSED_OVER, *SWITCHED, "region_map", "context_schedule", "is_single_prompt_mode")
MARKS = frozenset(KNOWN) - {
    *("path", "motion_module", "steps", "guidance_scale", "prompt", "base", "lora_alpha", "seed", "n_prompt"),
    *("scheduler", "clip_skip", "name", "output", "result"),
}
"""Keys that no other configuration has."""

SCHEDULERS = {"k_dpmpp": "dpmpp_2m_karras"}
"""A name in its early files that it no longer knows itself."""
DEFAULT_LORA_ALPHA = 0.8
DEFAULT_DENOISING = 0.7
WILDCARD = re.compile(r"__[\w/-]+?__")


def is_travel_json(data: Any) -> bool:
    """Whether parsed JSON is a configuration of that tool."""
    return isinstance(data, Mapping) and any(key in MARKS for key in data)


def settings_of_travel(
    data: Mapping[str, Any], where: str, folders: Sequence[Path] = (), roots: Roots = HERE
) -> dict[str, Any]:
    """The settings that such a file asks for, by the names of AnimateRequest; not validated here.

    folders: where the folders of images that it names are looked for; roots: of `models/`.
    One clip, as that tool makes without `--repeats`: the first seed and the first negative prompt. What is not
    supported is named in one warning. Raises UserError for an unknown key, naming the nearest.
    """
    for key in data:
        if key not in KNOWN:
            raise unknown_key(key, KNOWN, f"{where}: ")
    given = {key: value for key, value in data.items() if value is not None and value not in ("", {}, [])}
    values = {SETTINGS[key]: value for key, value in given.items() if key in SETTINGS}
    values["prompt_interpolation"] = "slerp" if given.get("tensor_interpolation_slerp", True) else "linear"
    if "base" in given:  # in files of the tool that it grew from, `path` is then a LoRA
        values["model"] = given["base"]
        if "path" in given:
            values["loras"] = [{"path": given["path"], "scale": given.get("lora_alpha", DEFAULT_LORA_ALPHA)}]
    for key, setting in (("seed", "seed"), ("n_prompt", "negative_prompt"), ("n_prompts", "negative_prompt")):
        if key in given:
            values[setting] = given[key][0] if isinstance(given[key], list) else given[key]
    if "scheduler" in given:
        values["scheduler"] = SCHEDULERS.get(given["scheduler"], given["scheduler"])
    if isinstance(skip := given.get("clip_skip"), int):
        values["clip_skip"] = max(0, skip - 1)  # 1 there is the last layer, as in A1111
    loras, odd = _loras(given.get("lora_map", {}), "lora_map", where)
    motion, odd_motion = _loras(given.get("motion_lora_map", {}), "motion_lora_map", where)
    if loras:
        values["loras"] = [*values.get("loras", []), *loras]
    if motion:
        values["motion_loras"] = motion
    values |= _video(given.get("img2img_map"), where)
    controlnets, odd_controlnets = travel_controlnets(given.get("controlnet_map"), where, folders, roots)
    adapter, odd_adapter = travel_ip_adapter(given.get("ip_adapter_map"), where, folders, roots)
    values |= controlnets | adapter
    output = given.get("output")
    if isinstance(output, Mapping) and output.get("fps"):
        values["fps"] = output["fps"]
    if missing := [*odd, *odd_motion, *odd_controlnets, *odd_adapter, *_unsupported(given)]:
        logger.warning("%s: not supported, left out: %s", where, ", ".join(missing))
    try:
        return normal_prompts(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _loras(given: Any, key: str, where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """LoRAs with one strength each, and the names of those that have more than one."""
    if not isinstance(given, Mapping):
        raise UserError(f"{where}: {key}: expected files and their strengths, got {given!r}")
    plain = {path: scale for path, scale in given.items() if not isinstance(scale, Mapping)}
    odd = [f"{key} ({path}: a strength of its own by frame or region)" for path in given if path not in plain]
    return [{"path": path, "scale": scale} for path, scale in plain.items()], odd


def _video(block: Any, where: str) -> dict[str, Any]:
    """The folder of frames that a clip begins with, and how much of them is made anew."""
    if not isinstance(block, Mapping) or not block.get("enable"):
        return {}
    if not block.get("init_img_dir"):
        raise UserError(f"{where}: img2img_map is on, but its init_img_dir is missing: the folder of the frames")
    return {"video": block["init_img_dir"], "strength": block.get("denoising_strength", DEFAULT_DENOISING)}


def _unsupported(given: Mapping[str, Any]) -> Iterator[str]:
    for key in SWITCHED:
        if isinstance(block := given.get(key), Mapping) and block.get("enable"):
            yield key
    regions = given.get("region_map") or {}
    if on := [name for name, entry in regions.items() if isinstance(entry, Mapping) and entry.get("enable")]:
        yield f"region_map ({', '.join(on)})"
    if given.get("context_schedule", "uniform") != "uniform":
        yield f"context_schedule ({given['context_schedule']})"
    if given.get("is_single_prompt_mode"):
        yield "is_single_prompt_mode"
    output = given.get("output")
    if isinstance(output, Mapping) and (odd := [key for key in output if key != "fps"]):
        yield f"output ({', '.join(odd)}: say `out`, `quality`)"
    texts = [*(given.get("prompt_map") or {}).values(), given.get("head_prompt"), given.get("tail_prompt")]
    if found := [word for text in texts if isinstance(text, str) for word in WILDCARD.findall(text)]:
        yield f"wildcards ({', '.join(dict.fromkeys(found))}: read as words)"
