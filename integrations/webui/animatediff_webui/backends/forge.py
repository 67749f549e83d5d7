"""reForge: the UNet of ComfyUI's kind (`ldm_patched`), patched through `forge_objects.unet`."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from animatediff_webui.backends import Backend
from animatediff_webui.backends.patcher import PatcherBackend


class Forge(PatcherBackend):
    """See `PatcherBackend`. Its `alphas_cumprod_modifiers` are read by nothing, so the schedule is set in place."""

    name = "forge"

    def compute_dtype(self, model: Any) -> torch.dtype:
        """See `PatcherBackend`."""
        return model.manual_cast_dtype or model.get_dtype()

    def noise_levels(self, model: Any) -> Any:
        """See `PatcherBackend`."""
        return model.model_sampling

    def memory(self) -> ModuleType:
        """See `PatcherBackend`."""
        return importlib.import_module("ldm_patched.modules.model_management")


def backend() -> Backend:
    """The backend of this module."""
    return Forge()
