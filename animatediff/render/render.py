"""Rendering as functions of one call, for scripts and the command line; front ends that stay keep a `Renderer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.files import HERE, Roots
from animatediff.render.events import Cancel, OnEvent
from animatediff.render.renderer import Renderer
from animatediff.render.request import AnimateRequest
from animatediff.render.resume import Resume
from animatediff.render.write import OneFile, RunFolder

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline


@dataclass
class RenderResult:
    """Files of all clips."""

    files: list[Path] = field(default_factory=list)
    """One a clip: a video, an image, or a folder of frames."""
    requests: list[AnimateRequest] = field(default_factory=list)
    """One a clip, with the real seed and every recommended value filled in."""
    folder: Path | None = None
    """The folder made in the original's layout."""
    sheets: list[Path] = field(default_factory=list)
    """One a clip with images: those given, above the frames rendered there; and one a clip with a prompt that
    travels: which text it shows when."""
    seams: list[float | None] = field(default_factory=list)
    """One a clip, of closed loops: the step from the last frame to the first over that of neighbours, 1 is seamless."""
    grid: Path | None = None
    config: Path | None = None


def render(
    request: AnimateRequest,
    *,
    on_progress: OnEvent | None = None,
    cancel: Cancel | None = None,
    pipe: AnimateDiffPipeline | None = None,
    roots: Roots = HERE,
    resume: Resume | None = None,
) -> RenderResult:
    """Render every clip of `request` and write it to `request.out`, or to `samples/{prompt}.mp4` under a free name.

    `pipe`: a pipeline that already holds what the request names; `roots`: where models are found, and folders that
    names in records are relative to; `resume`: how the state of long renders is saved, for the same call to go on with.
    Raises UserError before anything is computed for what cannot be loaded or written; Cancelled.
    """
    return _rendered([request], OneFile(request.out, resume=resume), on_progress, cancel, pipe, roots)


def render_runs(
    requests: Sequence[AnimateRequest],
    stem: str,
    *,
    on_progress: OnEvent | None = None,
    cancel: Cancel | None = None,
    pipe: AnimateDiffPipeline | None = None,
    root: Path = HERE.samples,
    roots: Roots = HERE,
    resume: Resume | None = None,
) -> RenderResult:
    """Render the runs of a configuration file into a `RunFolder` of the original's layout. Errors as for `render`."""
    return _rendered(requests, RunFolder(stem, root, resume), on_progress, cancel, pipe, roots)


def _rendered(
    requests: Sequence[AnimateRequest],
    to: OneFile | RunFolder,
    on_event: OnEvent | None,
    cancel: Cancel | None,
    pipe: AnimateDiffPipeline | None,
    roots: Roots,
) -> RenderResult:
    renderer = Renderer(roots=roots) if pipe is None else Renderer.of(pipe, roots=roots)
    done = renderer.render(requests, to, on_event=on_event, cancel=cancel)
    return RenderResult(
        files=[one.file for one in done],
        requests=[one.request for one in done],
        folder=done[0].folder,
        sheets=[sheet for one in done for sheet in one.sheets],
        seams=[one.seam for one in done],
        grid=done[0].grid,
        config=done[0].config,
    )
