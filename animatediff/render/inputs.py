"""Images and videos of a request: looked into once, before anything is loaded, and read at the clip's size later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.camera.moves import is_file, is_video
from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.frames import frame_indices
from animatediff.media.preprocess import NO_DETECTOR, pose_weights
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from animatediff.camera import CameraPath
    from animatediff.media.audio import Sound
    from animatediff.media.numbered import NumberedFrames
    from animatediff.media.source import Source

logger = logging.getLogger(__name__)

BRIGHT = 0.5
"""Mean brightness, in 0..1, from which on a sketch is more likely dark lines on white than white lines on black."""
MAX_FRAMES = 128
"""Frames of a video that are rendered where the request does not say how many; a mistake should not take days."""


@dataclass
class Inputs:
    """Images and videos of one request as they were found. Paths, PIL images, arrays and tensors are alike from here.

    They belong to one request of one call: another call looks anew, as a file may have changed since.
    """

    images: list[tuple[int, Image.Image]] = field(default_factory=list)
    """(frame, image) that the clip shows; negatives count from the end."""
    sparsectrl_images: list[Image.Image] = field(default_factory=list)
    """At the request's `control_indices`."""
    ip_adapter_images: list[Image.Image] = field(default_factory=list)
    camera: CameraPath | None = None
    """Path of the camera that a file of poses states, or a video once it was measured."""
    camera_video: Source | None = None
    """Video whose camera the clip follows."""
    video: Source | NumberedFrames | None = None
    motion_from: Source | None = None
    controlnet_videos: list[Source | dict[int, Path]] = field(default_factory=list)
    """One a ControlNet: a video, frame by frame, or images spread from single frames."""
    roots: Roots = HERE
    """Where weights of preprocessors are looked for."""


@dataclass
class Keyframes:
    """Images that a clip was given, as the model sees them, for the sheet beside it."""

    images: list[np.ndarray] = field(default_factory=list)
    """uint8 (h, w, 3)."""
    indices: list[int] = field(default_factory=list)
    """Frames that they stand at; negatives count from the end."""


# -- before anything is loaded -----------------------------------------------------------------------------------------


def look_into(request: AnimateRequest, check: Callable[[], None] = lambda: None, roots: Roots = HERE) -> Inputs:
    """Open every image and video of a request. Raises UserError for one that is missing, damaged, or does not fit.

    `check` is called between them, and may raise.
    """
    from animatediff.media.images import as_image
    from animatediff.media.numbered import NumberedFrames, numbered_images

    def opened(given: Any, setting: str) -> Image.Image:
        check()
        return as_image(given, setting)

    inputs = Inputs(roots=roots)
    if "openpose" in request.controlnet_preprocess and pose_weights(roots) is None:
        raise UserError(f"`controlnet_preprocess` openpose: {NO_DETECTOR}")
    if request.sparsectrl is not None:
        if request.control_images:
            frame_indices(request.control_indices, len(request.control_images), request.num_frames)
        inputs.sparsectrl_images = [opened(image, "control_images") for image in request.control_images]
    sources: list[Source] = []

    def source(given: Any, setting: str) -> Source:
        from animatediff.media.source import open_source

        check()
        part = {"fps": request.video_fps, "start": request.video_start, "duration": request.video_duration}
        sources.append(open_source(given, setting=setting, hold=setting == "controlnet_video", **part))
        return sources[-1]

    if request.video is not None:
        check()
        if request.video_by_number:
            inputs.video = NumberedFrames.of(request.video)
        else:
            inputs.video = source(request.video, "video")
    if request.motion_from is not None:
        inputs.motion_from = source(request.motion_from, "motion_from")
    if request.camera is not None and is_video(request.camera):
        inputs.camera_video = source(request.camera, "camera")
    found: dict[tuple[Any, bool], Source | dict[int, Path]] = {}  # one video may be for several ControlNets
    for index in range(len(request.controlnet)):
        given = request.of_controlnet("controlnet_video", index)
        spread = request.of_controlnet("controlnet_spread", index) is not None
        key = (given if isinstance(given, str) else id(given), spread)
        if key not in found:
            if spread:
                check()
                found[key] = images = numbered_images(given)
                _check_numbered(images, request)
            else:
                found[key] = source(given, "controlnet_video")
        inputs.controlnet_videos.append(found[key])
    _check_lengths(request, sources)
    if inputs.video is not None and request.audio:
        _check_audio(request, inputs.video)
    inputs.images = [(frame, opened(image, "image")) for frame, image in request.images]
    _check_shapes(request, inputs)
    if request.camera is not None and is_file(request.camera) and inputs.camera_video is None:
        from animatediff.camera import camera_path

        check()
        inputs.camera = camera_path(request.camera, request.num_frames, aspect=request.camera_aspect)
    inputs.ip_adapter_images = [opened(image, "ip_adapter_image") for image in request.ip_adapter_image]
    return inputs


