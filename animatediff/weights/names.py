"""The names in the header of a weight file, as rules ask for them, and the base model that its widths tell."""

from __future__ import annotations

import re
from functools import cache

from animatediff.weights.storage.files import Header

BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
"""Width of the prompt embeddings that cross attentions take -> kind of base model."""
CROSS_ATTENTION = r"\battn2\.to_k\.(weight|down)$|^(ip_adapter|adapter_modules)\.\d+\.to_k_ip\.weight$"
TEXT_WIDTHS = {1024: "sd2", 1280: "sdxl"}
"""Width of a CLIP text encoder -> kind of base model (768 are those of SD 1.x and the first of SDXL)."""
T2I_CHANNELS = {192: "sd1", 64: "sd1", 768: "sdxl", 256: "sdxl"}
"""Channels that a T2I-Adapter's first layer takes (of 3 or 1 in the image) -> kind of base model."""


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.MULTILINE)


class Names:
    """The names in a header as one text, which patterns search as a whole."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.text = "\n".join(header.tensors)

    def find(self, pattern: str) -> str | None:
        """The first name that the pattern finds."""
        if (found := _compiled(pattern).search(self.text)) is None:
            return None
        end = self.text.find("\n", found.end())
        return self.text[self.text.rfind("\n", 0, found.start() + 1) + 1 : end if end >= 0 else None]

    def shape(self, pattern: str) -> tuple[int, ...]:
        """The shape of the first tensor whose name the pattern finds; () if there is none."""
        key = self.find(pattern)
        return self.header.tensors[key].shape if key in self.header.tensors else ()

    def sizes(self, pattern: str, axis: int) -> set[int]:
        """Sizes along one axis of all tensors whose names the pattern finds."""
        search = _compiled(pattern).search
        shapes = (info.shape for key, info in self.header.tensors.items() if search(key))
        return {shape[axis] for shape in shapes if len(shape) > axis}


def base_by_shapes(names: Names) -> str | None:
    """The kind of base model whose prompt embeddings have the width that cross attentions in this file take.

    Of text encoders and T2I-Adapters their own widths tell it. None where nothing does.
    """
    for pattern, axis, table in (
        (CROSS_ATTENTION, 1, BY_WIDTH),
        (r"(^|\.)token_embedding\.weight$", 1, TEXT_WIDTHS),
        (r"^(adapter\.)?conv_in\.weight$", 1, T2I_CHANNELS if names.find(r"^(adapter\.)?body\.") else {}),
        (r"^(adapter\.)?body\.0\.in_conv\.weight$", 1, T2I_CHANNELS),
    ):
        if sizes := names.sizes(pattern, axis):
            return table.get(sizes.pop()) if len(sizes) == 1 else None
    return None
