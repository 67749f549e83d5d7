"""Images and videos that a client sends: judged by their content, bounded, and stored under names of ours."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, head_of, is_image, sniff
from animatediff.media.open import open_media
from animatediff.media.stills import opened, rgb
from animatediff.render.options import IN_MEMORY
from animatediff.server.errors import ApiError, refused

IMAGE, VIDEO, ANY = "image", "video", "image or video"
MAX_FILES = 64
"""Files of one request."""
_DATA = re.compile(r"data:([\w.+/-]*)((?:;[\w=.+-]+)*),", re.ASCII)
REFERENCES = {"input_reference": ANY, "image_reference": IMAGE, "video_reference": VIDEO}
"""Fields that are files, and the kind that they take."""
FIELDS = (*REFERENCES, *IN_MEMORY)
_STORED = re.compile(rf"\b({'|'.join(FIELDS)})-\d+\.\w+")
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "GIF": ".gif", "WEBP": ".webp", "AVIF": ".avif"}
_decoding = threading.Semaphore(2)
"""Large images take hundreds of megabytes while they are judged."""


@dataclass(frozen=True)
class Upload:
    """A file that a client sent, found to be what it should be."""

    content: bytes = field(repr=False)
    kind: str
    """IMAGE or VIDEO."""
    suffix: str
    """By the content, never by a client's file name."""


def from_data_url(text: str, param: str) -> bytes:
    """The bytes of `data:image/png;base64,...`. Raises ApiError for anything else, such as an address."""
    found = _DATA.match(text[:256])
    if found is None:
        shown = text[:60] + ("..." if len(text) > 60 else "")
        raise refused(
            f"{param}: expected a data URL (data:image/png;base64,...) or a file of a multipart form, got {shown!r}; "
            "the server fetches nothing from other addresses and opens no paths",
            param,
        )
    if "base64" not in found[2].lower().split(";"):
        raise refused(f"{param}: a data URL here is in base64 (data:image/png;base64,...)", param)
    try:
        return base64.b64decode(text[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(f"{param}: the data URL is no base64 ({error})", param) from error


def judged(content: bytes, wanted: str, param: str) -> Upload:
    """A file of the wanted kind, read as far as its first frame. Raises ApiError for another one, and for damage.

    wanted: IMAGE, VIDEO, or ANY, where an animated image is a video. Pixels are counted before anything is decoded.
    """
    if not content:
        raise refused(f"{param}: the file is empty", param, "invalid_file")
    try:
        with _decoding:
            return _judged(content, wanted)
    except (BadMedia, UserError) as error:
        text = str(error).removeprefix("image: ").strip()
        article = "an image" if wanted == IMAGE else "a video" if wanted == VIDEO else "an image or a video"
        raise refused(f"{param}: cannot be read as {article}: {text}", param, "invalid_file") from error
    except (MemoryError, RecursionError, ValueError, OSError, ArithmeticError) as error:
        raise refused(f"{param}: is damaged ({type(error).__name__})", param, "invalid_file") from error


def _judged(content: bytes, wanted: str) -> Upload:
    if is_image(head_of(content)):
        with opened(content) as image:
            suffix = _SUFFIXES.get(image.format or "", ".png")
            moving = getattr(image, "n_frames", 1) > 1 and image.format != "MPO"
        if wanted == IMAGE or (wanted == ANY and not moving):
            rgb(content)
            return Upload(content, IMAGE, suffix)
        with open_media(content) as reader:
            next(iter(reader.each([0])))
        return Upload(content, VIDEO, suffix)
    if wanted == IMAGE:
        raise BadMedia(sniff(content) or "it is no image")
    if (what := sniff(content)) is not None:
        raise BadMedia(what)
    with open_media(content) as reader:
        if not reader.num_frames:
            raise BadMedia("it has no frames")
        next(iter(reader.each([0])))
    return Upload(content, VIDEO, ".webm" if content.startswith(b"\x1a\x45\xdf\xa3") else ".mp4")


class Uploads:
    """The files of one request, on their way into the folder of its job."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: list[tuple[Path, bytes]] = []

    def take(self, content: bytes, wanted: str, param: str) -> tuple[str, str]:
        """Judge a file; its kind, and the path that it will have. Raises ApiError."""
        if len(self._files) >= MAX_FILES:
            raise refused(f"{param}: more than {MAX_FILES} files in one request", param)
        upload = judged(content, wanted, param)
        path = self._folder / f"{_field(param)}-{len(self._files)}{upload.suffix}"
        self._files.append((path, upload.content))
        return upload.kind, str(path)

    def write(self) -> None:
        """Store the files. Raises OSError."""
        for path, content in self._files:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_bytes(content)


def _field(param: str) -> str:
    """The field of ours that a parameter is, or is a part of: `keyframes` of `extra_params.keyframes.0`."""
    found = param.removeprefix("extra_params.").partition(".")[0]
    assert found in FIELDS, f"{param}: no field that takes files"
    return found


def without_numbers(text: str) -> str:
    """A message about a stored file, which goes by the name of its field.

    >>> without_numbers("input_reference-0.mp4: has 4 frames")
    'input_reference: has 4 frames'
    """
    return _STORED.sub(r"\1", text)


def too_large(limit_mb: int) -> ApiError:
    """The reply for a body beyond the bound."""
    return ApiError(413, f"the request is larger than the {limit_mb} MB that this server takes", code="too_large")
