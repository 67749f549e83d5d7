"""Names of options on the page, as users of A1111, ComfyUI and diffusers know them, and the groups they stand in."""

from __future__ import annotations

import re
from collections.abc import Iterable

from animatediff.errors import renamed
from animatediff.render.options import BY_NAME, OPTIONS

NOT_ON_THE_PAGE = ("out", "download")
"""Whoever starts the page decides where results go and whether the network is asked."""

LABELS = {
    "model": "Model (checkpoint)",
    "motion_module": "Motion module",
    "family": "Motion module family",
    "conv_in_from_file": "First layer from the file (PIA)",
    "vae": "VAE",
    "text_encoder": "Text encoder (CLIP)",
    "text_encoder_2": "Second text encoder (SDXL)",
    "prediction_type": "Prediction type",
    "use_ema": "Use EMA weights",
    "loras": "LoRA",
    "motion_loras": "MotionLoRA",
    "domain_adapter": "Domain adapter (v3)",
    "embeddings": "Textual inversion",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "prompt_travel": "Prompt travel",
    "prompt_head": "Head prompt",
    "prompt_tail": "Tail prompt",
    "prompt_interpolation": "Interpolation",
    "prompt_hold": "Hold",
    "prompt_loop": "Blend back to the first text",
    "plain_prompts": "Plain prompts",
    "seed": "Seed",
    "num_frames": "Frames",
    "width": "Width",
    "height": "Height",
    "steps": "Sampling steps",
    "guidance_scale": "CFG scale",
    "fast": "Fast mode",
    "guidance_rescale": "CFG rescale",
    "scheduler": "Sampling method",
    "clip_skip": "Clip skip",
    "window": "Context length",
    "overlap": "Context overlap",
    "stride": "Context stride",
    "blend": "Fuse method",
    "motion_scale": "Motion scale",
    "closed_loop": "Closed loop",
    "long_mode": "Windows over",
    "noise": "Noise",
    "freeinit": "FreeInit iterations",
    "freeinit_filter": "FreeInit filter",
    "freeinit_ds": "FreeInit d_s",
    "freeinit_dt": "FreeInit d_t",
    "sparsectrl": "SparseCtrl encoder",
    "control_images": "SparseCtrl images",
    "control_indices": "SparseCtrl frames",
    "control_scale": "SparseCtrl strength",
    "control_start": "SparseCtrl start",
    "control_end": "SparseCtrl end",
    "control_preprocess": "SparseCtrl preprocessor",
    "normalize_condition_images": "Normalize to grey",
    "sparsectrl_config": "SparseCtrl YAML",
    "image": "First frame",
    "last_image": "Last frame",
    "keyframes": "Keyframes",
    "image_mode": "Image mode",
    "motion_amount": "Amount of motion (PIA)",
    "image_affinity": "Affinity to the image (PIA)",
    "image_motion_scale": "Motion scale (AnimateLCM-I2V)",
    "color_match": "Match colours to the image",
    "ip_adapter": "IP-Adapter model",
    "ip_adapter_image": "IP-Adapter images",
    "ip_adapter_scale": "IP-Adapter weight",
    "ip_adapter_encoder": "CLIP image encoder",
    "drive": "Driving video",
    "drive_kind": "What is followed",
    "controlnet": "ControlNet model",
    "controlnet_video": "Control video or images",
    "controlnet_preprocess": "Preprocessor",
    "controlnet_scale": "Control weight",
    "controlnet_start": "Starting control step",
    "controlnet_end": "Ending control step",
    "controlnet_spread": "Spread to neighbouring frames",
    "video": "Video or images",
    "strength": "Denoising strength",
    "video_fps": "Frames to take a second",
    "video_start": "Start (seconds)",
    "video_duration": "Duration (seconds)",
    "video_by_number": "Images are named by their frames",
    "resize": "Resize mode",
    "audio": "Keep the sound",
    "motion_from": "Video to take the movement of",
    "motion_from_strength": "Strength of the movement",
    "motion_from_start": "Starting step of the movement",
    "motion_from_end": "Ending step of the movement",
    "motion_from_blocks": "Motion modules it goes through",
    "camera_control": "CameraCtrl model",
    "camera": "Path of the camera",
    "camera_scale": "Camera strength",
    "camera_aspect": "Aspect of the pose file's video",
    "upscale": "Upscale by",
    "upscale_strength": "Hires denoising strength",
    "upscale_steps": "Hires steps",
    "upscaler": "Upscaler",
    "device": "Device",
    "dtype": "Precision",
    "cpu_offload": "CPU offload",
    "compile": "Compile the UNet",
    "decode_chunk_size": "Frames decoded at once",
    "vram": "Memory limit",
    "inference_config": "Inference YAML",
    "name": "Title",
    "fps": "FPS",
    "fps_out": "FPS after interpolation",
    "codec": "Codec",
    "max_size": "Largest size (MB)",
    "quality": "Quality",
    "loop": "Loop number",
}

