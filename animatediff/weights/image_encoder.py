"""The image encoder in a file of motion modules, as AnimateLCM-I2V has one: its names and its layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from animatediff.errors import UserError
from animatediff.models.image_encoder import EncoderLayout
from animatediff.motion import MotionLayout
from animatediff.weights.keys import is_encoder_key
from animatediff.weights.storage.files import Header

T = TypeVar("T")

PREFIX = "img_encoder."
"""Prefix of the names in modules and in files."""
_POSITIONS = re.compile(r"\.(pe|pos_encoding|positional_encoding)$")
"""Codes of the frame index, which are computed."""


def encoder_entries(entries: Mapping[str, T]) -> dict[str, T]:
    """The entries of an image encoder under internal names."""
    return {
        PREFIX + key.partition(PREFIX)[2]: value
        for key, value in entries.items()
        if is_encoder_key(key) and not _POSITIONS.search(key)
    }


def encoder_layout(header: Header, modules: MotionLayout) -> EncoderLayout | None:
    """The layout of the image encoder in a file with these modules; None where there is none.

    Raises UserError for one that is not whole, or whose features do not fit the down blocks.
    """
    shapes = {key.removeprefix(PREFIX): shape for key, shape in encoder_entries(header.shapes).items()}
    if not shapes:
        return None
    layout = EncoderLayout.of(shapes)
    if layout is None:
        raise UserError(f"{header.path}: its image encoder (img_encoder) lacks layers; is the download complete?")
    widths = tuple(block[0] for block in modules.down)
    if layout.levels != widths:
        raise UserError(
            f"{header.path}: its image encoder has features of {layout.levels} channels, its down blocks have {widths}"
        )
    return layout
