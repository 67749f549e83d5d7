"""Options of a request that have no effect, because their subject is missing, and the warning of each.

Options that are arguments of a call need nothing here: the call warns of those (`pipelines.subjects`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from animatediff.bundled import is_bundled
from animatediff.media.formats import UNADJUSTABLE, codec_of
from animatediff.render.options import OPTIONS, AnimateOptions
from animatediff.subjects import Subject, without_effect

logger = logging.getLogger(__name__)

T = TypeVar("T")


SUBJECTS: dict[str, Subject[AnimateOptions]] = {
    "motion_module": Subject(
        is_there=lambda request: (
            request.motion_module is not None or not (request.model is None or is_bundled(request.model))
        ),
        lacking="no motion module is given (`motion_module`); the bundled model has its own family",
    ),
    "prompt_travel": Subject(
        is_there=lambda request: any(request.prompt_travel),
        lacking="the prompt is the same at all frames; add `prompt_travel`",
    ),
    "control_images": Subject(
        is_there=lambda request: bool(request.control_images),
        lacking="no images for SparseCtrl are given; add `control_images`",
    ),
    "sparsectrl": Subject(
        is_there=lambda request: request.sparsectrl is not None,
        lacking="no SparseCtrl encoder is given; add `sparsectrl`",
    ),
    "ip_adapter": Subject(
        is_there=lambda request: request.ip_adapter is not None or request.drive is not None,
        lacking="no IP-Adapter is given; add `ip_adapter`",
    ),
    "drive": Subject(
        is_there=lambda request: request.drive is not None,
        lacking="no driving video is given; add `drive`",
    ),
    "controlnet": Subject(
        is_there=lambda request: bool(request.controlnet) or request.drive is not None,
        lacking="no ControlNet is given; add `controlnet`",
    ),
    "images": Subject(
        is_there=lambda request: any(
            (
                request.video is not None,
                request.image is not None,
                request.last_image is not None,
                request.keyframes,
                request.controlnet_video,
                request.drive is not None,
                request.motion_from is not None,
            )
        ),
        lacking="no image or video is given to be brought to size; add `video` or `image`",
    ),
}
"""Subject -> when it is there. Options name theirs in `AnimateOptions`."""


OUTPUT_SUBJECTS: dict[str, Subject[str]] = {
    "repeats": Subject(
        is_there=lambda format: format in ("gif", "webp", "apng"),
        lacking="this format does not hold it, players decide; gif, webp and apng do",
    ),
    "lossy": Subject(
        is_there=lambda codec: codec not in UNADJUSTABLE,
        lacking="this format has no quality to choose; mp4, webm and webp have",
    ),
}
"""The same of options that only some formats hold; looked for in the name of the codec, or of the format."""


def warn_of_idle_options(request: AnimateOptions) -> None:
    """Warn of each option of a request that has no effect, before anything is loaded."""
    _warn(request, SUBJECTS, request)


def warn_of_idle_output(request: AnimateOptions | Mapping[str, Any], format: str) -> None:
    """Warn of each option that a result in this format (`media.formats`) does not hold."""
    codec = request.get("codec") if isinstance(request, Mapping) else request.codec
    _warn(request, OUTPUT_SUBJECTS, codec_of(format, codec))


def _warn(request: AnimateOptions | Mapping[str, Any], subjects: Mapping[str, Subject[T]], given: T) -> None:
    values = request if isinstance(request, Mapping) else vars(request)
    settings = [
        (item.name, item.needs, values.get(item.name, item.default), item.default)
        for item in OPTIONS
        if item.needs in subjects
    ]
    for sentence in without_effect(settings, subjects, given):
        logger.warning("%s", sentence)