GROUPS: dict[str, tuple[str, ...]] = {
    "Prompt travel": (
        *("prompt_travel", "prompt_interpolation", "prompt_hold", "prompt_head", "prompt_tail"),
        "prompt_loop",
    ),
    "Camera and motion": (
        *("motion_loras", "motion_scale", "camera_control", "camera", "camera_scale", "camera_aspect"),
    ),
    "LoRA and embeddings": ("loras", "embeddings", "domain_adapter"),
    "Animate an image": (
        *("image", "last_image", "keyframes", "image_mode", "motion_amount", "image_affinity"),
        *("image_motion_scale", "color_match", "resize"),
    ),
    "Portraits and poses": ("drive", "drive_kind"),
    "Movement of a video": (
        *("motion_from", "motion_from_strength", "motion_from_start", "motion_from_end", "motion_from_blocks"),
    ),
    "Start from a video": (
        *("video", "strength", "video_fps", "video_start", "video_duration", "audio", "video_by_number"),
    ),
    "SparseCtrl": (
        *("sparsectrl", "control_images", "control_indices", "control_preprocess", "control_scale"),
        *("control_start", "control_end", "normalize_condition_images", "sparsectrl_config"),
    ),
    "ControlNet": (
        *("controlnet", "controlnet_preprocess", "controlnet_video", "controlnet_scale"),
        *("controlnet_start", "controlnet_end", "controlnet_spread"),
    ),
    "IP-Adapter": ("ip_adapter", "ip_adapter_encoder", "ip_adapter_image", "ip_adapter_scale"),
    "Long clips and loops": (
        *("closed_loop", "long_mode", "window", "overlap", "stride", "blend", "noise"),
        *("freeinit", "freeinit_filter", "freeinit_ds", "freeinit_dt"),
    ),
    "Second pass and upscaler": ("upscale", "upscale_strength", "upscale_steps", "upscaler"),
    "Sampling details": ("fast", "guidance_rescale", "clip_skip", "plain_prompts"),
    "Model parts": (
        "family",
        "conv_in_from_file",
        "prediction_type",
        "vae",
        "text_encoder",
        "text_encoder_2",
        "use_ema",
    ),
    "Machine": ("device", "dtype", "vram", "decode_chunk_size", "cpu_offload", "compile", "inference_config"),
    "Output file": ("name", "codec", "quality", "max_size", "fps_out", "loop"),
}
"""Folded part of the page -> its options, in order."""

IN_SIGHT = (
    *("prompt", "negative_prompt", "model", "motion_module", "width", "height", "num_frames", "fps"),
    *("steps", "guidance_scale", "scheduler", "seed"),
)
"""Options that everybody sees."""

_OF_PANELS = {
    "Model": "Model parts",
    "Prompts": "Prompt travel",
    "Image and motion": "Sampling details",
    "Images to show": "SparseCtrl",
    "Video to start from": "Start from a video",
    "Upscale": "Second pass and upscaler",
    "Output": "Output file",
}
_PLACED = {name: title for title, names in GROUPS.items() for name in names}


def label(name: str) -> str:
    """The label of an option."""
    return LABELS.get(name) or name.replace("_", " ").capitalize()


def info(name: str) -> str | None:
    """The line under the label of an option; those in sight need none, except the seed."""
    return worded(BY_NAME[name].help) if name not in IN_SIGHT or name == "seed" else None


def group(name: str) -> str | None:
    """The folded part that an option stands in; None for one in sight."""
    if name in IN_SIGHT:
        return None
    panel = BY_NAME[name].panel
    return _PLACED.get(name) or _OF_PANELS.get(panel, panel)


def groups() -> dict[str, list[str]]:
    """The folded parts with their options; options that no group names stand where their panel does."""
    found = {title: [name for name in names if name in BY_NAME] for title, names in GROUPS.items()}
    for option in OPTIONS:
        title = None if option.name in NOT_ON_THE_PAGE else group(option.name)
        if title is not None and option.name not in found.setdefault(title, []):
            found[title].append(option.name)
    return found


def worded(message: str) -> str:
    """A message with the labels of the page in place of the names of options."""
    shown = {option.name: f"“{label(option.name)}”" for option in OPTIONS}
    lines = []
    for line in renamed(message, shown).splitlines():
        found = _VALUE.match(line)
        if found and found[1] in BY_NAME and (found[3] or "_" in found[1]):
            line = f"{shown[found[1]]}{found[2]}{' ' if found[3] else ''}{found[4]}"
        lines.append(line.replace(" (setting model)", "").strip())
    return "\n".join(lines)


_VALUE = re.compile(r"^([a-z][a-z0-9_]*)\b((?:\[\d+\])?(?:\.[a-z_]+)?)(=)?(.*)$", re.DOTALL)


def concerned(message: str, known: Iterable[str]) -> list[str]:
    """The options that one line of a message is about, the one that is wrong first."""
    known = set(known)
    names = [found[1]] if (found := _VALUE.match(message)) else []
    names += re.findall(r"^unknown ([a-z0-9_]+)", message)
    names += re.findall(r"`([a-z][a-z0-9_]*)`", message)
    names += re.findall(r"\(setting ([a-z0-9_]+)\)", message)
    names += re.findall(r"\b([a-z][a-z0-9]*_[a-z0-9_]+)\b", message)
    return [name for name in dict.fromkeys(_ARGUMENTS.get(name, name) for name in names) if name in known]


_ARGUMENTS = {item.argument: item.name for item in OPTIONS if item.as_it_is and item.argument is not None}
