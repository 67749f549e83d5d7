"""Silence messages of libraries while they load models, where no user can act on them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar of transformers, nor diffusers' warning of modules to be kept in float32 where it lists none."""
    from transformers.utils import logging as bars

    def is_useful(record: logging.LogRecord) -> bool:
        return "should be kept in float32: []" not in record.getMessage()

    source, had_bars = logging.getLogger("diffusers.models.modeling_utils"), bars.is_progress_bar_enabled()
    source.addFilter(is_useful)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        source.removeFilter(is_useful)
        if had_bars:
            bars.enable_progress_bar()
