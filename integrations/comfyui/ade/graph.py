"""A workflow as nodes with named inputs, from either of the host's formats and back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .shapes import SHAPES, SOCKETS
from .table import BY_NODE

MUTED, BYPASSED = 2, 4
"""Modes of nodes in the format of the host's page that do not run."""
WIDTH, GAP = 300, 40


class Link(NamedTuple):
    """An output of another node."""

    node: str
    slot: int


@dataclass
class Node:
    """One node; inputs hold values, and Links."""

    kind: str
    inputs: dict[str, Any]
    raw: dict[str, Any] = field(default_factory=dict)
    """As it was read."""
    made_for: str = ""
    """The node whose place it takes, for a new one."""

    @property
    def mode(self) -> int:
        """Whether it is muted or bypassed, in the format of the page."""
        return int(self.raw.get("mode", 0) or 0)


class Graph:
    """All nodes by id."""

    def __init__(self, nodes: dict[str, Node]) -> None:
        self.nodes = nodes

    def new_id(self) -> str:
        """A number that no node has."""
        return str(max((int(name) for name in self.nodes if name.isdecimal()), default=0) + 1)

    def users(self, node: str, slot: int | None = None) -> Iterator[tuple[Node, str]]:
        """Nodes, and their inputs, that take an output of a node (any of its outputs)."""
        for other in self.nodes.values():
            for name, value in other.inputs.items():
                if isinstance(value, Link) and value.node == node and slot in (None, value.slot):
                    yield other, name

    def rewire(self, old: Link, new: Any) -> None:
        """Give whatever takes `old` another output, or nothing (None)."""
        for user, name in list(self.users(old.node, old.slot)):
            if new is None:
                del user.inputs[name]
            else:
                user.inputs[name] = new


def is_page_format(workflow: Mapping[str, Any]) -> bool:
    """Whether this is what the host's page saves, with places and links; else the API format."""
    return isinstance(workflow.get("nodes"), list)


# -- API format --------------------------------------------------------------------------------------------------------


def read_api(workflow: Mapping[str, Any]) -> Graph:
    """Nodes of the API format; entries that are no nodes are kept by `write_api`."""
    nodes = {}
    for name, entry in workflow.items():
        if isinstance(entry, Mapping) and "class_type" in entry:
            inputs = {key: _link(value) or value for key, value in entry.get("inputs", {}).items()}
            nodes[str(name)] = Node(str(entry["class_type"]), inputs, dict(entry))
    return Graph(nodes)


def _link(value: Any) -> Link | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    node, slot = value
    is_link = isinstance(node, str | int) and isinstance(slot, int) and not isinstance(slot, bool) and slot >= 0
    return Link(str(node), slot) if is_link else None


def write_api(graph: Graph, before: Mapping[str, Any]) -> dict[str, Any]:
    """The API format of a graph, with what was beside its nodes."""
    found = {
        name: entry for name, entry in before.items() if not (isinstance(entry, Mapping) and "class_type" in entry)
    }
    for name, node in graph.nodes.items():
        inputs = {key: list(value) if isinstance(value, Link) else value for key, value in node.inputs.items()}
        found[name] = {**({} if node.made_for else node.raw), "class_type": node.kind, "inputs": inputs}
    return found


# -- format of the page ------------------------------------------------------------------------------------------------


def read_page(workflow: Mapping[str, Any]) -> Graph:
    """Nodes of the page's format: of nodes in the table all inputs, of others those that are connected."""
    sources = {}
    for link in workflow.get("links") or ():
        if isinstance(link, Mapping):
            sources[link["id"]] = Link(str(link["origin_id"]), link["origin_slot"])
        else:
            sources[link[0]] = Link(str(link[1]), link[2])
    nodes = {}
    for raw in workflow["nodes"]:
        inputs = _widgets(raw)
        for socket in raw.get("inputs") or ():
            if socket.get("link") in sources:
                inputs[socket["name"]] = sources[socket["link"]]
        nodes[str(raw["id"])] = Node(str(raw["type"]), inputs, copy.deepcopy(dict(raw)))
    return Graph(nodes)


def _widgets(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the widgets of a node in the table, by name."""
    values = raw.get("widgets_values")
    if (old := BY_NODE.get(raw["type"])) is None or not values:
        return {}
    widgets = [takes for takes in old.takes if not takes.link]
    if not isinstance(values, Mapping) and len(values) < len(widgets):
        widgets = [takes for takes in widgets if not takes.forced]
    names = [takes.name for takes in widgets]
    if isinstance(values, Mapping):
        return {name: values[name] for name in names if name in values}
    told = [socket["widget"]["name"] for socket in raw.get("inputs") or () if socket.get("widget")]
    if len(told) >= len(values):  # newer pages list every widget among the inputs, in order
        names = told
    return dict(zip(names, values, strict=False))


def write_page(graph: Graph, before: Mapping[str, Any]) -> dict[str, Any]:
    """The page's format of a graph; nodes that stay keep all they had."""
    made = copy.deepcopy(dict(before))
    made["nodes"], made["links"], at = [], [], {}
    numbers = {name: node.raw.get("id", int(name) if name.isdecimal() else name) for name, node in graph.nodes.items()}
    beside: dict[str, int] = {}
    for name, node in graph.nodes.items():
        if node.made_for:
            place = beside.setdefault(node.made_for, 0)
            beside[node.made_for] += 1
            raw = _new(node, numbers[name], node.raw, place)
        else:
            raw = node.raw
        for output in raw.get("outputs") or ():
            output["links"] = []
        at[name] = raw
        made["nodes"].append(raw)
    for name, node in graph.nodes.items():
        for slot, socket in enumerate(at[name].get("inputs") or ()):
            socket["link"] = None
            link = node.inputs.get(socket["name"])
            if not isinstance(link, Link) or link.node not in at:
                continue
            number = len(made["links"]) + 1
            outputs = at[link.node].get("outputs") or []
            if 0 <= link.slot < len(outputs):
                outputs[link.slot]["links"].append(number)
            socket["link"] = number
            made["links"].append([number, numbers[link.node], link.slot, numbers[name], slot, socket.get("type", "*")])
    made["last_link_id"] = len(made["links"])
    made["last_node_id"] = max((number for number in numbers.values() if isinstance(number, int)), default=0)
    return made


def _new(node: Node, number: Any, old: Mapping[str, Any], place: int) -> dict[str, Any]:
    """A node of the page, beside the place of the one that it replaces."""
    shape = SHAPES[node.kind]
    x, y = _pair(old.get("pos"), (0, 0))
    inputs, values = [], []
    for name, kind, default in shape.inputs:
        socket: dict[str, Any] = {"name": name, "type": kind, "link": None}
        if kind not in SOCKETS:
            socket["widget"] = {"name": name}
            value = node.inputs.get(name, default)
            values.append(default if isinstance(value, Link) else value)
        inputs.append(socket)
    return {
        "id": number,
        "type": node.kind,
        "pos": [x - place * (WIDTH + GAP), y + place * GAP],
        "size": [WIDTH, 80 + 26 * len(shape.inputs)],
        "flags": {},
        "order": old.get("order", 0),
        "mode": old.get("mode", 0),
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in shape.outputs],
        "properties": {"Node name for S&R": node.kind},
        "widgets_values": values,
    }


def _pair(value: Any, default: tuple[float, float]) -> tuple[float, float]:
    if isinstance(value, Mapping):
        value = [value.get("0", default[0]), value.get("1", default[1])]
    found = tuple(value[:2]) if isinstance(value, list | tuple) else ()
    return found if len(found) == 2 and all(isinstance(side, int | float) for side in found) else default
