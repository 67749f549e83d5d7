"""From a request to frames and files; the request itself: validated, unknown keys named, the original's YAML accepted.

Names of the renderer are imported when first asked for: requests are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from animatediff.render.read.load import load_config, load_result, parse_config, resolve, sidecar_of
from animatediff.render.read.original import to_original
from animatediff.render.request import FIELDS, AnimateRequest, EmbeddingRef, WeightRef, build_request

if TYPE_CHECKING:
    from animatediff.render.events import Event
    from animatediff.render.renderer import Clip, Renderer
    from animatediff.render.write import OneFile, Rendered, RunFolder

__all__ = [
    "FIELDS",
    "AnimateRequest",
    "Clip",
    "EmbeddingRef",
    "Event",
    "OneFile",
    "Rendered",
    "Renderer",
    "RunFolder",
    "WeightRef",
    "build_request",
    "load_config",
    "load_result",
    "parse_config",
    "resolve",
    "sidecar_of",
    "to_original",
]

_PLACES = {
    "Event": "events",
    "Clip": "renderer",
    "Renderer": "renderer",
    "OneFile": "write",
    "Rendered": "write",
    "RunFolder": "write",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
