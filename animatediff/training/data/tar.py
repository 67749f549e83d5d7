"""Samples of WebDataset shards, read as a stream from a file or over http(s), from any sample on.

A shard is a tar file; files that share a name up to the first dot are one sample ("000017.mp4", "000017.txt").
"""

from __future__ import annotations

import itertools
import logging
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, BinaryIO, cast

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, reason, sniff

logger = logging.getLogger(__name__)

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TIMEOUT_S = 60
PAUSES_S = (1, 4, 16)
"""Pauses before a broken connection is tried again, one for each try."""
BUFFER = 1 << 20


@dataclass
class Sample:
    """The files of one sample, by the part of their names behind the first dot."""

    name: str
    begin: int
    """Its beginning in the shard, in bytes of the tar file."""
    end: int = 0
    """Beginning of the next sample."""
    files: dict[str, bytes] = field(default_factory=dict)


def expand(pattern: str) -> list[str]:
    """List the names that braces stand for. Raises UserError for a range that runs backwards or is no range.

    >>> expand("a-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar']
    """
    parts: list[list[str]] = []
    for index, part in enumerate(re.split(r"\{([^{}]*)\}", pattern)):
        if index % 2 == 0:
            parts.append([part])
        elif found := re.fullmatch(r"(\d+)\.\.(\d+)", part):
            first, last = int(found[1]), int(found[2])
            if first > last:
                raise UserError(f"{pattern}: the range {{{part}}} runs backwards; write {{{found[2]}..{found[1]}}}")
            parts.append([str(number).zfill(len(found[1])) for number in range(first, last + 1)])
        elif "," in part:
            parts.append(part.split(","))
        else:
            raise UserError(f"{pattern}: {{{part}}} is no range; expected {{0000..0009}} or {{a,b}}")
    return ["".join(chosen) for chosen in itertools.product(*parts)]


def is_remote(shard: str) -> bool:
    """Whether a shard comes over the network."""
    return shard.startswith(("http://", "https://"))


def is_plain(shard: str) -> bool:
    """Whether a shard is not compressed, by its name; only then can it be entered in the middle."""
    return shard.split("?")[0].lower().endswith(".tar")


def _open(shard: str, offset: int) -> tuple[Any, int]:
    """Open the shard as a stream; also returns the number of bytes to be skipped to get to `offset`."""
    if not is_remote(shard):
        file = open(shard, "rb")  # noqa: SIM115 - closed by who reads it
        file.seek(offset)
        return file, 0
    headers = {"User-Agent": "animatediff", **({"Range": f"bytes={offset}-"} if offset else {})}
    reply = urllib.request.urlopen(urllib.request.Request(shard, headers=headers), timeout=TIMEOUT_S)
    return reply, 0 if reply.status == 206 else offset


def read_samples(shard: str, begin: int = 0) -> Iterator[Sample]:
    """Read the samples of a shard from byte `begin` on, which must be the beginning of one.

    A connection that breaks is tried again a few times from where it broke. Raises BadMedia for a shard that is not
    there, is no tar file, or ends early.
    """
    pauses = iter(PAUSES_S)
    while True:
        try:
            for sample in _read_once(shard, begin):
                yield sample
                begin, pauses = sample.end, iter(PAUSES_S)
            return
        except (OSError, EOFError, HTTPException, tarfile.TarError) as error:
            broken = is_remote(shard) and not _is_final(error)
            pause = next(pauses, None) if broken else None
            if pause is None:
                raise BadMedia(_explain(shard, error)) from error
            logger.warning("%s: connection broke (%s), tried again in %d s", shard, reason(error), pause)
            time.sleep(pause)


def _is_final(error: Exception) -> bool:
    """Whether the server's answer makes another try useless."""
    return isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500 and error.code not in (408, 429)


def _explain(shard: str, error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # nothing lies beyond the place asked for
        return "ends early"
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"cannot be fetched ({error.reason})"
    if isinstance(error, tarfile.ReadError | EOFError):
        what = None if is_remote(shard) else sniff(shard)
        return what or f"is no tar file, or ends early ({reason(error)})"
    return f"cannot be read ({reason(error)})"


class _Counted:
    """A stream that counts the bytes read."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._count = stream, 0

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._count += len(content)
        return content

    def drain(self) -> int:
        """Read to the end. Returns the number of bytes of the whole stream."""
        while self.read(BUFFER):
            pass
        return self._count


def _read_once(shard: str, begin: int) -> Iterator[Sample]:
    plain = is_plain(shard)
    stream, skip = _open(shard, begin if plain else 0)
    with stream:
        while skip > 0:
            passed = stream.read(min(skip, BUFFER))
            if not passed:
                raise EOFError(f"ended {skip} bytes before the place to go on from")
            skip -= len(passed)
        # Offsets of a compressed shard are those of the tar file inside, which is read from its beginning.
        base = begin if plain else 0
        counted = _Counted(stream)
        with tarfile.open(fileobj=cast(BinaryIO, counted), mode="r|" if plain else "r|*", bufsize=BUFFER) as tar:
            current: Sample | None = None
            for member in tar:
                at = base + member.offset
                folder, _, file = member.name.rpartition("/")
                stem, dot, suffix = file.partition(".")
                if at < begin or not member.isfile() or not dot or not stem:
                    continue
                name = f"{folder}/{stem}" if folder else stem
                if current is None or current.name != name:
                    if current is not None:
                        current.end = at
                        yield current
                    current = Sample(name, at)
                content = tar.extractfile(member)
                assert content is not None
                current.files[suffix.lower()] = content.read()
                cast(Any, tar).members.clear()  # a list of all members so far, which only grows
            # The library takes any end between two files for the end; that of a whole archive is a zero block.
            if plain and counted.drain() < tar.offset + tarfile.BLOCKSIZE:
                raise EOFError("the mark of its end is missing")
            if current is not None:
                current.end = base + tar.offset
                yield current
