"""Errors that a user can cause, in one type, and the hints that go with them."""

from __future__ import annotations

import difflib
import errno
import math
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

_SETTING = re.compile(r"`([a-z][a-z0-9_]*)`")
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode's categories of characters that show nothing, or change what a terminal shows."""
_JOINERS = "\u00ad\u200c\u200d"
"""Of these categories, but parts of words and of emoji: soft hyphen, zero-width non-joiner and joiner."""


def printable(text: str) -> str:
    """`text` with each control character, and each byte that is no text, as its escape; line ends stay.

    >>> printable("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    if text.isprintable():
        return text
    hidden = (c != "\n" and c not in _JOINERS and unicodedata.category(c) in _HIDDEN for c in text)
    return "".join(c.encode("unicode_escape").decode() if hide else c for c, hide in zip(text, hidden, strict=True))


def holds_surrogates(text: str) -> bool:
    """Whether a text holds halves of surrogate pairs, as which Python reads bytes that are no UTF-8."""
    return any("\ud800" <= char <= "\udfff" for char in text)


def brief(value: object) -> str:
    """`value` in a few words, whatever it is, for messages.

    >>> brief(10**20000), brief([1, 2, 3])
    ('a number of 20,001 digits', '[1, 2, 3]')
    """
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4300 digits
        if isinstance(value, int):
            return f"a number of {math.floor(math.log10(abs(value))) + 1:,} digits"
        return f"a {type(value).__name__} with a number of thousands of digits"


OUT_OF_MEMORY = (
    "out of memory: try fewer frames (`num_frames`), a smaller `width` and `height`, `decode_chunk_size` 1, "
    "`cpu_offload`, or `dtype` float16"
)
"""What is said where a render ran out of memory; doors put their names for the settings."""
_NO_MEMORY = ("out of memory", "can't allocate memory")
"""In the messages of torch's errors that have no type of their own: CUDA's, and its allocator's on the CPU."""
_NO_SPACE = ("no space left on device", "disk is full", "pytorchstreamwriter", "unexpected pos")
"""In the messages of libraries that give no number: safetensors, SQLite, and torch, which reports a write that did not
take all bytes and not why."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that it was raised from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, that of the machine or of its device; `OUT_OF_MEMORY` says what to do."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is that of a full disk or a used-up quota."""
    return any(_says_full(cause) for cause in causes(error))


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, UserError):  # it may quote a file's name or a prompt
        return False
    return any(text in str(error).lower() for text in _NO_SPACE)


class UserError(ValueError):
    """A mistake in a file, a setting or an argument; its message names the finding and the remedy.

    Messages name settings as Python does, in backquotes (`num_frames`); a front end that has other names for them puts
    those in their place by `renamed`. Control characters in them, which names in files may hold, become escapes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)))


class Cancelled(Exception):  # noqa: N818 - a request that was granted, not an error
    """Raised where the caller no longer wants the result."""


def renamed(message: str, names: Mapping[str, str]) -> str:
    """`message` with every setting in backquotes that `names` holds under its name there.

    >>> renamed("take fewer `num_frames`", {"num_frames": "--num-frames"})
    'take fewer --num-frames'
    """
    return _SETTING.sub(lambda found: names.get(found[1], found[0]), message)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, whatever its case, or None if none is close."""
    spelled = {name.lower(): name for name in known}
    matches = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.6)
    return spelled[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean 'linear'? ` for the known word that is near, or nothing.

    >>> did_you_mean("liner", ["linear", "slerp"])
    "did you mean 'linear'? "
    """
    close = nearest(word, known)
    return f"did you mean {close!r}? " if close else ""


def unknown(kind: str, word: object, known: Iterable[str]) -> UserError:
    """The error for an unknown word, with the nearest known one.

    >>> str(unknown("interpolation", "liner", ["linear", "slerp"]))
    "unknown interpolation 'liner'; did you mean 'linear'? known are linear, slerp"
    """
    known = list(known)
    hint = did_you_mean(word, known) if isinstance(word, str) else ""
    return UserError(f"unknown {kind} {word!r}; {hint}known are {', '.join(known)}")
