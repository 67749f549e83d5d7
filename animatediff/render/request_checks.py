"""Checks of settings that belong together: one for each room of settings, each raises UserError."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from animatediff.bundled import no_camera_control
from animatediff.camera.moves import is_file, is_video, parse_moves
from animatediff.errors import UserError
from animatediff.frames import frame_curve, frame_indices
from animatediff.limits import MAX_PROMPT_CHARS
from animatediff.pipelines.arguments import AUTO
from animatediff.pipelines.clip import check_bounds
from animatediff.prompts.travel import check_frames
from animatediff.render.options import BY_NAME, CONTROLNET, OPTIONS, PER_CLIP, AnimateOptions

_OF_CONTROLNETS = tuple(item.name for item in OPTIONS if item.panel == CONTROLNET)


def images_of(request: AnimateOptions) -> list[tuple[int, Any]]:
    """(frame, file or image in memory) of all images that the clip shows; negatives count from the end."""
    ends = [(frame, image) for frame, image in ((0, request.image), (-1, request.last_image)) if image is not None]
    return [*ends, *((keyframe.frame, keyframe.path) for keyframe in request.keyframes)]


def of_controlnet(request: AnimateOptions, name: str, index: int) -> Any:
    """The entry of a setting for one of the ControlNets: its own, or the one for all."""
    values = getattr(request, name)
    return values[index % len(values)]


def check_clips(request: AnimateOptions) -> None:
    """One value for all clips, or one for each."""
    counts = {name: len(getattr(request, name)) for name in PER_CLIP}
    several = {name: count for name, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        found = ", ".join(f"{count} x {name}" for name, count in several.items())
        raise UserError(f"{found}: expected one for all clips, or as many as there are clips")


def check_limits(request: AnimateOptions) -> None:
    """Frames, size and prompts within the limits."""
    check_bounds(request.num_frames, request.width, request.height, request.upscale)
    texts = [*request.prompt, *request.negative_prompt, request.prompt_head, request.prompt_tail]
    texts += [text for travel in request.prompt_travel for text in travel.values()]
    for text in filter(None, texts):
        MAX_PROMPT_CHARS.check(len(text), f"a prompt of {len(text):,} characters")


def check_windows(request: AnimateOptions) -> None:
    """Windows that advance."""
    if request.window is not None and request.overlap is not None and request.overlap >= request.window:
        raise UserError(f"overlap={request.overlap} must be less than window={request.window}")


def check_frames_exist(request: AnimateOptions) -> None:
    """Values and texts at frames that the clip has."""
    for name in ("motion_scale", "image_affinity"):
        curve = getattr(request, name)
        if curve is not None and (not isinstance(curve, dict) or request.num_frames is not None):
            frame_curve(curve, request.num_frames or 1, name)
    if request.num_frames is not None:
        for texts in request.prompt_travel:
            check_frames(texts, request.num_frames)


def check_sparsectrl(request: AnimateOptions) -> None:
    """An encoder with images, at frames of their own."""
    if not request.control_images:
        if request.sparsectrl is not None and not images_of(request):
            raise UserError(
                "a SparseCtrl encoder is given (`sparsectrl`, or controlnet_path), but no images for it; add "
                "`control_images` (controlnet_images)"
            )
        return
    if request.sparsectrl is None:
        raise UserError(
            "control_images are given, but no SparseCtrl encoder to read them; add `sparsectrl` (controlnet_path)"
        )
    if request.control_start > request.control_end:
        raise UserError(f"control_start={request.control_start} is after control_end={request.control_end}")
    frame_indices(request.control_indices, len(request.control_images), request.num_frames)


def check_video(request: AnimateOptions) -> None:
    """Settings of a video with a video, to start from or for ControlNets."""
    if request.video is None:
        without = "video, but no video is given; add `video`"
        _refuse(request, ("audio", "video_by_number"), without)
        if not images_of(request) or request.image_mode not in (None, AUTO, "pia"):  # PIA begins with its image
            _refuse(request, ("strength",), without)
        if request.drive is None and not _follows_a_video(request):
            parts = ("video_fps", "video_start", "video_duration")
            _refuse(request, parts, "video, but no video is given; add `video`")
    elif request.video_by_number:
        if not isinstance(request.video, str):
            raise UserError("video_by_number takes a folder of images as `video`, named by their frames (0008.png)")
        if not _follows_a_video(request):
            parts = ("video_fps", "video_start", "video_duration")
            _refuse(request, parts, "a video in time, and video_by_number gives each image its frame; take one of them")


def _follows_a_video(request: AnimateOptions) -> bool:
    """Whether a video beside `video` is given, of which a part may be taken."""
    follows = bool(request.controlnet_video) or request.motion_from is not None
    return follows or (request.camera is not None and is_video(request.camera))


def check_controlnets(request: AnimateOptions) -> None:
    """One entry for each ControlNet, or one for all."""
    count = len(request.controlnet)
    if request.drive is not None:
        count = max(count, len(request.drive_kind))
    elif bool(count) != bool(request.controlnet_video):
        given, missing = ("controlnet", "controlnet_video") if count else ("controlnet_video", "controlnet")
        raise UserError(f"{given} is given without {missing}; add `{missing}`")
    for name in _OF_CONTROLNETS:
        values = getattr(request, name)
        if not values and request.drive is not None:
            continue
        if len(values) not in (1, count) and (count or values):
            raise UserError(f"{len(values)} x {name} for {count} x controlnet; give one for each, or one for all")
    for index in range(count):
        start, end = (of_controlnet(request, name, index) for name in ("controlnet_start", "controlnet_end"))
        if start > end:
            raise UserError(f"controlnet_start={start} is after controlnet_end={end}")


def check_drive(request: AnimateOptions) -> None:
    """A driving video in place of what ControlNets follow, and one kind of it for each of them."""
    if request.drive is None:
        return
    if request.controlnet_video:
        raise UserError(
            "drive and controlnet_video both say what ControlNets follow; leave one of them out (`drive` finds weights "
            "by itself, `controlnet_video` goes with `controlnet`)"
        )
    if any(spread is not None for spread in request.controlnet_spread):
        raise UserError(
            "controlnet_spread is for images at single frames, and `drive` is a video; leave one of them out"
        )
    kinds, nets = len(request.drive_kind), len(request.controlnet)
    if nets and kinds not in (1, nets):
        raise UserError(f"{kinds} x drive_kind for {nets} x controlnet; give one for each, or one for all")


def check_camera(request: AnimateOptions) -> None:
    """A path of the camera with a model that follows it."""
    if request.camera is None:
        if request.camera_control is not None:
            raise UserError(
                "a CameraCtrl model is given (`camera_control`), but no path of the camera; add `camera`, such as "
                "zoom-in:0.5, a file of poses, or a video"
            )
        return
    if request.camera_control is None:
        raise UserError(no_camera_control())
    if not is_file(request.camera):
        parse_moves(request.camera)
    if request.num_frames == 1:
        raise UserError("`camera`: a camera moves over 2 frames or more, and this clip has 1 (`num_frames`)")


def check_upscale(request: AnimateOptions) -> None:
    """Settings of a second pass with one."""
    if request.upscale is None:
        _refuse(request, ("upscale_strength", "upscale_steps"), "the second pass; add `upscale`")


def check_images(request: AnimateOptions) -> None:
    """Images at frames of their own, and an IP-Adapter with images."""
    frames = [frame for frame, _ in images_of(request)]
    if frames:
        frame_indices(frames, len(frames), request.num_frames)
    elif request.image_mode not in (None, AUTO):
        raise UserError(f"image_mode={request.image_mode} is given, but no image; add `image`")
    if request.drive is not None:  # which finds an IP-Adapter where there is an image for it
        if request.ip_adapter is not None and not request.ip_adapter_image and not frames:
            raise UserError("an IP-Adapter is given, but no image for it; add `image`")
    elif request.ip_adapter is None:
        for name in ("ip_adapter_image", "ip_adapter_encoder"):
            if getattr(request, name):
                raise UserError(f"{name} is given, but no IP-Adapter; add `ip_adapter`")
        if request.image_mode == "ip-adapter":
            raise UserError("image_mode=ip-adapter takes an IP-Adapter; add `ip_adapter`")
    elif not request.ip_adapter_image and not frames:
        raise UserError("an IP-Adapter is given, but no image for it; add `ip_adapter_image`, or `image`")


def _refuse(request: AnimateOptions, names: Iterable[str], of: str) -> None:
    """Raise UserError for the first of the settings that is given. of: the setting that they need."""
    for name in names:
        if getattr(request, name) != BY_NAME[name].default:
            raise UserError(f"{name} is a setting of {of}")


CHECKS = (
    check_clips,
    check_limits,
    check_windows,
    check_frames_exist,
    check_sparsectrl,
    check_video,
    check_drive,
    check_controlnets,
    check_camera,
    check_upscale,
    check_images,
)
