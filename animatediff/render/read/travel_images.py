"""The folders of images that a JSON file of animatediff-cli-prompt-travel names: for ControlNets and IP-Adapters.

Images are named by their frames. Which weights they are for follows from the block they are named in; these are
looked for in models/ControlNet and models/IP-Adapter, by the names under which they were published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, find
from animatediff.media.numbered import numbered_images

CONTROLNETS = {
    "controlnet_canny": "control_v11p_sd15_canny",
    "controlnet_depth": "control_v11f1p_sd15_depth",
    "controlnet_inpaint": "control_v11p_sd15_inpaint",
    "controlnet_ip2p": "control_v11e_sd15_ip2p",
    "controlnet_lineart": "control_v11p_sd15_lineart",
    "controlnet_lineart_anime": "control_v11p_sd15s2_lineart_anime",
    "controlnet_mlsd": "control_v11p_sd15_mlsd",
    "controlnet_normalbae": "control_v11p_sd15_normalbae",
    "controlnet_openpose": "control_v11p_sd15_openpose",
    "controlnet_scribble": "control_v11p_sd15_scribble",
    "controlnet_seg": "control_v11p_sd15_seg",
    "controlnet_shuffle": "control_v11e_sd15_shuffle",
    "controlnet_softedge": "control_v11p_sd15_softedge",
    "controlnet_tile": "control_v11f1e_sd15_tile",
}
"""Block -> name of its weights (lllyasviel/ControlNet-v1-1)."""
SKETCHES = {"controlnet_canny": "canny", "controlnet_scribble": "scribble"}
"""Preprocessors that are drawn here; images for all others are to be prepared."""
AS_THEY_ARE = ("controlnet_tile", "controlnet_ip2p", "controlnet_shuffle")
"""Blocks for plain images."""

IP_ADAPTERS = {
    "is_full_face": "ip-adapter-full-face_sd15",
    "is_plus_face": "ip-adapter-plus-face_sd15",
    "is_plus": "ip-adapter-plus_sd15",
    "is_light": "ip-adapter_sd15_light",
}
"""Switch -> name of its weights (h94/IP-Adapter), the first that is on."""

SUFFIXES = ("", ".safetensors", ".pth", ".bin", ".ckpt")


def travel_controlnets(
    block: Any, where: str, folders: Sequence[Path], roots: Roots = HERE
) -> tuple[dict[str, Any], list[str]]:
    """Settings of `controlnet_map`, and its parts that are left out. Blocks without images do nothing, as there."""
    if not isinstance(block, Mapping):
        return {}, []
    on = {name: entry for name, entry in block.items() if isinstance(entry, Mapping) and entry.get("enable")}
    if on and not block.get("input_image_dir"):
        raise _no_folder(where, "controlnet_map")
    controlnets: dict[str, list[Any]] = {}
    odd = []
    for name, entry in on.items():
        folder = Path(find(f"{block['input_image_dir']}/{name}", folders, roots=roots))
        if name not in CONTROLNETS:
            odd.append(f"controlnet_map ({name})")
            continue
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        drawn = bool(entry.get("use_preprocessor", True)) and name not in AS_THEY_ARE
        if drawn and name not in SKETCHES:
            odd.append(f"controlnet_map ({name}: its preprocessor; the images are taken as they are)")
        for key in ("guess_mode", "control_region_list"):
            if entry.get(key):
                odd.append(f"controlnet_map ({name}: {key})")
        for setting, value in {
            "controlnet": weights(CONTROLNETS[name], "ControlNet", roots),
            "controlnet_video": str(folder),
            "controlnet_preprocess": SKETCHES.get(name, "none") if drawn else "none",
            "controlnet_scale": entry.get("controlnet_conditioning_scale", 1.0),
            "controlnet_start": entry.get("control_guidance_start", 0.0),
            "controlnet_end": entry.get("control_guidance_end", 1.0),
            "controlnet_spread": list(entry.get("control_scale_list") or [0.0]),
        }.items():
            controlnets.setdefault(setting, []).append(value)
    return controlnets, odd


def travel_ip_adapter(
    block: Any, where: str, folders: Sequence[Path], roots: Roots = HERE
) -> tuple[dict[str, Any], list[str]]:
    """Settings of `ip_adapter_map`: images that the adapter goes through with the clip."""
    if not isinstance(block, Mapping) or not block.get("enable"):
        return {}, []
    if not block.get("input_image_dir"):
        raise _no_folder(where, "ip_adapter_map")
    images = numbered_images(find(block["input_image_dir"], folders, roots=roots))
    kind = next((kind for flag, kind in IP_ADAPTERS.items() if block.get(flag)), "ip-adapter_sd15")
    fixed = block.get("prompt_fixed_ratio")
    settings = {
        "ip_adapter": weights(kind, "IP-Adapter", roots),
        "ip_adapter_scale": block.get("scale", 0.5),
        "keyframes": {frame: str(path) for frame, path in images.items()},
        "image_mode": "ip-adapter",
    }
    return settings, ["ip_adapter_map (prompt_fixed_ratio: the images blend all the way)"] if fixed else []


def _no_folder(where: str, name: str) -> UserError:
    return UserError(f"{where}: {name} is on, but its input_image_dir is missing: the folder of the images")


def weights(name: str, folder: str, roots: Roots = HERE) -> str:
    """Path of the file or diffusers folder of this name under models/; if there is none, the path to put it at."""
    places = [models / folder / f"{name}{suffix}" for models in roots.models for suffix in SUFFIXES]
    found = next((place for place in places if place.exists()), roots.models[0] / folder / f"{name}.safetensors")
    return str(found)
