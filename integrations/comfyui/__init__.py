"""AnimateDiff for ComfyUI: the entry of the node pack. Link or copy this folder into `custom_nodes/`.

The nodes are V3 nodes; each module of `nodes/` lists its own in `NODES`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import importlib
import pkgutil

from comfy_api.latest import ComfyExtension, io

from .folders import register_folders
from .replacements import register_replacements

__all__ = ["comfy_entrypoint"]


def node_classes() -> list[type[io.ComfyNode]]:
    """The nodes of all modules in `nodes/`, in the order of their names."""
    package = importlib.import_module(".nodes", __name__)
    modules = [
        importlib.import_module(f".{found.name}", package.__name__) for found in pkgutil.iter_modules(package.__path__)
    ]
    return [node for module in modules for node in getattr(module, "NODES", ())]


class AnimateDiffExtension(ComfyExtension):
    """The pack, as the host asks for it."""

    async def on_load(self) -> None:
        """Make the folders of motion modules known to the host, and what replaces nodes of other packs."""
        register_folders()
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The nodes of the pack."""
        return node_classes()


async def comfy_entrypoint() -> ComfyExtension:
    """The host calls this once."""
    return AnimateDiffExtension()
