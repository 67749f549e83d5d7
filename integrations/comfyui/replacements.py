"""Nodes of other packs that the host exchanges by itself where that pack is missing.

The host exchanges one node for another, input by input, and drops inputs that are not named; so only nodes are told of
it with which nothing is lost. Whole workflows are translated by `ade/`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyAPI, io

from .ade.table import BY_NODE, ONE_TO_ONE


async def register_replacements() -> None:
    """Tell the host what replaces what; older hosts exchange no nodes."""
    if not hasattr(io, "NodeReplace"):
        return
    api = ComfyAPI()
    for replacement in replacements():
        await api.node_replacement.register(io.NodeReplace(**replacement))


def replacements() -> list[dict[str, Any]]:
    """Arguments of `io.NodeReplace` for each."""
    found = []
    for name in ONE_TO_ONE:
        old = BY_NODE[name]
        (new,) = old.makes
        found.append(
            {
                "new_node_id": new,
                "old_node_id": name,
                "old_widget_ids": [takes.name for takes in old.takes],
                "input_mapping": [
                    {"new_id": takes.to.removeprefix(f"{new}."), "old_id": takes.name} for takes in old.takes
                ],
                "output_mapping": [{"new_idx": 0, "old_idx": 0}],
            }
        )
    return found
