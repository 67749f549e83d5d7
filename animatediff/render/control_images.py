"""The pictures that a request names: found, checked, brought to size, and turned into sketches where it says so."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.files import parse_yaml, read_text
from animatediff.frames import frame_indices
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

BRIGHT = 0.5
"""Mean brightness, in 0..1, from which on a sketch is more likely dark lines on white than white lines on black."""


def check_control(request: AnimateRequest) -> None:
    """Raise UserError for pictures that are missing or damaged, and for a file that is no SparseCtrl encoder.

    Nothing is loaded: this is for all runs, before the first minute is spent on one.
    """
    if request.sparsectrl is None:
        return
    from animatediff.media.images import open_picture

    if request.control_images:
        frame_indices(request.control_indices, len(request.control_images), request.num_frames)
    for path in request.control_images:
        open_picture(path)
    if not Path(request.sparsectrl).exists():
        return  # a hub id
    from animatediff.weights.motion import find_header
    from animatediff.weights.recognise import recognise_header, wrong_kind

    found = recognise_header(find_header(request.sparsectrl))
    if found.kind != "sparsectrl":
        raise wrong_kind(found, "sparsectrl")
    if found.variant == "scribble" and not request.control_images:
        raise UserError(
            f"{request.sparsectrl}: takes sketches (scribble encoder), and none are given; add --control-image FILE. "
            "Pictures to be shown go by the RGB encoder, or by --image-mode latents without one"
        )
    if found.variant == "rgb" and request.control_preprocess != "none":
        raise UserError(
            f"control_preprocess={request.control_preprocess!r} makes sketches, but {request.sparsectrl} takes "
            "pictures (RGB encoder); leave --control-preprocess out, or give it the scribble encoder"
        )


def control_pictures(request: AnimateRequest, kind: str | None) -> list[Image.Image]:
    """The pictures of a request as its encoder sees them, width x height, RGB; `kind` of encoder, if one is loaded."""
    import numpy as np

    from animatediff.media.images import fit, open_picture, stretched
    from animatediff.media.sketch import sketch

    assert request.width is not None and request.height is not None, "the size is filled in before"
    pictures = []
    for path in request.control_images:
        # to size first, so that a pen is as wide as in a sketch of the clip's own frames
        picture = sketch(fit(open_picture(path), request.width, request.height), request.control_preprocess)
        if request.normalize_condition_images:
            picture = stretched(picture)
        if kind == "scribble" and np.asarray(picture).mean() > 255 * BRIGHT:
            logger.warning(
                "%s: mostly bright, but scribble encoders were trained on white lines on black; add "
                "--control-preprocess scribble, which inverts drawings and draws the outlines of pictures",
                path,
            )
        pictures.append(picture)
    return pictures


def compare_config(path: str, kind: str) -> None:
    """Warn where a SparseCtrl YAML of the original contradicts the encoder's own file, which is what counts."""
    if not Path(path).is_file():
        logger.info("%s: is not needed, what it would say is known from the weights", path)
        return
    data, _ = parse_yaml(read_text(Path(path)), path)
    said: Any = data.get("controlnet_additional_kwargs") if isinstance(data, Mapping) else None
    simple = said.get("use_simplified_condition_embedding") if isinstance(said, Mapping) else None
    if simple is not None and bool(simple) != (kind == "rgb"):
        logger.warning("%s: is for the other kind of SparseCtrl encoder; this one is %s, which is used", path, kind)
    else:
        logger.info("%s: is not needed, what it says is known from the weights", path)
