"""From tensors to frames: the pipeline that Python users call. Its names are imported when first asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.pipelines.animatediff import AnimateDiffPipeline
    from animatediff.pipelines.arguments import Arguments
    from animatediff.pipelines.output import AnimateDiffOutput, Defaults, Progress

__all__ = ["AnimateDiffOutput", "AnimateDiffPipeline", "Arguments", "Defaults", "Progress"]

_PLACES = {
    "AnimateDiffPipeline": "animatediff",
    "Arguments": "arguments",
    "AnimateDiffOutput": "output",
    "Defaults": "output",
    "Progress": "output",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
