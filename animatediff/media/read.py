"""Read clips: frames, frame rate, and the request inside the file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.errors import UserError
from animatediff.limits import MAX_FRAMES
from animatediff.media.animated import EXIF_IFD, USER_COMMENT
from animatediff.media.decode import open_container
from animatediff.media.folder import images_in
from animatediff.media.formats import METADATA_KEY
from animatediff.media.kinds import BadMedia, head_of, is_heic, is_image
from animatediff.media.open import open_media
from animatediff.media.reader import Reader
from animatediff.media.stills import opened, reading
from animatediff.media.timing import Steady
from animatediff.parse import load_json

logger = logging.getLogger(__name__)


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """All frames of a video, an animated image or a folder of images: uint8 (f, h, w, 3), and frames per second.

    Upright, on white, in square pixels. Where frames are shown unequally long, they are taken by time at a constant
    rate. Raises UserError for a file that is missing, damaged or no video, and for images of different sizes.
    """
    with open_clip(path) as clip:
        frames: np.ndarray | None = None
        for number, image in enumerate(clip.frames):
            if frames is None:
                frames = np.empty((clip.num_frames, *image.shape), np.uint8)
            frames[number] = image
        assert frames is not None, "readers have frames"
        return frames, clip.fps


@dataclass(frozen=True)
class OpenClip:
    """The frames of a file one after another, uint8 (h, w, 3), all of one size."""

    frames: Iterator[np.ndarray]
    num_frames: int
    fps: float
    has_audio: bool = False
    clear: bool = False
    """Whether frames have opacity as a fourth channel."""


@contextmanager
def open_clip(path: str | Path, *, alpha: bool = False) -> Iterator[OpenClip]:
    """A context with the frames that `read_video` returns, of which one is in memory at a time. Raises as it does.

    alpha: keep transparency, (h, w, 4), where the file has it.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file")
    what = "{}" if path.is_dir() else "cannot be read as a video ({})"
    with naming(path, what), open_media(path, alpha=alpha) as reader:
        steady = reader.steady()
        count = len(steady.indices)
        MAX_FRAMES.check(count, f"{path}: has {count:,} frames")
        yield OpenClip(_each(path, reader, steady), count, steady.fps, reader.has_audio, reader.clear)


def _each(path: Path, reader: Reader, steady: Steady) -> Iterator[np.ndarray]:
    """The frames at a constant rate; one that is shown longer comes several times."""
    times = Counter(steady.indices)
    first: tuple[int, ...] | None = None
    for index, image in reader.each(sorted(times)):
        first = first or image.shape
        if image.shape != first:
            sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (first, image.shape))
            raise BadMedia(f"{reader.name(index)}: not of the size of the first frame ({sizes})")
        yield from repeat(image, times[index])
    say(path, reader, steady)


@contextmanager
def naming(path: Path, what: str = "{}") -> Iterator[None]:
    """Put the file's name before messages about it, which stand in place of the braces in `what`."""
    try:
        yield
    except BadMedia as error:
        raise UserError(f"{path}: {what.format(error)}") from error


def say(path: Path, reader: Reader, steady: Steady | None = None) -> None:
    """Warn of what is to be known of a file from which frames were read."""
    for note in reader.notes:
        logger.warning("%s: %s", path, note)
    if steady is not None and steady.num_left_out:
        logger.warning(
            "%s: its frames are shown unequally long; taken at %.3g a second, %d of %d are left out",
            path,
            steady.fps,
            steady.num_left_out,
            reader.num_frames,
        )


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_video` put into a file or a folder; empty where there is none.

    Raises UserError for a file that is missing or cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        files, _ = images_in(path)
        if not files:
            raise UserError(f"{path}: no images in this folder")
        path = files[0]
    with naming(path):
        head = head_of(path)
        text = "" if is_heic(head) else _image_text(path) if is_image(head) else _stream_text(path)
    try:
        content = load_json(text, f"{path}: metadata")
    except UserError:
        raise
    except ValueError:  # a comment by another program
        return {}
    return content if isinstance(content, dict) else {}


def _image_text(path: Path) -> str:
    with opened(path) as image, reading(path):
        if image.format == "WEBP":
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            return comment[8:].decode("ascii", "replace") if isinstance(comment, bytes) else ""
        text = image.info.get("comment" if image.format == "GIF" else METADATA_KEY, "")
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _stream_text(path: Path) -> str:
    with open_container(path) as container:
        tags = {key.lower(): value for key, value in container.metadata.items()}
    return tags.get("comment", "")
