"""Inputs of published animate-diff models, which clients of theirs send: taken under their names, as deprecated inputs.

Of lucataco/animate-diff and its SDXL sibling, zsxkib/animate-diff (older versions too), lucataco's vid2vid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from animatediff.errors import UserError, brief

from .inputs import CogInput

ALIASES = {
    "n_prompt": "negative_prompt",
    "frames": "num_frames",
    "video_length": "num_frames",
    "L": "num_frames",
    "W": "width",
    "H": "height",
    "num_inference_steps": "steps",
    "path": "model",
    "base_model": "model",
    "checkpoint": "model",
    "dreambooth_type": "model",
    "motion_module_type": "motion_module",
}
"""Their name -> the input that it is."""
ASPECTS = {"9:16": 9 / 16, "2:3": 2 / 3, "1:1": 1.0, "3:2": 3 / 2, "16:9": 16 / 9}
_TO_BUILD = "a prediction fetches no models; put the file into models/ when the image is built, and name it by"
REFUSED = {
    "custom_base_model_url": f"{_TO_BUILD} `model`",
    "custom_motionlora_url": f"{_TO_BUILD} `motion_loras`",
    "use_custom_motionlora": f"{_TO_BUILD} `motion_loras`",
}
"""Inputs whose work is not done here, and what to do."""
NO_FILE = ("", "none", "custom")
"""Words for no model of the list."""


def published_inputs(own: Mapping[str, CogInput]) -> list[CogInput]:
    """The deprecated inputs, with the ranges of those that they stand for."""
    found = [
        replace(
            own[name],
            name=alias,
            required=False,
            default=None,
            choices=None,
            deprecated=True,
            description=f"Former name of `{name}`.",
        )
        for alias, name in ALIASES.items()
    ]
    found += [
        _deprecated("use_checkpoint", "bool", "Leave `model` out to have the model that is taken without one."),
        _deprecated("lora_model_path", "str", "Use `loras`."),
        _deprecated("motion_module_lora_type", "str", "Use `motion_loras`."),
        _deprecated("alpha", "float", "Use `motion_loras` as NAME:SCALE."),
        _deprecated("aspect", "str", "Use `width` and `height`.", choices=tuple(ASPECTS)),
        _deprecated("mp4", "bool", "Use `output_format`: mp4, or gif."),
        _deprecated("custom_motionlora_motion_strength", "float", "Use `motion_loras` as NAME:SCALE."),
    ]
    for name, reason in REFUSED.items():
        kind = "bool" if name.startswith("use_") else "str"
        found.append(_deprecated(name, kind, f"Not taken: {reason}."))
    return found


def _deprecated(name: str, kind: str, description: str, **more: Any) -> CogInput:
    return CogInput(name=name, kind=kind, description=description, deprecated=True, **more)


def in_our_inputs(given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The inputs with ours in place of the published ones, but for `aspect`.

    notes: gets what was decided. Raises UserError for two that disagree, and for one that is not taken.
    """
    values = dict(given)
    for name, reason in REFUSED.items():
        if values.pop(name, None):
            raise UserError(f"{name} is not taken: {reason}")
    if values.pop("custom_motionlora_motion_strength", None) is not None:
        notes.append("custom_motionlora_motion_strength is left out: there is no custom MotionLoRA")
    if values.pop("use_checkpoint", None) is False and values.pop("checkpoint", None) is not None:
        notes.append("use_checkpoint is false: checkpoint is left out")
    for alias, name in ALIASES.items():
        value = values.pop(alias, None)
        if name in ("model", "motion_module") and str(value).lower() in NO_FILE:
            continue
        if value is not None:
            _put(values, name, value, alias)
    _add_loras(values, notes)
    if (mp4 := values.pop("mp4", None)) is not None:
        _put(values, "output_format", "mp4" if mp4 else "gif", "mp4")
    return values


def _put(values: dict[str, Any], name: str, value: Any, alias: str) -> None:
    if values.setdefault(name, value) != value:
        given = f"{alias}={brief(value)}" if alias in ALIASES else alias
        raise UserError(f"{given} and {name}={brief(values[name])} contradict each other; give {name} alone")


def _add_loras(values: dict[str, Any], notes: list[str]) -> None:
    """The single LoRA and MotionLoRA of older models in our lists."""
    if (path := values.pop("lora_model_path", None)) is not None:
        values["loras"] = [*values.get("loras", ()), path]
    move, alpha = values.pop("motion_module_lora_type", None), values.pop("alpha", None)
    if move is not None and move.lower() not in NO_FILE:
        scaled = move if alpha is None else f"{move}:{alpha}"
        values["motion_loras"] = [*values.get("motion_loras", ()), scaled]
    elif alpha is not None:
        notes.append("alpha is left out: it is the scale of motion_module_lora_type, and that names none")


def size_of(aspect: str, side: int) -> tuple[int, int]:
    """Width and height in pixels of about side x side pixels, in multiples of 8.

    >>> size_of("16:9", 512), size_of("2:3", 64)
    ((680, 384), (56, 80))
    """
    ratio = ASPECTS[aspect] ** 0.5
    width, height = (max(8, round(length / 8) * 8) for length in (side * ratio, side / ratio))
    return width, height
