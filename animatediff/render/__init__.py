"""What a user can ask for: validated, unknown keys named, the original's YAML accepted."""

from animatediff.render.read.load import load_config, load_result, parse_config, resolve, sidecar_of
from animatediff.render.read.original import to_original
from animatediff.render.request import FIELDS, AnimateRequest, EmbeddingRef, WeightRef, build_request

__all__ = [
    "FIELDS",
    "AnimateRequest",
    "EmbeddingRef",
    "WeightRef",
    "build_request",
    "load_config",
    "load_result",
    "parse_config",
    "resolve",
    "sidecar_of",
    "to_original",
]
