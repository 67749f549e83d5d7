"""What the node pack uses of ComfyUI, small: the same tests pass here and in the real host, which keeps this true.

Written against the public behaviour of ComfyUI 0.33. `install` puts the modules under ComfyUI's names.
"""

from __future__ import annotations

import sys
import types
from typing import Any


def install() -> None:
    """Make `comfy`, `comfy_api.latest`, `comfy_extras` and `folder_paths` importable."""
    from support.comfy_stub import api, folders, host, network, patcher, sampling, windows

    contents: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.ops": {"manual_cast": network.manual_cast},
        "comfy.model_management": {**vars(patcher), **vars(host)},
        "comfy.model_patcher": vars(patcher),
        "comfy.patcher_extension": vars(patcher),
        "comfy.lora": {"model_lora_keys_unet": network.model_lora_keys_unet},
        "comfy.weight_adapter": {"LoRAAdapter": patcher.LoRAAdapter},
        "comfy.model_base": vars(sampling),
        "comfy.model_sampling": vars(sampling),
        "comfy.supported_models_base": {"BASE": sampling.Config},
        "comfy.latent_formats": {"SD15": sampling.LatentFormat},
        "comfy.sample": vars(sampling),
        "comfy.samplers": vars(sampling),
        "comfy.controlnet": {"ControlBase": sampling.ControlBase},
        "comfy.utils": {"common_upscale": sampling.common_upscale, "ProgressBar": host.ProgressBar},
        "comfy.context_windows": vars(windows),
        "comfy_extras": {},
        "comfy_extras.nodes_model_advanced": vars(sampling),
        "comfy_api": {},
        "comfy_api.latest": vars(api),
        "folder_paths": vars(folders),
    }
    for name, names in contents.items():
        module = types.ModuleType(name)
        if name == "folder_paths":
            module = folders
        else:
            module.__dict__.update({key: value for key, value in names.items() if not key.startswith("__")})
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
