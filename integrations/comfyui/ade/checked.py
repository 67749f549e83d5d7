"""What a file must be to be read as a workflow; what it is not is one message that names the place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .graph import Graph, Link

SHOWN = 60
"""Characters of a value in a message."""


def check_workflow(workflow: Any) -> None:
    """Raise ValueError unless this has the shape that the host's page saves, or that it exports as API format."""
    if not isinstance(workflow, Mapping) or not workflow:
        raise ValueError("expected a workflow of ComfyUI: a JSON object with nodes")
    if isinstance(workflow.get("nodes"), list):
        _check_page(workflow)
        return
    for name, entry in workflow.items():
        if isinstance(entry, Mapping) and "class_type" in entry:
            _expect(entry["class_type"], str, f"class_type of node {name}", "a text")
            _expect(entry.get("inputs", {}), Mapping, f"inputs of node {name}", "an object")


def check_graph(graph: Graph) -> None:
    """Raise ValueError for a workflow without nodes, and for nodes that are connected in a circle."""
    if not graph.nodes:
        raise ValueError("there are no nodes in this workflow; export it from ComfyUI again")
    done: set[str] = set()
    for start in graph.nodes:
        way: list[tuple[str, Iterator[str]]] = [(start, _sources(graph, start))]
        while way:
            name, sources = way[-1]
            nodes = [node for node, _ in way]
            following = next((source for source in sources if source not in done), None)
            if following is None:
                done.add(name)
                way.pop()
            elif following in nodes:
                circle = [*nodes[nodes.index(following) :], following]
                raise ValueError(
                    f"nodes are connected in a circle: {' <- '.join(circle)}; ComfyUI runs no such workflow"
                )
            else:
                way.append((following, _sources(graph, following)))


def shown(value: Any) -> str:
    """A value of a file for a message, in short."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _sources(graph: Graph, name: str) -> Iterator[str]:
    node = graph.nodes.get(name)
    return iter([value.node for value in node.inputs.values() if isinstance(value, Link)] if node else [])


def _check_page(workflow: Mapping[str, Any]) -> None:
    seen: set[str] = set()
    for place, raw in enumerate(workflow["nodes"]):
        _expect(raw, Mapping, f"nodes[{place}]", "an object")
        _expect(raw.get("id"), int | str, f"id of nodes[{place}]", "a number")
        name = str(raw["id"])
        if name in seen:
            raise _no_workflow(f"two nodes have the id {name}")
        seen.add(name)
        _check_node(raw, name)
    links: Any = workflow.get("links") or ()
    _expect(links, list | tuple, "links", "a list")
    for place, link in enumerate(links):
        if isinstance(link, Mapping):
            parts = [link.get(part) for part in ("id", "origin_id", "origin_slot")]
        else:
            _expect(link, list, f"links[{place}]", "a list of an id, a node, an output and more")
            parts = [*link[:3], *[None] * (3 - len(link))]
        kinds = (int | str, int | str, int)
        for part, kind, what in zip(parts, kinds, ("id", "node", "output"), strict=True):
            _expect(part, kind, f"{what} of links[{place}]", "a number")


def _check_node(raw: Mapping[str, Any], name: str) -> None:
    _expect(raw.get("type"), str, f"type of node {name}", "a text")
    _expect(raw.get("mode"), int | None, f"mode of node {name}", "a number")
    _expect(raw.get("widgets_values"), list | Mapping | None, f"widgets_values of node {name}", "a list")
    for side in ("inputs", "outputs"):
        _expect(raw.get(side), list | None, f"{side} of node {name}", "a list")
        for place, socket in enumerate(raw.get(side) or ()):
            where = f"{side}[{place}] of node {name}"
            _expect(socket, Mapping, where, "an object")
            if side == "outputs":
                continue
            _expect(socket.get("name"), str, f"name of {where}", "a text")
            _expect(socket.get("link"), int | str | None, f"link of {where}", "a number")
            widget = socket.get("widget")
            _expect(widget, Mapping | None, f"widget of {where}", "an object")
            if widget:
                _expect(widget.get("name"), str, f"name of the widget of {where}", "a text")


def _expect(value: Any, kind: Any, what: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise _no_workflow(f"{what} is {shown(value)}, expected {expected}")


def _no_workflow(why: str) -> ValueError:
    return ValueError(f"this is no workflow as ComfyUI saves or exports it: {why}")
