"""The video that a request starts from: looked into before anything is loaded, then read at the size of the clip."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from animatediff.config.request import AnimateRequest
from animatediff.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from animatediff.control.source import Source

logger = logging.getLogger(__name__)

MAX_FRAMES = 128
"""Frames of a video that are rendered where the request does not say how many; a mistake should not take days."""


def video_source(request: AnimateRequest) -> Source | None:
    """What the request takes from its video; None without one. Raises UserError as `open_source`."""
    if request.video is None:
        return None
    return _looked_into(request.video, request.video_fps, request.video_start, request.video_duration)


@lru_cache(maxsize=8)
def _looked_into(path: str, fps: float | None, start: float, duration: float | None) -> Source:
    from animatediff.control.source import open_source

    return open_source(path, fps=fps, start=start, duration=duration)


def check_video(request: AnimateRequest) -> None:
    """Raise UserError for a video that cannot be used, or not so."""
    _looked_into.cache_clear()  # a file may have changed since an earlier request of this process
    source = video_source(request)
    if source is None:
        return
    if request.num_frames is not None and request.num_frames > len(source.indices):
        raise UserError(
            f"{source.path}: has {len(source.indices)} frames to give, but num_frames={request.num_frames}; take "
            f"fewer, a longer part of it, or more a second with --video-fps (now {source.fps:g})"
        )
    if request.audio:
        from animatediff.video.write import check_takes_sound

        if not source.has_audio:
            raise UserError(f"{source.path}: holds no sound; leave --audio out")
        if request.fps is not None and abs(request.fps - source.fps) > 1e-3:
            raise UserError(
                f"fps={request.fps:g}, but frames of the video are taken at {source.fps:g} a second: its sound would "
                "not fit; leave --fps out, or set --video-fps to the same"
            )
        if request.out is not None:
            check_takes_sound(request.out)


def of_video(request: AnimateRequest, defaults: Any) -> dict[str, Any]:
    """Settings that follow from the video where the request leaves them open; says what is left out of a long one."""
    from animatediff.control.pictures import size_like
    from animatediff.pipelines.beginning import VIDEO_STRENGTH

    source = video_source(request)
    if source is None:
        return {}
    num_frames = min(len(source.indices), MAX_FRAMES)
    if request.num_frames is None and num_frames < len(source.indices):
        logger.warning(
            "%s: has %d frames; the first %d are rendered. For others: --num-frames, --video-start, --video-fps",
            source.path,
            len(source.indices),
            num_frames,
        )
    area = defaults.width * defaults.height
    width, height = size_like(source.size, area, width=request.width, height=request.height)
    if (request.width, request.height) == (None, None) and (width, height) != source.size:
        logger.info("%s: %d x %d, rendered at %d x %d", source.path, *source.size, width, height)
    return {
        "num_frames": num_frames,
        "width": width,
        "height": height,
        "fps": source.fps,
        "strength": VIDEO_STRENGTH,
    }


def video_arguments(request: AnimateRequest) -> dict[str, Any]:
    """The frames and the strength as a call of the pipeline takes them, of a request with every value filled in."""
    source = video_source(request)
    if source is None:
        return {}
    return {"video": _frames(source, request), "strength": request.strength}


def _frames(source: Source, request: AnimateRequest) -> np.ndarray:
    assert request.num_frames and request.width and request.height, "filled in before"
    return source.read(request.num_frames, request.width, request.height, request.resize)


def sound_of(request: AnimateRequest) -> Any:
    """What is to be heard with the clip, if anything."""
    if request.video is None or not request.audio:
        return None
    from pathlib import Path

    from animatediff.video.audio import Sound

    return Sound(Path(request.video), request.video_start)
