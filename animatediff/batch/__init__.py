"""Many clips: a file of rows to a folder of results, here or on a Ray cluster. Names are imported when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.batch.jobs import Fault, Job, Jobs, read_jobs
    from animatediff.batch.on_ray import OnRay
    from animatediff.batch.run import BadRowsError, Progress, Report, render_jobs
    from animatediff.batch.worker import Outcome, RenderRow

__all__ = [
    "BadRowsError",
    "Fault",
    "Job",
    "Jobs",
    "OnRay",
    "Outcome",
    "Progress",
    "RenderRow",
    "Report",
    "read_jobs",
    "render_jobs",
]

_PLACES = {
    **dict.fromkeys(("Fault", "Job", "Jobs", "read_jobs"), "jobs"),
    **dict.fromkeys(("BadRowsError", "Progress", "Report", "render_jobs"), "run"),
    **dict.fromkeys(("Outcome", "RenderRow"), "worker"),
    "OnRay": "on_ray",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