def _check_shapes(request: AnimateRequest, inputs: Inputs) -> None:
    """Raise UserError where the clip would take a shape beyond `max_aspect`."""
    from animatediff.media.images import check_aspect

    if request.width is not None and request.height is not None:
        return
    for (_, given), (_, image) in zip(request.images[:1], inputs.images, strict=False):
        check_aspect(image.size, given if isinstance(given, (str, Path)) else "")
    for source in (inputs.video, *inputs.controlnet_videos, *(() if inputs.images else (inputs.motion_from,))):
        if source is not None and not isinstance(source, dict):
            check_aspect(source.size, str(source.path))


def _check_lengths(request: AnimateRequest, sources: list[Source]) -> None:
    moving = [given for given in sources if not given.held]
    wanted = request.num_frames or (min(len(moving[0].indices), MAX_FRAMES) if moving else 0)
    for given in moving:
        if wanted > len(given.indices):
            asked = f"num_frames={wanted}" if request.num_frames else f"the clip has {wanted}"
            raise UserError(
                f"{given.path}: has {len(given.indices)} frames to give, but {asked}; take fewer, a longer part of it, "
                f"or more a second with `video_fps` (now {given.fps:g})"
            )
    for given in sources:
        given.check(wanted)


def _check_numbered(images: Mapping[int, Path], request: AnimateRequest) -> None:
    """Raise UserError for a damaged image that stands inside the clip."""
    from animatediff.media.numbered import check_readable

    inside = request.num_frames
    check_readable(path for frame, path in images.items() if inside is None or frame < inside)


def _check_audio(request: AnimateRequest, source: Source | NumberedFrames) -> None:
    from animatediff.media.write import check_takes_sound

    if not source.has_audio:
        raise UserError(f"{source.path}: holds no sound; leave `audio` out")
    if request.fps is not None and abs(request.fps - source.fps) > 1e-3:
        raise UserError(
            f"fps={request.fps:g}, but frames of the video are taken at {source.fps:g} a second: its sound would not "
            "fit; leave `fps` out, or set `video_fps` to the same"
        )
    if request.out is not None:
        check_takes_sound(request.out)


# -- settings that follow from them ------------------------------------------------------------------------------------


def settings_from(request: AnimateRequest, inputs: Inputs, pipe: Any) -> dict[str, Any]:
    """Settings that follow from the inputs where the request leaves them open; notes what is left out of a long video.

    pipe: the loaded pipeline; its defaults say how many pixels a frame has, its weights how images are shown.
    """
    poses = {} if inputs.camera is None else {"num_frames": len(inputs.camera)}
    return poses | _from_images(request, inputs, pipe) | _from_video(request, inputs, pipe.defaults)


def _from_images(request: AnimateRequest, inputs: Inputs, pipe: Any) -> dict[str, Any]:
    if not inputs.images:
        return {}
    from animatediff.media.images import size_like
    from animatediff.pipelines.conditions.routes import Loaded, choose_route

    size = inputs.images[0][1].size
    area = pipe.defaults.width * pipe.defaults.height
    width, height = size_like(size, area, width=request.width, height=request.height)
    if (request.width, request.height) == (None, None) and request.video is None:
        given = request.images[0][1]
        name = given if isinstance(given, (str, Path)) else "image"
        logger.info("%s: %d x %d, so the clip is %d x %d", name, *size, width, height)
    route = choose_route(request.image_mode, Loaded.of(pipe), len(inputs.images))
    return {"width": width, "height": height, "image_mode": route}


