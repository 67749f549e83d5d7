"""Forge Neo, and Forge 2 which it comes from: a UNet of the host's own (`backend/nn`), with LDM names."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from animatediff_webui.backends import Backend
from animatediff_webui.backends.patcher import PatcherBackend


class Neo(PatcherBackend):
    """See `PatcherBackend`. Norms over frames come from hooks as everywhere; its `group_norm_wrapper` stays free."""

    name = "neo"

    def compute_dtype(self, model: Any) -> torch.dtype:
        """See `PatcherBackend`."""
        return model.computation_dtype

    def noise_levels(self, model: Any) -> Any:
        """See `PatcherBackend`."""
        return model.predictor

    def memory(self) -> ModuleType:
        """See `PatcherBackend`."""
        return importlib.import_module("backend.memory_management")


def backend() -> Backend:
    """The backend of this module."""
    return Neo()
