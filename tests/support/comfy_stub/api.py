"""`comfy_api.latest`: V3 nodes as far as a schema, and what `execute` returns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class _Socket(SimpleNamespace):
    def __init__(self, id: str | None = None, **facts: Any) -> None:
        super().__init__(id=id, **{"optional": False, "tooltip": None, "default": None, **facts})


def Custom(io_type: str) -> Any:  # noqa: N802
    """A type of links."""
    return type(io_type, (), {"io_type": io_type, "Input": type("Input", (_Socket,), {}), "Output": _Socket})


class Schema(SimpleNamespace):
    def __init__(self, node_id: str, **facts: Any) -> None:
        super().__init__(node_id=node_id, **{"inputs": [], "outputs": [], "description": "", **facts})


class ComfyNode:
    @classmethod
    def GET_SCHEMA(cls) -> Any:  # noqa: N802
        return cls.define_schema()  # type: ignore[attr-defined]


class NodeOutput:
    def __init__(self, *args: Any, **_: Any) -> None:
        self.args = args

    @property
    def result(self) -> tuple[Any, ...]:
        return self.args


class NodeReplace(SimpleNamespace):
    """One node for another."""


class ComfyAPI:
    """What a pack tells the host."""

    registered: list[NodeReplace] = []  # noqa: RUF012

    class node_replacement:  # noqa: N801
        @staticmethod
        async def register(replacement: NodeReplace) -> None:
            ComfyAPI.registered.append(replacement)


class VideoFromComponents:
    def __init__(self, components: Any) -> None:
        self._components = components

    def get_components(self) -> Any:
        return self._components


InputImpl = SimpleNamespace(VideoFromComponents=VideoFromComponents)
Types = SimpleNamespace(VideoComponents=SimpleNamespace)


class ComfyExtension:
    async def on_load(self) -> None: ...


_TYPES = (
    "Boolean",
    "Int",
    "Float",
    "String",
    "Combo",
    "Image",
    "Latent",
    "Conditioning",
    "Vae",
    "Model",
    "Clip",
    "Video",
)
io = SimpleNamespace(
    Custom=Custom,
    Schema=Schema,
    ComfyNode=ComfyNode,
    NodeOutput=NodeOutput,
    NodeReplace=NodeReplace,
    **{name: Custom(name.upper()) for name in _TYPES},
)
