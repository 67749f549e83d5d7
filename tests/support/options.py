"""A value of every option that is not its default, for tests that walk the options through a door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from animatediff.render.options import BY_NAME, FIELDS

Files = Callable[[str, str], str]
"""(mark, option) -> the file that a test has for it.

Marks are IMAGE, VIDEO, NUMBERED (a folder of images), MODEL and YAML.
"""

EXAMPLES: Mapping[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "prompt_travel": {8: "a dog", 12: "a fox"},
    "seed": 2**63 + 5,
    "num_frames": 24,
    "width": 72,
    "height": 80,
    "guidance_scale": 3.5,
    "scheduler": "euler_a",
    "family": "v2",
    "motion_scale": {0: 1.0, 15: 0.3},
    "image_affinity": {0: 1.0, 15: 0.6},
    "window": 12,
    "overlap": 3,
    "controlnet_spread": [[0.5, 0.3]],
    "control_indices": [3],
    "keyframes": [{"frame": 2, "path": "IMAGE"}, {"frame": -1, "path": "IMAGE"}],
    "ip_adapter_encoder": "MODEL",
    "name": "my clip",
    "out": "sub/clip.gif",
    "fps": 12.5,
    "fps_out": 24.0,
    "upscale": 2.0,
    "device": "cpu",
    "dtype": "float32",
    "vram": "6GB",
    "camera": "zoom-in:0.5, pan-left:0.2",
    "motion_from_blocks": "down, up",
}
"""A value of each option whose type does not tell one; files by their marks."""
_ENCODER = {"sparsectrl": "MODEL", "control_images": ["IMAGE"]}
_NET = {"controlnet": ["MODEL"], "controlnet_video": ["VIDEO"]}
_ADAPTER = {"ip_adapter": "MODEL", "ip_adapter_image": ["IMAGE"]}
_NEEDED: Mapping[str, Mapping[str, Any]] = {
    **{name: _ENCODER for name in FIELDS if name.startswith("control_")},
    **dict.fromkeys(("sparsectrl", "sparsectrl_config", "normalize_condition_images"), _ENCODER),
    **{name: _NET for name in FIELDS if name.startswith("controlnet")},
    **{name: _ADAPTER for name in FIELDS if name.startswith("ip_adapter")},
    **{name: {"video": "VIDEO"} for name in ("strength", "video_fps", "video_start", "video_duration", "audio")},
    **{name: {"camera_control": "MODEL", "camera": "zoom-in"} for name in FIELDS if name.startswith("camera")},
    "video_by_number": {"video": "NUMBERED"},
    "image_mode": {"image": "IMAGE"},
    **{name: {"upscale": 2.0} for name in ("upscale_strength", "upscale_steps")},
}
"""Other settings without which a request with an option is refused."""


def settings_with(name: str, files: Files) -> dict[str, Any]:
    """A prompt, an option with a value that is not its default, and what that needs, as a file of rows has them."""
    settings = {"prompt": "a fox", **_NEEDED.get(name, {}), name: example(name)}
    return {option: with_marked(value, option, files) for option, value in settings.items()}


def example(name: str) -> Any:
    """A value of an option that is not its default, with marks for files."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    option = BY_NAME[name]
    kind = option.annotation.removeprefix("tuple[").removesuffix(", ...]").removesuffix(" | None")
    default = option.default[0] if isinstance(option.default, tuple) and option.default else option.default
    if kind == "WeightRef":
        value: Any = {"path": "MODEL", "scale": 0.7}
    elif kind == "EmbeddingRef":
        value = {"path": "MODEL", "token": "ugly"}
    elif option.in_memory:
        value = "IMAGE" if option.in_memory == "image" else "VIDEO"
    elif option.folder is not None:
        value = "MODEL" if option.folder else "YAML"
    elif option.entry is bool:
        value = not default
    elif option.choices is not None:
        value = next(word for word in option.choices if word != default)
    elif option.entry is int:
        value = (default or 1) + 2
    elif option.entry is float:
        value = 0.25 if default != 0.25 else 0.5
    else:
        value = "some words"
    return [value] if option.many else value


def with_marked(value: Any, option: str, files: Files) -> Any:
    """`value` with files in the places of their marks."""
    if isinstance(value, str):
        return files(value, option) if value in ("IMAGE", "VIDEO", "NUMBERED", "MODEL", "YAML") else value
    if isinstance(value, list):
        return [with_marked(item, option, files) for item in value]
    if isinstance(value, dict):
        return {key: with_marked(item, option, files) for key, item in value.items()}
    return value
