"""From a request to frames and files; requests from files. Its names are imported when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.render.clip import Clip
    from animatediff.render.declare import Option
    from animatediff.render.events import Event
    from animatediff.render.finish import Finish
    from animatediff.render.options import FIELDS, OPTIONS, AnimateOptions
    from animatediff.render.read.merge import resolve
    from animatediff.render.read.original import to_original
    from animatediff.render.read.result import load_result, sidecar_of
    from animatediff.render.read.yaml import load_config, parse_config
    from animatediff.render.renderer import Renderer
    from animatediff.render.request import AnimateRequest, build_request
    from animatediff.render.request_inputs import EmbeddingRef, Keyframe, WeightRef
    from animatediff.render.resume import Resume
    from animatediff.render.upscale_file import Finished, Target, upscale_files
    from animatediff.render.write import OneFile, Rendered, RunFolder

__all__ = [
    "FIELDS",
    "OPTIONS",
    "AnimateOptions",
    "AnimateRequest",
    "Clip",
    "EmbeddingRef",
    "Event",
    "Finish",
    "Finished",
    "Keyframe",
    "OneFile",
    "Option",
    "Rendered",
    "Renderer",
    "Resume",
    "RunFolder",
    "Target",
    "WeightRef",
    "build_request",
    "load_config",
    "load_result",
    "parse_config",
    "resolve",
    "sidecar_of",
    "to_original",
    "upscale_files",
]

_PLACES = {
    **dict.fromkeys(("FIELDS", "OPTIONS", "AnimateOptions"), "options"),
    **dict.fromkeys(("AnimateRequest", "build_request"), "request"),
    **dict.fromkeys(("EmbeddingRef", "Keyframe", "WeightRef"), "request_inputs"),
    **dict.fromkeys(("load_config", "parse_config"), "read.yaml"),
    **dict.fromkeys(("load_result", "sidecar_of"), "read.result"),
    "Clip": "clip",
    "Renderer": "renderer",
    **dict.fromkeys(("OneFile", "Rendered", "RunFolder"), "write"),
    "Resume": "resume",
    "Event": "events",
    "Finish": "finish",
    **dict.fromkeys(("Finished", "Target", "upscale_files"), "upscale_file"),
    "Option": "declare",
    "resolve": "read.merge",
    "to_original": "read.original",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
