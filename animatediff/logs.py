"""The library's log: what files hold reaches it escaped, whoever shows it."""

from __future__ import annotations

import logging

from animatediff.errors import printable

ROOT = "animatediff"


class Escape(logging.Handler):
    """Escape control characters in a record, in place, before handlers of the program see it.

    It shows nothing itself, but for what Python shows of a program without handlers: warnings, on stderr.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = printable(record.getMessage()), None
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not self._is_shown(record.name):
            last.handle(record)
        return True

    def _is_shown(self, name: str) -> bool:
        """Whether a handler other than this one gets records of a logger."""
        logger: logging.Logger | None = logging.getLogger(name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return True
            logger = logger.parent if logger.propagate else None
        return False


def escape_records() -> None:
    """Put an `Escape` before all other handlers of the library's log, once."""
    log = logging.getLogger(ROOT)
    if not any(isinstance(handler, Escape) for handler in log.handlers):
        log.addHandler(Escape())