def _from_video(request: AnimateRequest, inputs: Inputs, defaults: Any) -> dict[str, Any]:
    from animatediff.media.images import size_like
    from animatediff.pipelines.conditions.video import VIDEO_STRENGTH

    source = inputs.video
    if source is None:  # one that moves says how long the clip is and how fast; a single image only its shape
        followed = [given for given in inputs.controlnet_videos if not isinstance(given, dict)]
        followed += [given for given in (inputs.motion_from, inputs.camera_video) if given is not None]
        source = min(followed, key=lambda given: given.held, default=None)
    if source is None:
        return {}
    num_frames = min(len(source.indices), MAX_FRAMES)
    if request.num_frames is None and num_frames < len(source.indices):
        logger.warning(
            "%s: has %d frames; the first %d are rendered. For others: `num_frames`, `video_start`, `video_fps`",
            source.path,
            len(source.indices),
            num_frames,
        )
    follows: dict[str, Any] = {}
    of_motion = source is inputs.motion_from and inputs.images  # an image has the looks, and with them the shape
    if not of_motion and source is not inputs.camera_video:
        area = defaults.width * defaults.height
        width, height = size_like(source.size, area, width=request.width, height=request.height)
        if (request.width, request.height) == (None, None) and (width, height) != source.size:
            logger.info("%s: %d x %d, rendered at %d x %d", source.path, *source.size, width, height)
        follows |= {"width": width, "height": height}
    if not source.held:
        follows |= {"num_frames": num_frames, "fps": source.fps}
    return follows if request.video is None else {**follows, "strength": VIDEO_STRENGTH}


# -- for the call ------------------------------------------------------------------------------------------------------


def input_arguments(
    request: AnimateRequest, inputs: Inputs, sparsectrl_kind: str | None
) -> tuple[dict[str, Any], Keyframes]:
    """Arguments of the pipeline's call that hold images and videos, and those images that the clip shows at frames.

    request: with every value filled in; sparsectrl_kind: of the loaded encoder, `rgb` or `scribble`.
    """
    import numpy as np

    from animatediff.media.images import shaped

    assert request.width and request.height, "filled in before"
    size = request.larger_size(request.width, request.height)
    arguments: dict[str, Any] = {}
    keyframes = Keyframes()
    if inputs.sparsectrl_images:
        images = [
            _for_sparsectrl(request, inputs, index, sparsectrl_kind) for index in range(len(request.control_images))
        ]
        arguments |= {"conditioning_frames": images, "controlnet_frame_indices": request.control_indices}
        keyframes = Keyframes([np.asarray(image) for image in images], list(request.control_indices))
    if inputs.images:
        fitted = {frame: shaped(image, *size, request.resize) for frame, image in inputs.images}
        # the pipeline crops an image of this route itself, as it was trained; the colours are those of the whole
        whole = request.image_mode == "i2v" and request.resize == "crop"
        arguments["images"] = dict(inputs.images) if whole else fitted
        arguments |= {"image_mode": request.image_mode, "strength": request.strength}
        keyframes.images += [np.asarray(image) for image in fitted.values()]
        keyframes.indices += list(fitted)
    if inputs.ip_adapter_images:
        arguments["ip_adapter_image"] = inputs.ip_adapter_images
    if request.camera is not None:
        arguments["camera"] = _camera(request, inputs)
    if inputs.video is not None:
        arguments |= {"video": _frames(inputs.video, request), "strength": request.strength}
    if inputs.motion_from is not None:
        arguments["motion_from"] = _frames(inputs.motion_from, request)
    if inputs.controlnet_videos:
        arguments["controlnet_inputs"] = [
            _controlnet_input(request, index, given, inputs.roots)
            for index, given in enumerate(inputs.controlnet_videos)
        ]
    return arguments, keyframes


