"""Folders of numbered images that are clips, and animated images, told from single images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, head_of, is_animation, is_litter
from animatediff.media.open import open_media
from animatediff.signatures import IMAGE_SUFFIXES

CAN_MOVE = {".png", ".webp", ".avif", ".tif", ".tiff", ".heic", ".heif"}
"""Suffixes of images of which some are animated."""
MOST_LOOKED_AT = 1000
"""Images of a folder that are opened to find an animated one."""


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a folder and those below, sorted: (folder, folders in it, files in it), without what systems leave there."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(f for f in folders if not is_litter(f)) if real not in seen else []
        if real in seen:  # a link back to a folder above
            continue
        seen.add(real)
        yield root, folders, sorted(files)


def suffix_of(name: str) -> str:
    """The suffix of a file, in lower case."""
    return os.path.splitext(name)[1].lower()


def frame_numbers(names: list[str]) -> list[int]:
    """Numbers of the frames of a clip, if these are all images of a folder and nothing but such frames; else empty.

    >>> frame_numbers(["walk_2.png", "walk_10.png"]), frame_numbers(["walk.png", "2.png"])
    ([2, 10], [])
    """
    found = [re.fullmatch(r"(\D*(?:\d+\D+)*?)(\d+)(\D*)", os.path.splitext(name)[0]) for name in names]
    if len(names) < 2 or None in found:
        return []
    numbers = sorted(int(match[2]) for match in found if match)
    alike = {(match[1], match[3], suffix_of(name)) for match, name in zip(found, names, strict=True) if match}
    return numbers if len(alike) == 1 and len(set(numbers)) == len(numbers) else []


def frames_of(files: list[str]) -> list[str]:
    """The images of a folder that are the frames of one clip, by the names of its files; empty if it is none."""
    images = [name for name in files if suffix_of(name) in IMAGE_SUFFIXES and not is_litter(name)]
    stems = {os.path.splitext(name)[0] for name in images}
    captioned = any(
        suffix_of(name) not in IMAGE_SUFFIXES
        and (os.path.splitext(name)[0] in stems or os.path.splitext(name)[0] in images)
        for name in files
    )
    return images if not captioned and frame_numbers(images) else []


def is_animated(path: str | Path) -> bool:
    """Whether a file is an image of several frames; a damaged one is none."""
    if suffix_of(str(path)) not in CAN_MOVE:
        return False
    try:
        if not is_animation(head_of(path)):
            return False
        with open_media(path) as media:
            return media.num_frames > 1
    except BadMedia:
        return False
    except UserError:  # beyond a limit: the check of clips names it
        return True


def has_clips(folder: Path) -> bool:
    """Whether a folder without videos holds clips all the same: animated images or folders of frames."""
    if any(frames_of(files) for _, _, files in walk(folder)):
        return True
    images = (os.path.join(root, name) for root, _, files in walk(folder) for name in files)
    return any(is_animated(path) for path in islice((p for p in images if suffix_of(p) in CAN_MOVE), MOST_LOOKED_AT))


def identity_of(path: str) -> str:
    """Size and time of a file, or of everything in a folder of frames. Raises OSError."""
    status = os.stat(path)
    if not os.path.isdir(path):
        return f"{status.st_size} {status.st_mtime_ns}"
    with os.scandir(path) as entries:
        files = sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries)
    return hashlib.sha256(repr(files).encode("utf-8", "surrogateescape")).hexdigest()
