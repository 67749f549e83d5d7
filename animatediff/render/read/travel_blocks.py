"""Blocks of a JSON file of animatediff-cli-prompt-travel besides its images: LoRAs, regions, the result, the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from animatediff.errors import UserError
from animatediff.render.read.travel_file import TravelFile, some

SWITCHED = {
    "lcm_map": "is not supported by steps; an LCM-LoRA (`loras`) brings the LCM sampler, its steps and guidance",
    "gradual_latent_hires_fix_map": "is not supported; `upscale` renders the clip again at a larger size",
    "apply_lcm_lora": "names no file here; give an LCM-LoRA with `loras`",
    "lcm_lora_scale": "is the strength of an LCM-LoRA; give one with `loras`",
}
"""Features, most with a switch `enable`, that cannot be read from such a file here; what to use."""
OTHER_COMMANDS = {
    "upscale_config": "is for `tile-upscale` there, not for this clip; here `upscale` renders it again, larger",
    "stylize_config": "is for `stylize` there, not for this clip; here `video` begins with one",
    "result": "says where that tool wrote, and changes no frame",
}
UNIFORM = "uniform"
OF_OUTPUT = {
    "format": "results in a folder are gif; `out` names a file of another format",
    "encode_param": "`quality` says how good the result is",
    "preview_steps": "there are no files of previews here",
}
"""Parts of `output` beside `fps`, and what to use."""
OF_REGION = ("enable", "crop_generation_rate", "mask_dir", "save_mask", "is_init_img", "condition", "hint")
BACKGROUND = "background"
WILDCARD = re.compile(r"__[\w/-]+?__")


def travel_loras(file: TravelFile, key: str, given: Any, regions: Any = None) -> list[dict[str, Any]]:
    """LoRAs with one strength each. Those of some region or with a strength of its own by frame are noted."""
    if not isinstance(given, Mapping):
        raise UserError(f"{file.where}: {key}: expected files and their strengths, got {given!r}")
    found = []
    for path, scale in given.items():
        if not isinstance(scale, Mapping):
            found.append({"path": path, "scale": scale})
        elif (strength := _strength(file, key, path, scale, regions)) is not None:
            found.append({"path": path, "scale": strength})
    return found


def _strength(file: TravelFile, key: str, path: str, scale: Mapping[str, Any], regions: Any) -> Any:
    """The strength of a LoRA with regions and frames, if one for the whole clip is near to them; else None."""
    file.check_keys(key, scale, ("region", "scale"), path)
    where, at_frames = scale.get("region", [BACKGROUND]), scale.get("scale")
    if BACKGROUND not in where or not isinstance(at_frames, Mapping) or not at_frames:
        file.leave_out(key, "acts in some regions there, which are not supported; left out", path)
        return None
    first = at_frames[min(at_frames, key=_number)]
    if len(set(at_frames.values())) > 1:
        file.leave_out(key, f"its strengths by frame are not supported; {first} is taken for the whole clip", path)
    if set(map(str, where)) != {BACKGROUND, *_regions_on(regions)}:
        file.leave_out(key, "regions are not supported; it acts on the whole image", path)
    return first


def _number(key: Any) -> float:
    try:
        return float(key)
    except (TypeError, ValueError):
        return 0.0


def _regions_on(regions: Any) -> list[str]:
    """Names of the regions that are switched on, the background aside."""
    if not isinstance(regions, Mapping):
        return []
    return [
        str(name)
        for name, entry in regions.items()
        if name != BACKGROUND and isinstance(entry, Mapping) and entry.get("enable")
    ]


def travel_output(file: TravelFile, block: Mapping[str, Any]) -> dict[str, Any]:
    """The frame rate of `output`; the rest is noted."""
    file.check_keys("output", block, ("fps", *OF_OUTPUT))
    for part, advice in OF_OUTPUT.items():
        if block.get(part) and (part, block[part]) != ("format", "gif"):
            file.leave_out("output", advice, part)
    return {"fps": block["fps"]} if block.get("fps") else {}


def travel_others(file: TravelFile, given: Mapping[str, Any]) -> None:
    """Note everything else that the file asks for and that no setting here is."""
    for key, advice in SWITCHED.items():
        block = given.get(key)
        if block.get("enable") if isinstance(block, Mapping) else block:
            file.leave_out(key, advice)
    for key, advice in OTHER_COMMANDS.items():
        if key in given:
            file.mention(key, advice)
    regions = given.get("region_map", {})
    for name in _regions_on(regions):
        file.leave_out("region_map", "regions are not supported; the prompt is that of the whole image", name)
        file.check_keys("region_map", regions[name], OF_REGION, name)
    if (
        isinstance(regions, Mapping)
        and isinstance(back := regions.get(BACKGROUND), Mapping)
        and back.get("is_init_img")
    ):
        file.leave_out(
            "region_map", "its images are not kept; `strength` says how much of the whole changes", BACKGROUND
        )
    if (schedule := given.get("context_schedule", UNIFORM)) != UNIFORM:
        file.leave_out("context_schedule", "is not supported; windows overlap evenly (`overlap`, `stride`)", schedule)
    if given.get("is_single_prompt_mode"):
        file.leave_out("is_single_prompt_mode", "is not supported; each frame has its own blend of the texts")
    if given.get("compile"):
        file.mention("compile", "changes no frame; models are not compiled here")
    if given.get("unet_batch_size", 1) != 1:
        file.mention("unet_batch_size", "changes no frame; positive and negative prompts go together here")
    if "is_v2" in given:
        file.mention("is_v2", "is not needed; the family is known from the motion module")


def wildcards(file: TravelFile, texts: Iterable[Any]) -> None:
    """Note words that stand for a file of words there."""
    found = [word for text in texts if isinstance(text, str) for word in WILDCARD.findall(text)]
    if found:
        file.leave_out("wildcards", f"are read as words: {some(list(dict.fromkeys(found)))}; write out one of each")