def _camera(request: AnimateRequest, inputs: Inputs) -> CameraPath | str | None:
    """The path of the camera: moves as they were written, poses as they were read, or that of a video.

    A video is measured once for all clips of the request, which are of one length.
    """
    if inputs.camera is None and inputs.camera_video is not None:
        from animatediff.camera import path_of_video

        inputs.camera = path_of_video(inputs.camera_video, request.num_frames, aspect=request.camera_aspect)
    return inputs.camera or request.camera


def _for_sparsectrl(request: AnimateRequest, inputs: Inputs, index: int, kind: str | None) -> Image.Image:
    """One of the images as its encoder sees it, width x height, RGB."""
    import numpy as np

    from animatediff.media.images import fit, stretched
    from animatediff.media.sketch import sketch

    assert request.width is not None and request.height is not None, "the size is filled in before"
    # to size first, so that a pen is as wide as in a sketch of the clip's own frames
    image = sketch(fit(inputs.sparsectrl_images[index], request.width, request.height), request.control_preprocess)
    if request.normalize_condition_images:
        image = stretched(image)
    if kind == "scribble" and np.asarray(image).mean() > 255 * BRIGHT:
        given = request.control_images[index]
        logger.warning(
            "%s: mostly bright, but scribble encoders were trained on white lines on black; `control_preprocess` "
            "scribble inverts drawings and draws the outlines of photos",
            given if isinstance(given, (str, Path)) else f"control_images[{index}]",
        )
    return image


def _controlnet_input(request: AnimateRequest, index: int, given: Source | dict[int, Path], roots: Roots) -> Any:
    """Frames that one of the ControlNets follows, and how strongly."""
    from animatediff.media.preprocess import preprocess
    from animatediff.pipelines.precision import default_device
    from animatediff.sampling.controlnet import ControlNetInput

    if isinstance(given, dict):
        at, frames = _numbered(given, request)
    else:
        at, frames = None, _frames(given, request)
    method = request.of_controlnet("controlnet_preprocess", index)
    frames = preprocess(frames, method, roots=roots, device=request.device or default_device())
    return ControlNetInput(
        frames=frames,
        at=at,
        spread=request.of_controlnet("controlnet_spread", index) or (),
        scale=request.of_controlnet("controlnet_scale", index),
        start=request.of_controlnet("controlnet_start", index),
        end=request.of_controlnet("controlnet_end", index),
    )


def _numbered(numbered: dict[int, Path], request: AnimateRequest) -> tuple[list[int], np.ndarray]:
    """Frames, and the images at them, uint8 (n, h, w, 3); images beyond the clip are left out."""
    import numpy as np

    from animatediff.media.images import open_image, shaped

    assert request.num_frames and request.width and request.height, "filled in before"
    size = request.larger_size(request.width, request.height)
    found = images_within(numbered, request.num_frames)
    if len(found) < len(numbered):
        folder = next(iter(numbered.values())).parent
        logger.info("%s: images for frames beyond the clip are left out", folder)
    return list(found), np.stack([np.asarray(shaped(open_image(p), *size, request.resize)) for p in found.values()])


def images_within(numbered: Mapping[int, Path], num_frames: int) -> dict[int, Path]:
    """The images of a clip's frames. Raises UserError if there are none."""
    found = {frame: path for frame, path in numbered.items() if frame < num_frames}
    if not found:
        folder = next(iter(numbered.values())).parent
        raise UserError(f"{folder}: its first image is for frame {min(numbered)}, but the clip has {num_frames}")
    return found


def _frames(source: Source | NumberedFrames, request: AnimateRequest) -> np.ndarray:
    assert request.num_frames and request.width and request.height, "filled in before"
    return source.read(request.num_frames, *request.larger_size(request.width, request.height), request.resize)


def sound_of(request: AnimateRequest) -> Sound | None:
    """The sound that goes with the clip, if any."""
    if request.video is None or not request.audio:
        return None
    from animatediff.media.audio import Sound

    return Sound(Path(request.video), request.video_start)
