"""The folders of images that a JSON file of animatediff-cli-prompt-travel names: for ControlNets, IP-Adapters, frames.

Images are named by their frames. Which weights they are for follows from the block they are named in; these are
looked for in models/ControlNet and models/IP-Adapter, by the names under which they were published, and where that
tool puts them below data/.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from animatediff.render.read.travel_file import TravelFile

CONTROLNETS = {
    "animatediff_controlnet": "controlnet_checkpoint",
    "controlnet_canny": "control_v11p_sd15_canny",
    "controlnet_depth": "control_v11f1p_sd15_depth",
    "controlnet_inpaint": "control_v11p_sd15_inpaint",
    "controlnet_ip2p": "control_v11e_sd15_ip2p",
    "controlnet_lineart": "control_v11p_sd15_lineart",
    "controlnet_lineart_anime": "control_v11p_sd15s2_lineart_anime",
    "controlnet_mediapipe_face": "control_v2p_sd15_mediapipe_face",
    "controlnet_mlsd": "control_v11p_sd15_mlsd",
    "controlnet_normalbae": "control_v11p_sd15_normalbae",
    "controlnet_openpose": "control_v11p_sd15_openpose",
    "controlnet_scribble": "control_v11p_sd15_scribble",
    "controlnet_seg": "control_v11p_sd15_seg",
    "controlnet_shuffle": "control_v11e_sd15_shuffle",
    "controlnet_softedge": "control_v11p_sd15_softedge",
    "controlnet_tile": "control_v11f1e_sd15_tile",
    "qr_code_monster_v1": "control_v1p_sd15_qrcode_monster",
    "qr_code_monster_v2": "control_v1p_sd15_qrcode_monster_v2",
}
"""Block -> name of its weights (lllyasviel/ControlNet-v1-1, CrucibleAI, monster-labs, crishhh)."""
SKETCHES = {
    "canny": "canny",
    "scribble_hed": "scribble",
    "scribble_hedsafe": "scribble",
    "scribble_pidinet": "scribble",
}
SKETCHES |= {"scribble_pidsafe": "scribble"}
"""Preprocessors that are drawn here; images for all others are to be prepared."""
USUAL = {"controlnet_canny": "canny", "controlnet_scribble": "scribble_pidsafe"}
"""Block -> the preprocessor that it has where it names none, of those drawn here."""
AS_THEY_ARE = ("animatediff_controlnet", "controlnet_inpaint", "controlnet_ip2p", "controlnet_tile")
"""Blocks that have no preprocessor where they name none."""

IP_ADAPTERS = {
    "is_full_face": "ip-adapter-full-face_sd15",
    "is_light": "ip-adapter_sd15_light",
    "is_plus_face": "ip-adapter-plus-face_sd15",
    "is_plus": "ip-adapter-plus_sd15",
}
"""Switch -> name of its weights (h94/IP-Adapter), the first that is on."""

SUFFIXES = ("", ".safetensors", ".pth", ".bin", ".ckpt")
PLACES = {
    "ControlNet": ("models/controlnet", "models/controlnet/animatediff_controlnet"),
    "IP-Adapter": ("models/ip_adapter/models",),
}
"""Folder under models/ -> where that tool puts such files below data/."""

OF_MACHINE = ("max_samples_on_vram", "max_models_on_vram", "preprocess_on_gpu", "save_detectmap", "no_shrink_list")
"""Settings of `controlnet_map` about memory and files; they change no frame."""
OF_CONTROLNET = (
    *("enable", "use_preprocessor", "preprocessor", "guess_mode", "controlnet_conditioning_scale"),
    *("control_guidance_start", "control_guidance_end", "control_scale_list", "control_region_list"),
)
OF_IP_ADAPTER = (
    *("enable", "input_image_dir", "prompt_fixed_ratio", "save_input_image", "resized_to_square", "scale"),
    *IP_ADAPTERS,
)
OF_FRAMES = ("enable", "init_img_dir", "save_init_image", "denoising_strength")
DEFAULT_DENOISING = 0.7
HOLD = 0.5
"""Share of the way to the next image that holds the one before, where a file does not say."""


def travel_controlnets(file: TravelFile, block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `controlnet_map`. Blocks without images do nothing, as there."""
    key = "controlnet_map"
    on = {name: entry for name, entry in block.items() if isinstance(entry, Mapping) and file.is_on(key, entry)}
    for name in [name for name in on if name not in CONTROLNETS]:
        del on[name]
        if name == "controlnet_ref":
            file.leave_out(
                key, "reference images are not supported; an IP-Adapter (`ip_adapter`) is near to them", name
            )
        else:
            file.leave_out(key, f"no such ControlNet; known are {', '.join(CONTROLNETS)}", name)
    told = ["input_image_dir", "is_loop", *OF_MACHINE, *CONTROLNETS, "controlnet_ref"]
    file.check_keys(key, {name: entry for name, entry in block.items() if not isinstance(entry, Mapping)}, told)
    if not on:
        return {}
    root = block.get("input_image_dir")
    if not isinstance(root, str) or not root.strip() or not file.found(root).is_dir():
        file.leave_out(
            key, f"is switched on, but its folder of images is missing ({root or 'none named'}), so it is off"
        )
        return {}
    controlnets: dict[str, list[Any]] = {}
    for name, entry in on.items():
        folder = file.found(f"{root}/{name}")
        if not file.images(key, str(folder), name):
            continue
        file.check_keys(key, entry, OF_CONTROLNET, name)
        for part, advice in (
            ("guess_mode", "`guess_mode` is not supported; a lower `controlnet_scale` frees the prompt"),
            ("control_region_list", "regions are not supported; it acts on the whole image"),
        ):
            if entry.get(part):
                file.leave_out(key, advice, name)
        for setting, value in {
            "controlnet": weights(CONTROLNETS[name], "ControlNet", file),
            "controlnet_video": str(folder),
            "controlnet_preprocess": _preprocess(file, name, entry),
            "controlnet_scale": entry.get("controlnet_conditioning_scale", 1.0),
            "controlnet_start": entry.get("control_guidance_start", 0.0),
            "controlnet_end": entry.get("control_guidance_end", 1.0),
            "controlnet_spread": list(entry.get("control_scale_list") or [0.0]),
        }.items():
            controlnets.setdefault(setting, []).append(value)
    if controlnets and block.get("is_loop", True):
        file.mention(key, "images act across the ends of the clip there; here they do with `closed_loop`", "is_loop")
    if controlnets and (told := [name for name in OF_MACHINE if name in block]):
        file.mention(key, "changes no frame here", ", ".join(told))
    return controlnets


