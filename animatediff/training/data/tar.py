"""Samples of WebDataset shards, read as a stream from a file or over http(s), from any sample on.

A shard is a tar file; `samples` tells which of its files are one sample.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from typing import Any, BinaryIO, cast

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, reason, sniff
from animatediff.training.data.samples import (
    MOST_FILES,
    Draft,
    Member,
    Sample,
    belongs,
    drafts,
    reunited,
    split_runs,
)  # fmt: skip

logger = logging.getLogger(__name__)

SHARD_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
TIMEOUT_S = 60
PAUSES_S = (1, 4, 16)
"""Pauses before a broken connection is tried again, one for each try."""
BUFFER = 1 << 20


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


def is_indexed(shard: str) -> bool:
    """Whether a shard can be entered anywhere, so that its files may come in any order."""
    return not is_remote(shard) and is_plain(shard)


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


def _read_once(shard: str, begin: int) -> Iterator[Sample]:
    if is_indexed(shard):
        yield from _read_file(shard, begin)
    else:
        yield from _read_stream(shard, begin)


def _is_sample(member: tarfile.TarInfo) -> bool:
    stem, dot, _ = member.name.rpartition("/")[2].partition(".")
    return not member.isdir() and bool(dot and stem)


def _read_file(shard: str, begin: int) -> Iterator[Sample]:
    """Read the samples of a local file, in any order of its members: what is where is found out first."""
    with open(shard, "rb") as file:
        members, end, failure = _index(file)
        parted = reunited([draft for run in split_runs(members) for draft in drafts(run)])
        parted.sort(key=lambda draft: draft.begin)
        for number, draft in enumerate(parted, 1):
            if draft.begin >= begin:
                yield draft.sample(parted[number].begin if number < len(parted) else end)
        if failure is not None:
            raise failure


def _index(file: BinaryIO) -> tuple[list[Member], int, Exception | None]:
    """Everything in an open shard, the end of it, and the fault at which it ends too early, if any."""
    members: list[Member] = []
    at: int | None = 0
    end = 0
    try:
        while at is not None:  # archives may be written one behind the other
            file.seek(at)
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 - members are read later
            for info in tar:
                if _is_sample(info):
                    members.append(
                        Member(info.name, info.offset, partial(_content, tar, info), info.offset_data + info.size)
                    )
            end = tar.offset
            file.seek(end)
            mark = file.read(tarfile.BLOCKSIZE)
            if len(mark) < tarfile.BLOCKSIZE or any(mark):
                whole = len(mark) == tarfile.BLOCKSIZE
                raise EOFError(f"it is damaged at byte {end}" if whole else "the mark of its end is missing")
            at = _next_archive(file)
    except (tarfile.TarError, EOFError) as error:
        size = file.seek(0, os.SEEK_END)
        return [member for member in members if member.end <= size], end, error
    return members, end, None


def _next_archive(file: BinaryIO) -> int | None:
    """The place of another archive behind the end of one; None where there is nothing more."""
    while block := file.read(tarfile.BLOCKSIZE):
        if any(block):
            return file.tell() - len(block) if block[257:262] == b"ustar" else None
    return None


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """The content of a file in a shard, of a link that of the file which it names. Raises BadMedia."""
    try:
        content = tar.extractfile(info)
    except (KeyError, RecursionError):
        content = None
    if content is None:
        raise BadMedia(f"{info.name} is a link to {info.linkname}, which is not in the shard")
    return content.read()


def _read_stream(shard: str, begin: int) -> Iterator[Sample]:
    plain = is_plain(shard)
    stream, skip = _open(shard, begin if plain else 0)
    # Offsets of a compressed shard are those of the tar file inside, which is read from its beginning.
    base = begin if plain else 0
    with stream:
        while skip > 0:
            passed = stream.read(min(skip, BUFFER))
            if not passed:
                raise EOFError(f"ended {skip} bytes before the place to go on from")
            skip -= len(passed)
        with tarfile.open(fileobj=stream, mode="r|" if plain else "r|*", bufsize=BUFFER) as tar:
            order = _Sorted(shard)
            last: Draft | None = None
            for draft in _stream_drafts(_streamed(tar, base, begin)):
                if last is not None:
                    yield last.sample(draft.begin)
                order.check(draft)
                last = draft
            end = base + tar.offset
            _check_end(tar, plain)
            if last is not None:
                yield last.sample(end)


def _streamed(tar: tarfile.TarFile, base: int, begin: int) -> Iterator[Member]:
    for info in tar:
        if base + info.offset < begin or not _is_sample(info):
            continue
        if info.isreg():
            content = tar.extractfile(info)
            assert content is not None
            yield Member(info.name, base + info.offset, partial(bytes, content.read()))
        else:
            yield Member(info.name, base + info.offset, partial(_no_link, info))
        cast(Any, tar).members.clear()  # a list of all members so far, which only grows


def _no_link(info: tarfile.TarInfo) -> bytes:
    raise BadMedia(f"{info.name} is a link, which only shards on this machine can have; tar has --hard-dereference")


def _stream_drafts(members: Iterator[Member]) -> Iterator[Draft]:
    """Samples as they come, a run of files with one name up to the first dot at a time, if it is not too long."""
    run: list[Member] = []
    for member in members:
        if run and not belongs(member, run):
            yield from drafts(run)
            run = []
        run.append(member)
        if len(run) > MOST_FILES:
            *done, last = drafts(run)
            yield from done
            run = last.members
    if run:
        yield from drafts(run)


class _Sorted:
    """Looks whether captions come apart from their clips, which a stream cannot mend."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._bare, self._alone = set[str](), set[str]()

    def check(self, draft: Draft) -> None:
        """Raise UserError where a caption lies apart from its clip."""
        names = {draft.name} if draft.is_bare else set[str]()
        mine, others = self._bare, self._alone
        if not draft.has_media:
            names = {stem for member in draft.members if member.is_caption for stem in member.stems()}
            mine, others = others, mine
        if found := names & others:
            raise UserError(
                f"{self._shard}: the caption of {found.pop()} lies apart from it; in a shard that is compressed or "
                "remote the files of a clip must be neighbours: pack it anew with `tar --sort=name`"
            )
        mine |= names


def _check_end(tar: tarfile.TarFile, plain: bool) -> None:
    """Read to the end of a stream. Raises EOFError where it has none, or goes on behind it."""
    rest: Any = tar.fileobj
    position, more = tar.offset, 0
    known = rest.pos if hasattr(rest, "pos") else position
    while chunk := rest.read(BUFFER):
        more += len(chunk)
        if b"ustar" in chunk:
            raise EOFError("more files come behind its end, which only shards on this machine may have")
    if plain and known + more < position + tarfile.BLOCKSIZE:
        raise EOFError("the mark of its end is missing")
