"""Animated images and folders of images, by Pillow: WebP, APNG, PNG frames."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from animatediff.media.formats import METADATA_KEY
from animatediff.media.shrink import WEBP, Reduced, Step, shrink
from animatediff.media.spool import AfterFrame, Spool, ticks

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
_DIRECTORY = struct.Struct(">HHHIII")
"""Number of entries; tag, type, count and value of one; place of the next directory."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class _SpooledImage(Image.Image):
    """A spool as a multi-frame Pillow image, so that Pillow asks for its frames one at a time."""

    def __init__(self, frames: Sequence[np.ndarray] | Spool, after_frame: AfterFrame | None = None) -> None:
        super().__init__()
        self._frames, self._index, self._after_frame, self._seen = frames, -1, after_frame, 0
        self.n_frames = len(frames)
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame != self._index:
            image = Image.fromarray(self._frames[frame])
            self.im, self._mode, self._size, self._index = image.im, image.mode, image.size, frame
            if self._after_frame is not None and frame > self._seen:  # the one before is encoded
                self._after_frame(frame, self.n_frames)
                self._seen = frame

    def tell(self) -> int:
        return self._index


class WebpEncoder:
    """Lossy at `quality` below 100, lossless at 100. libwebp stores a run of equal frames as one longer frame."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        fps: Fraction,
        quality: int,
        loop: int,
        text: str,
        after_frame: AfterFrame | None = None,
        *,
        clear: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """clear: frames have transparency; max_bytes: of the file, reached by the steps of `shrink.WEBP`."""
        self._path = path
        self._spool = Spool(size, 4 if clear else 3)
        self._fps, self._quality, self._loop, self._text, self._after_frame = fps, quality, loop, text, after_frame
        self._max_bytes = max_bytes

    def add(self, frame: np.ndarray) -> None:
        self._spool.add(frame)

    def finish(self) -> None:
        shrink(self._path, self._write, WEBP, self._max_bytes, self._spool, self._fps)
        self.abandon()

    def _write(self, step: Step) -> None:
        frames = Reduced(self._spool, step)
        quality = self._quality if step.quality is None else min(step.quality, self._quality)
        with self._path.open("wb") as file:
            _SpooledImage(frames, self._after_frame).save(
                file,
                "WEBP",
                save_all=True,
                duration=ticks(len(frames), self._fps / step.every, 1000),
                loop=self._loop,
                lossless=quality == 100,
                quality=quality,
                method=4,
                exif=exif_comment(self._text),
                **({"exact": True} if self._spool.shape[-1] == 4 and quality == 100 else {}),
            )

    def abandon(self) -> None:
        self._spool.close()


def exif_comment(text: str) -> bytes:
    """EXIF with a text as its comment, in one of the two codes that all readers know (Exif 2.3, section 4.6.5).

    By hand, for Pillow writes the comment as numbers (BYTE), which is against the standard: it is UNDEFINED.
    """
    comment = b"ASCII\0\0\0" + text.encode("ascii") if text.isascii() else b"UNICODE\0" + text.encode("utf-16-be")
    first, second = 8, 8 + _DIRECTORY.size  # where the two directories stand, of one entry each
    header = b"MM\0*" + struct.pack(">I", first)
    to_exif = _DIRECTORY.pack(1, EXIF_IFD, 4, 1, second, 0)  # 4: LONG
    with_comment = _DIRECTORY.pack(1, USER_COMMENT, 7, len(comment), second + _DIRECTORY.size, 0)  # 7: UNDEFINED
    return b"Exif\0\0" + header + to_exif + with_comment + comment


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class ApngEncoder:
    """Each frame compressed by Pillow as a PNG of its own and put in its place in the APNG, with exact durations.

    Chunks as in the PNG specification, third edition, section 11.3.6.
    """

    def __init__(
        self, path: Path, size: tuple[int, int], fps: Fraction, loop: int, text: str, *, clear: bool = False
    ) -> None:
        self._file = path.open("wb")
        self._size, self._fps, self._loop = size, fps, loop
        self._count = self._sequence = 0
        header = struct.pack(">IIBBBBB", size[1], size[0], 8, 6 if clear else 2, 0, 0, 0)
        self._file.write(PNG_SIGNATURE + _chunk(b"IHDR", header))
        self._control = self._file.tell()
        self._file.write(_chunk(b"acTL", bytes(8)))  # the number of frames is not known yet
        if text.isascii():
            self._file.write(_chunk(b"tEXt", METADATA_KEY.encode() + b"\0" + text.encode("ascii")))
        else:  # uncompressed, with neither language nor translated keyword
            self._file.write(_chunk(b"iTXt", METADATA_KEY.encode() + bytes(5) + text.encode()))

    def add(self, frame: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG")
        height, width = self._size
        delay = (self._fps.denominator, self._fps.numerator)
        self._file.write(_chunk(b"fcTL", struct.pack(">IIIIIHHBB", self._next(), width, height, 0, 0, *delay, 0, 0)))
        for kind, data in _chunks(buffer.getvalue()):
            if kind == b"IDAT":
                frame_data = (
                    _chunk(b"fdAT", struct.pack(">I", self._next()) + data) if self._count else _chunk(kind, data)
                )
                self._file.write(frame_data)
        self._count += 1

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def finish(self) -> None:
        self._file.write(_chunk(b"IEND", b""))
        self._file.seek(self._control)
        self._file.write(_chunk(b"acTL", struct.pack(">II", self._count, self._loop)))
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG file, as (kind, content)."""
    position = len(PNG_SIGNATURE)
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += length + 12


class FolderEncoder:
    """`00000.png`, `00001.png`, ...; each holds the request and the frame rate."""

    def __init__(self, path: Path, fps: Fraction, text: str) -> None:
        self._folder, self._count = path, 0
        self._info = PngImagePlugin.PngInfo()
        self._info.add_text(METADATA_KEY, text)
        self._info.add_text("fps", str(fps))

    def add(self, frame: np.ndarray) -> None:
        Image.fromarray(frame).save(self._folder / f"{self._count:05d}.png", pnginfo=self._info)
        self._count += 1

    def finish(self) -> None:
        """Nothing is left to write."""

    def abandon(self) -> None:
        """Nothing is open."""