def _preprocess(file: TravelFile, name: str, entry: Mapping[str, Any]) -> str:
    """How sketches are made of the images of a block: none, canny, scribble."""
    if not entry.get("use_preprocessor", True):
        return "none"
    stated = entry.get("preprocessor")
    kind = stated.get("type") if isinstance(stated, Mapping) else None
    if kind is None:
        kind = USUAL.get(name, "none" if name in AS_THEY_ARE else "its usual one")
    if isinstance(stated, Mapping) and stated.get("param"):
        file.leave_out("controlnet_map", "parameters of the preprocessor are not taken", name)
    if kind in SKETCHES:
        return SKETCHES[kind]
    if kind != "none":
        file.leave_out("controlnet_map", "its preprocessor is not here; the images are taken as they are", name)
    return "none"


def travel_ip_adapter(file: TravelFile, block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `ip_adapter_map`: images that the adapter goes through with the clip, each held for a while."""
    key = "ip_adapter_map"
    if not file.is_on(key, block):
        return {}
    file.check_keys(key, block, OF_IP_ADAPTER)
    images = file.images(key, block.get("input_image_dir"))
    if not images:
        return {}
    if block.get("resized_to_square"):
        file.leave_out(key, "images are cut to a square, not stretched", "resized_to_square")
    kind = next((kind for flag, kind in IP_ADAPTERS.items() if block.get(flag)), "ip-adapter_sd15")
    held = _held(images, block.get("prompt_fixed_ratio", HOLD))
    return {
        "ip_adapter": weights(kind, "IP-Adapter", file),
        "ip_adapter_scale": block.get("scale", 0.5),
        "keyframes": {frame: str(path) for frame, path in held.items()},
        "image_mode": "ip-adapter",
    }


def _held(images: Mapping[int, Path], hold: Any) -> dict[int, Path]:
    """The images, each once more at the end of the share of its stretch that holds it."""
    share = min(1.0, max(0.0, float(hold))) if isinstance(hold, int | float) else HOLD
    frames = list(images)
    held = dict(images)
    for first, second in pairwise(frames):
        until = min(first + round((second - first) * share), second - 1)
        if until > first:
            held[until] = images[first]
    return dict(sorted(held.items()))


def travel_frames(file: TravelFile, block: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `img2img_map`: frames that a clip begins with, and how much of them is made anew."""
    key = "img2img_map"
    if not file.is_on(key, block):
        return {}
    file.check_keys(key, block, OF_FRAMES)
    images = file.images(key, block.get("init_img_dir"))
    if not images:
        return {}
    if list(images) != list(range(file.num_frames)):
        file.mention(key, "frames without an image of their own are blended from their neighbours")
    return {
        "video": str(file.found(block["init_img_dir"])),
        "video_by_number": True,
        "strength": block.get("denoising_strength", DEFAULT_DENOISING),
    }


def weights(name: str, folder: str, file: TravelFile) -> str:
    """Path of the file or diffusers folder of this name under models/; if there is none, the path to put it at."""
    models = [root / folder for root in file.roots.models]
    below = [data / place for data in file.folders for place in PLACES[folder]]
    places = (place / f"{name}{suffix}" for place in (*models, *below) for suffix in SUFFIXES)
    return str(next((place for place in places if place.exists()), models[0] / f"{name}.safetensors"))
