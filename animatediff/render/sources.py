"""Videos that a request starts from or follows: looked into before anything is loaded, read at the clip's size."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.media.numbered import numbered_pictures
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    import numpy as np

    from animatediff.media.source import Source

logger = logging.getLogger(__name__)

MAX_FRAMES = 128
"""Frames of a video that are rendered where the request does not say how many; a mistake should not take days."""


def source_of(request: AnimateRequest, path: str) -> Source:
    """What the request takes from one of its videos. Raises UserError as `open_source`."""
    return _looked_into(path, request.video_fps, request.video_start, request.video_duration)


def video_source(request: AnimateRequest) -> Source | None:
    """What the request takes from the video that it starts from; None without one."""
    return None if request.video is None else source_of(request, request.video)


@lru_cache(maxsize=8)
def _looked_into(path: str, fps: float | None, start: float, duration: float | None) -> Source:
    from animatediff.media.source import open_source

    return open_source(path, fps=fps, start=start, duration=duration)


def check_video(request: AnimateRequest) -> None:
    """Raise UserError for a video that cannot be used, or not so, and for a folder that is no ControlNet."""
    _looked_into.cache_clear()  # a file may have changed since an earlier request of this process
    if request.controlnet:
        from animatediff.weights.addons.controlnet import check_controlnet

        for path in request.controlnet:
            check_controlnet(path)
    source = video_source(request)
    sources = [source_of(request, path) for path in _followed(request, spread=False)]
    for folder in _followed(request, spread=True):
        numbered_pictures(folder)
    sources = sources if source is None else [source, *sources]
    wanted = request.num_frames or (min(len(sources[0].indices), MAX_FRAMES) if sources else 0)
    for given in sources:
        if wanted > len(given.indices):
            asked = f"num_frames={wanted}" if request.num_frames else f"the clip has {wanted}"
            raise UserError(
                f"{given.path}: has {len(given.indices)} frames to give, but {asked}; take fewer, a longer part of it, "
                f"or more a second with --video-fps (now {given.fps:g})"
            )
    if source is not None and request.audio:
        _check_audio(request, source)


def _check_audio(request: AnimateRequest, source: Source) -> None:
    from animatediff.media.write import check_takes_sound

    if not source.has_audio:
        raise UserError(f"{source.path}: holds no sound; leave --audio out")
    if request.fps is not None and abs(request.fps - source.fps) > 1e-3:
        raise UserError(
            f"fps={request.fps:g}, but frames of the video are taken at {source.fps:g} a second: its sound would not "
            "fit; leave --fps out, or set --video-fps to the same"
        )
    if request.out is not None:
        check_takes_sound(request.out)


def of_video(request: AnimateRequest, defaults: Any) -> dict[str, Any]:
    """Settings that follow from the video where the request leaves them open; says what is left out of a long one."""
    from animatediff.media.images import size_like
    from animatediff.pipelines.conditions.video import VIDEO_STRENGTH

    source = video_source(request)
    if source is None and (followed := _followed(request, spread=False)):
        source = source_of(request, followed[0])
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
    follows: dict[str, Any] = {"num_frames": num_frames, "width": width, "height": height, "fps": source.fps}
    return follows if request.video is None else {**follows, "strength": VIDEO_STRENGTH}


def video_arguments(request: AnimateRequest) -> dict[str, Any]:
    """What a call of the pipeline takes, of a request with every value filled in."""
    arguments: dict[str, Any] = {}
    if (source := video_source(request)) is not None:
        arguments |= {"video": _frames(source, request), "strength": request.strength}
    if request.controlnet:
        arguments["controlnet_inputs"] = [_net_input(request, index) for index in range(len(request.controlnet))]
    return arguments


def _net_input(request: AnimateRequest, index: int) -> Any:
    """What one of the ControlNets follows."""
    import numpy as np
    from PIL import Image

    from animatediff.media.sketch import sketch
    from animatediff.sampling.controlnet import ControlNetInput

    path, spread = request.of_net("controlnet_video", index), request.of_net("controlnet_spread", index)
    if spread is None:
        at, frames = None, _frames(source_of(request, path), request)
    else:
        at, frames = _pictures(path, request)
    if (method := request.of_net("controlnet_preprocess", index)) != "none":
        frames = np.stack([np.asarray(sketch(Image.fromarray(frame), method)) for frame in frames])
    return ControlNetInput(
        frames=frames,
        at=at,
        spread=spread or (),
        scale=request.of_net("controlnet_scale", index),
        start=request.of_net("controlnet_start", index),
        end=request.of_net("controlnet_end", index),
    )


def _followed(request: AnimateRequest, *, spread: bool) -> list[str]:
    """What ControlNets follow: videos, frame by frame, or folders of pictures that are spread from single frames."""
    nets = range(len(request.controlnet))
    found = [(request.of_net("controlnet_video", i), request.of_net("controlnet_spread", i)) for i in nets]
    return list(dict.fromkeys(path for path, reach in found if (reach is not None) == spread))


def _pictures(folder: str, request: AnimateRequest) -> tuple[list[int], np.ndarray]:
    """Frames, and the pictures at them, uint8 (n, h, w, 3); those beyond the clip are left out."""
    import numpy as np

    from animatediff.media.images import open_picture, shaped

    assert request.num_frames and request.width and request.height, "filled in before"
    size = request.larger_size(request.width, request.height)
    numbered = numbered_pictures(folder)
    found = {frame: path for frame, path in numbered.items() if frame < request.num_frames}
    if not found:
        raise UserError(
            f"{folder}: its first picture is for frame {min(numbered)}, but the clip has {request.num_frames}"
        )
    if len(found) < len(numbered):
        logger.info("%s: pictures for frames beyond the clip are left out", folder)
    return list(found), np.stack([np.asarray(shaped(open_picture(p), *size, request.resize)) for p in found.values()])


def _frames(source: Source, request: AnimateRequest) -> np.ndarray:
    assert request.num_frames and request.width and request.height, "filled in before"
    return source.read(request.num_frames, *request.larger_size(request.width, request.height), request.resize)


def sound_of(request: AnimateRequest) -> Any:
    """What is to be heard with the clip, if anything."""
    if request.video is None or not request.audio:
        return None
    from animatediff.media.audio import Sound

    return Sound(Path(request.video), request.video_start)


def second_pass(request: AnimateRequest) -> dict[str, Any]:
    """What a call of the pipeline takes of a second pass, if one is asked for."""
    if request.upscale is None:
        return {}
    return {name: getattr(request, name) for name in ("upscale", "upscale_strength", "upscale_steps")}
