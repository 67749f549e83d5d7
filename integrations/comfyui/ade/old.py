"""Which nodes of a workflow are those of other packs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .table import BY_NODE

CONTROLS = ("ControlNetApplyAdvanced", "ACN_AdvancedControlNetApply_v2")
"""Nodes that are replaced where a SparseCtrl encoder is connected to them."""


def is_old(kind: str) -> bool:
    """Whether a node is of another pack, by its type."""
    return (kind in BY_NODE and kind not in CONTROLS) or kind.startswith(("ADE_", "ACN_"))


def old_subgraphs(workflow: Mapping[str, Any]) -> list[str]:
    """Names of the subgraphs of a page that have such nodes."""
    definitions = workflow.get("definitions")
    found = definitions.get("subgraphs") if isinstance(definitions, Mapping) else None
    graphs = [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
    return [str(each.get("name")) for each in graphs if _has_old(each)]


def _has_old(graph: Mapping[str, Any]) -> bool:
    nodes = graph.get("nodes")
    nodes = nodes if isinstance(nodes, list) else []
    return any(is_old(str(node.get("type"))) for node in nodes if isinstance(node, Mapping))
