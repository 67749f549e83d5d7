"""JSON files of animatediff-cli-prompt-travel, and of animatediff-cli, which it grew from, as settings of a request.

Every key is carried out, or named in the log with what to take in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.media.numbered import find_numbered
from animatediff.render.inputs import MAX_FRAMES
from animatediff.render.options import FIELDS
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.read.travel_blocks import (
    OTHER_COMMANDS,
    SWITCHED,
    travel_loras,
    travel_others,
    travel_output,
    wildcards,
)
from animatediff.render.read.travel_file import LENGTH, TravelFile, some
from animatediff.render.read.travel_images import travel_controlnets, travel_frames, travel_ip_adapter
from animatediff.render.request import unknown_key

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
}
"""Keys that mean the same as a setting here."""

CONVERTED = (
    *("name", "base", "lora_alpha", "seed", "n_prompt", "n_prompts", "scheduler", "clip_skip"),
    *("prompt_fixed_ratio", "tensor_interpolation_slerp", "lora_map", "motion_lora_map"),
    *("img2img_map", "controlnet_map", "ip_adapter_map", "region_map", "output"),
    *("context_schedule", "is_single_prompt_mode", "compile", "unet_batch_size", "is_v2"),
)
OF_THE_TOOL = (*SETTINGS, *CONVERTED, *SWITCHED, *OTHER_COMMANDS)
KNOWN = tuple(dict.fromkeys((*OF_THE_TOOL, *FIELDS)))
"""Its keys, and settings of ours beside them."""
MARKS = frozenset(OF_THE_TOOL) - {
    *("path", "motion_module", "steps", "guidance_scale", "prompt", "base", "lora_alpha", "seed", "n_prompt"),
    *("scheduler", "clip_skip", "name", "output", "result"),
}
"""Keys that no other configuration has."""
PLAIN = frozenset(OF_THE_TOOL) - {"output", "result"}
"""Keys of files of animatediff-cli, which have no mark but their `name`."""

SCHEDULERS = {
    "dpm": "dpm_2",
    "dpm_a": "dpm_2_a",
    "dpm_2_ancestral": "dpm_2_a",
    "dpmpp": "dpmpp_2m",
    "dpmpp_sde": "dpmpp_2s",
    "euler_ancestral": "euler_a",
}
"""Samplers there, without `k_` for Karras -> the same class of diffusers here, where the names differ."""
DEFAULT_LORA_ALPHA = 0.8
HOLD = 0.5


def is_travel_json(data: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether parsed JSON is a configuration of these tools."""
    if not isinstance(data, Mapping):
        return False
    return any(key in MARKS for key in data) or ("name" in data and data.keys() <= PLAIN)


