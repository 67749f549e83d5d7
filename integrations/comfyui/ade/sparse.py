"""The frames at which SparseCtrl's images stand, from the methods of Advanced-ControlNet."""

from __future__ import annotations

from typing import Any

from .graph import Graph, Link

SPREADS = ("uniform", "starting", "ending", "center")
LATENTS = ("EmptyLatentImage", "ADE_EmptyLatentImageLarge")


def frames_of(graph: Graph, method: Any, images: Any) -> tuple[Any, str]:
    """The text of the input `frames`, and what is to be told of it: "" where it is what it was there.

    method: indexes as text, or a word of the spread method.
    """
    if method not in SPREADS:
        return method, ""
    count, length = _count(graph, images), _length(graph)
    if count is None:
        return "0", f"spread {method}: how many images there are is not known here; write their frames into `frames`"
    if count == 1 and method in ("uniform", "starting"):
        return "0", ""
    if count == 1 and method == "ending":
        return "-1", ""
    if count == 2 and method == "uniform":
        return "0,-1", ""
    if length is None:
        return "0", f"spread {method}: the length of the clip is not known here; write frames into `frames`"
    return ",".join(map(str, spread(method, count, length))), ""


def spread(method: str, count: int, length: int) -> list[int]:
    """Frames of `count` images in a clip, as Advanced-ControlNet spreads them.

    >>> spread("uniform", 3, 16), spread("center", 1, 16), spread("ending", 2, 16)
    ([0, 7, 15], [7], [7, 15])
    """
    if count >= length:
        return list(range(length))
    if count == 1:
        return [{"ending": length - 1, "center": (length - 1) // 2}.get(method, 0)]
    if method == "uniform":
        return _even(count, length)
    if method == "ending":
        return _even(count + 1, length)[1:]
    if method == "center" and length - count >= 3:
        return _even(count + 2, length)[1:-1]
    return _even(count + 1, length)[:-1]


def _even(count: int, length: int) -> list[int]:
    return [(length - 1) * index // (count - 1) for index in range(count)]


def _count(graph: Graph, images: Any) -> int | None:
    """How many images a link gives, where the nodes behind it tell."""
    if not isinstance(images, Link) or images.node not in graph.nodes:
        return None
    node = graph.nodes[images.node]
    if node.kind in ("LoadImage", "LoadImageMask"):
        return 1
    sources = [value for value in node.inputs.values() if isinstance(value, Link)]
    if node.kind in ("Reroute", "ImageScale", "ImageScaleBy", "ImageInvert"):
        return _count(graph, sources[0]) if sources else None
    if node.kind in ("ImageBatch", "BatchImagesNode"):
        counts = [_count(graph, value) for value in sources]
        return None if None in counts else sum(count for count in counts if count is not None)
    return None


def _length(graph: Graph) -> int | None:
    """Frames of the clip, where all empty latents of the workflow agree."""
    sizes = {node.inputs.get("batch_size") for node in graph.nodes.values() if node.kind in LATENTS}
    (size, *others) = sizes or {None}
    return size if isinstance(size, int) and not others else None
