"""How a command ends: a user's mistake is one message and exit code 2, Ctrl-C is 130."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, NoReturn

import typer

from animatediff.cli.show import show
from animatediff.errors import OUT_OF_MEMORY, Cancelled, UserError, is_disk_full, is_out_of_memory, renamed
from animatediff.limits import FLAGS as LIMIT_FLAGS

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count

_OF_PATHS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_OF_STORAGE = {errno.ENAMETOOLONG, errno.ELOOP, errno.EIO, getattr(errno, "ESTALE", None)} - {None}
"""Errors that a path or a disk causes, wherever they are met."""


@contextmanager
def reporting(flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """Print what a user can do about an error on stderr and exit; errors of ours keep their traceback.

    flags: setting -> its flag, which stands in messages in place of the setting.
    """
    flags = LIMIT_FLAGS | dict(flags or {})
    try:
        yield
    except KeyboardInterrupt:
        _fail("interrupted", INTERRUPTED)
    except UserError as error:
        _fail(renamed(str(error), flags))
    except OSError as error:
        if is_disk_full(error):
            _fail(f"{error.filename or 'writing'}: the disk is full")
        if is_out_of_memory(error):
            _fail(renamed(OUT_OF_MEMORY, flags))
        if isinstance(error, BrokenPipeError):  # the reader of our output, such as `head`, has gone
            raise typer.Exit(1) from None
        if isinstance(error, _OF_PATHS) or error.errno in _OF_STORAGE:
            _fail(f"{error.filename}: {error.strerror}")
        raise
    except UnicodeEncodeError as error:
        if error.encoding.replace("-", "") == "utf8":
            _fail(f"{error.object[:200]!r}: holds bytes that are no UTF-8, which only names of files may have")
        _fail(
            f"{error.object[:200]}: cannot be written in this system's {error.encoding}; set the environment variable "
            "PYTHONUTF8=1, or a locale of UTF-8"
        )
    except Cancelled:
        _fail("cancelled", INTERRUPTED)
    except Exception as error:
        if is_out_of_memory(error):
            _fail(renamed(OUT_OF_MEMORY, flags))
        if is_disk_full(error):
            _fail("writing: the disk is full")
        if "determine home directory" in str(error):  # pathlib's, for ~somebody
            _fail("a path begins with ~ and the name of no user of this machine; write the folder out")
        raise


def _fail(message: str, code: int = USER_ERROR) -> NoReturn:
    show(f"animatediff: {message}", file=sys.stderr)
    raise typer.Exit(code)


def reports_errors(**flags: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command inside `reporting`. flags: setting -> its flag."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> None:
            with reporting(flags):
                command(*args, **kwargs)

        return wrapped

    return decorated
