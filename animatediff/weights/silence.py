"""Silence messages of libraries while they load models, where no user can act on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


def _is_useful(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "should be kept in float32: []" not in text and "requires torchvision" not in text


SOURCES = ("diffusers.models.modeling_utils", "transformers.utils.import_utils")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers, nor warnings that call for nothing.

    Those are diffusers' of modules to be kept in float32 where it lists none, and transformers' that images are made
    ready by Pillow where torchvision is not installed.
    """
    from transformers.utils import logging as bars

    sources, had_bars = [logging.getLogger(name) for name in SOURCES], bars.is_progress_bar_enabled()
    for source in sources:
        source.addFilter(_is_useful)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        for source in sources:
            source.removeFilter(_is_useful)
        if had_bars:
            bars.enable_progress_bar()
