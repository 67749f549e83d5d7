"""Progress and interrupt of the host."""

from __future__ import annotations

from typing import Any, ClassVar


class ProgressBar:
    """A bar; all values that were told are kept."""

    told: ClassVar[list[tuple[int, int, Any]]] = []

    def __init__(self, total: int, node_id: Any = None) -> None:
        self.total = total

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        throw_exception_if_processing_interrupted()
        ProgressBar.told.append((value, total or self.total, preview))


class InterruptProcessingException(BaseException):
    """The user does not want the result any more."""


OOM_EXCEPTION = MemoryError
_interrupted = False


def interrupt_current_processing(value: bool = True) -> None:
    global _interrupted
    _interrupted = value


def processing_interrupted() -> bool:
    return _interrupted


def throw_exception_if_processing_interrupted() -> None:
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException()