def settings_of_travel(
    data: Mapping[str, Any],
    where: str,
    folders: Sequence[Path] = (),
    roots: Roots = HERE,
    *,
    num_frames: int | None = None,
) -> dict[str, Any]:
    """The settings that such a file asks for, by the names of AnimateRequest; not validated here.

    folders: where the files that it names are looked for; roots: of `models/`; num_frames: of the clip, where the
    caller knows it. A list of prompts gives a clip each, texts at frames one clip, as that tool makes without
    `--repeats`: with the first seed and the first negative prompt. What is not carried out is logged. Raises UserError
    for an unknown key, naming the nearest.
    """
    for key in data:
        if key not in KNOWN:
            raise unknown_key(key, KNOWN, f"{where}: ")
    given = {key: value for key, value in data.items() if value is not None and value not in ("", {}, [])}
    if num_frames is None and isinstance(stated := given.get("num_frames"), int):
        num_frames = stated
    file = TravelFile(where=where, folders=folders, roots=roots)
    file.num_frames = num_frames or _length(file, given)
    values = {key: value for key, value in given.items() if key in FIELDS and key not in OF_THE_TOOL}
    values |= {SETTINGS[key]: value for key, value in given.items() if key in SETTINGS}
    values |= _models(given)
    values |= _texts(file, values, given, is_known=num_frames is not None)
    values |= _one_a_clip(file, values, given)
    values |= _sampler(file, given)
    loras = travel_loras(file, "lora_map", given.get("lora_map", {}), given.get("region_map", {}))
    if loras:
        values["loras"] = [*values.get("loras", []), *loras]
    if motion := travel_loras(file, "motion_lora_map", given.get("motion_lora_map", {})):
        values["motion_loras"] = motion
    for key, read in (
        ("img2img_map", travel_frames),
        ("controlnet_map", travel_controlnets),
        ("ip_adapter_map", travel_ip_adapter),
        ("output", travel_output),
    ):
        if key in given:
            values |= read(file, file.block(key, given[key]))
    travel_others(file, given)
    file.tell()
    try:
        return normal_prompts(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _length(file: TravelFile, given: Mapping[str, Any]) -> int:
    """Frames of the clip where nothing says so: of the frames to begin with, else as many as there."""
    block = given.get("img2img_map")
    folder = block.get("init_img_dir") if isinstance(block, Mapping) and block.get("enable") else None
    path = file.found(folder) if isinstance(folder, str) and folder else None
    frames = find_numbered(path) if path is not None and path.is_dir() else {}
    return min(max(frames) + 1, MAX_FRAMES) if frames else LENGTH


def _models(given: Mapping[str, Any]) -> dict[str, Any]:
    """The image model, a LoRA where `path` is one, and the title of the results, as that tool names them."""
    found: dict[str, Any] = {}
    base, path = given.get("base"), given.get("path")
    if base is not None:
        found["model"] = base
        if path is not None:
            found["loras"] = [{"path": path, "scale": given.get("lora_alpha", DEFAULT_LORA_ALPHA)}]
    if "name" in given:
        parts = [str(given["name"]), *(Path(str(each).replace("\\", "/")).stem for each in (path, base) if each)]
        found["name"] = "-".join(parts).lower()
    return found


def _texts(file: TravelFile, values: Mapping[str, Any], given: Mapping[str, Any], *, is_known: bool) -> dict[str, Any]:
    """Texts at frames of the clip, and how they blend; those beyond the clip are left out, as there."""
    found: dict[str, Any] = {}
    travels = [texts for texts in _prompts(values) if isinstance(texts, Mapping)]
    if isinstance(values.get("prompt_travel"), Mapping):
        travels.append(values["prompt_travel"])
    beyond = sorted({int(key) for texts in travels for key in texts if _frame(key) >= file.num_frames})
    if beyond:
        file.leave_out(
            "prompts" if "prompt_map" not in given else "prompt_map",
            f"texts beyond the clip of {file.num_frames} frames are left out, as there (at {some(beyond)}); "
            f"`num_frames` {beyond[-1] + 1} has room for all",
        )
        if not is_known:
            found["num_frames"] = file.num_frames
        if "prompt_travel" in values:
            found["prompt_travel"] = _inside(values["prompt_travel"], file.num_frames)
        if isinstance(values.get("prompt"), list):
            found["prompt"] = [
                _inside(text, file.num_frames) if isinstance(text, Mapping) else text for text in values["prompt"]
            ]
    if any(len(texts) > 1 for texts in travels):
        found["prompt_interpolation"] = "slerp" if given.get("tensor_interpolation_slerp", True) else "linear"
        hold = given.get("prompt_fixed_ratio", HOLD)
        found["prompt_hold"] = min(1.0, max(0.0, hold)) if isinstance(hold, int | float) else hold
        file.mention("prompt_map", "the last text blends back to the first there; here it does with `prompt_loop`")
    texts = [value for travel in travels for value in travel.values()]
    texts += [text for text in _prompts(values) if isinstance(text, str)]
    wildcards(file, [*texts, given.get("head_prompt"), given.get("tail_prompt")])
    return found


def _prompts(values: Mapping[str, Any]) -> list[Any]:
    prompt = values.get("prompt", [])
    return prompt if isinstance(prompt, list) else [prompt]


def _frame(key: Any) -> int:
    """The frame that a key names; 0 for what is none, which is reported where texts are read."""
    return int(key) if re.fullmatch(r"\s*\d+\s*", str(key)) else 0


def _inside(texts: Mapping[Any, Any], num_frames: int) -> dict[Any, Any]:
    """The texts within the clip; the first one where there is none."""
    inside = {key: text for key, text in texts.items() if _frame(key) < num_frames}
    first = min(texts, key=_frame)
    return inside or {0: texts[first]}


def _one_a_clip(file: TravelFile, values: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Seeds and negative prompts: lists go round with the clips."""
    found: dict[str, Any] = {}
    count = 1 if "prompt_travel" in values else max(1, len(_prompts(values)))
    for key, setting in (("seed", "seed"), ("n_prompt", "negative_prompt"), ("n_prompts", "negative_prompt")):
        if key not in given:
            continue
        listed = given[key] if isinstance(given[key], list) else [given[key]]
        if key == "seed":
            listed = [int(seed) if isinstance(seed, float) and seed.is_integer() else seed for seed in listed]
        chosen = [listed[index % len(listed)] for index in range(count)]
        found[setting] = chosen if len(set(map(str, chosen))) > 1 else chosen[0]
        if len(listed) > count:
            file.mention(key, f"{count} of {len(listed)} used; the others are for further clips (`--repeats` there)")
    return found


def _sampler(file: TravelFile, given: Mapping[str, Any]) -> dict[str, Any]:
    """Scheduler and layers of the text encoder."""
    found: dict[str, Any] = {}
    if isinstance(name := given.get("scheduler"), str):
        short = name.strip().lower().replace(" ", "_")
        karras, short = short.startswith("k_"), short.removeprefix("k_")
        found["scheduler"] = SCHEDULERS.get(short, short) + ("_karras" if karras or short == "dpmpp" else "")
        if short == "dpmpp_sde":
            file.mention("scheduler", f"{name} is DPM++ 2S of diffusers there: taken as {found['scheduler']}")
    if isinstance(skip := given.get("clip_skip"), int):
        found["clip_skip"] = max(0, skip - 1)  # 1 there is the last layer, as in A1111
    return found
