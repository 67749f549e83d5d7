"""Animated images and folders of images, by Pillow: GIF, WebP, APNG, PNG frames."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image, PngImagePlugin

from animatediff.media.formats import METADATA_KEY

PALETTE_PIXELS = 1 << 14
"""Pixels of each frame that the palette of a GIF is made from (all of them up to 128x128)."""
PALETTE_FRAMES = 128
"""Frames at most that it is made from: all of a clip up to that length, then every second, every fourth, ...."""

EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def ticks(count: int, fps: Fraction, per_second: int) -> list[int]:
    """Whole-numbered lengths of `count` frames whose running sum is never off by more than half a tick.

    >>> ticks(4, Fraction(8), 100)
    [12, 13, 13, 12]
    """
    ends = [round(i * per_second / fps) for i in range(count + 1)]
    return [end - start for start, end in pairwise(ends)]


AfterFrame = Callable[[int, int], None]
"""(frames encoded, of how many)."""


class Spool:
    """Frames on disk, for writers that read them twice; memory stays that of one frame. size: (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.shape = (*size, 3)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, frame: np.ndarray) -> None:
        self._file.write(frame.tobytes())
        self.count += 1

    def __getitem__(self, index: int) -> np.ndarray:
        length = int(np.prod(self.shape))
        self._file.seek(index * length)
        return np.frombuffer(self._file.read(length), np.uint8).reshape(self.shape)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(self.count))

    def close(self) -> None:
        self._file.close()


class GifEncoder:
    """One palette of at most 256 colours from all frames of the clip, no dithering: still parts stay still."""

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        fps: Fraction,
        loop: int,
        text: str,
        after_frame: AfterFrame | None = None,
    ) -> None:
        self._file = path.open("wb")
        self._spool = Spool(size)
        self._fps, self._loop, self._text, self._after_frame = fps, loop, text, after_frame
        self._stride = max(1, int(np.ceil(np.sqrt(size[0] * size[1] / PALETTE_PIXELS))))
        self._samples: list[np.ndarray] = []
        self._every = 1

    def add(self, frame: np.ndarray) -> None:
        if self._spool.count % self._every == 0:
            if len(self._samples) == PALETTE_FRAMES:
                self._samples = self._samples[::2]
                self._every *= 2
            # a copy: a view would keep the whole chunk that the frame came with
            self._samples.append(frame[:: self._stride, :: self._stride].reshape(1, -1, 3).copy())
        self._spool.add(frame)

    def finish(self) -> None:
        palette = Image.fromarray(np.concatenate(self._samples, axis=0)).quantize(
            256, Image.Quantize.MEDIANCUT, kmeans=1
        )
        colours = bytes(palette.getpalette() or []).ljust(768, b"\0")[:768]
        height, width = self._spool.shape[:2]
        self._file.write(
            b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + colours
        )  # 0xF7: 256 global colours
        if self._loop != 1:  # played once where the block is absent; the block counts repetitions after the first
            self._file.write(b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, max(0, self._loop - 1), 0))
        comment = self._text.encode()
        self._file.write(b"!\xfe")
        for start in range(0, len(comment), 255):
            block = comment[start : start + 255]
            self._file.write(bytes([len(block)]) + block)
        self._file.write(b"\0")
        lengths = ticks(self._spool.count, self._fps, 100)
        for number, (frame, length) in enumerate(zip(self._spool, lengths, strict=True), start=1):
            image = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
            for block in GifImagePlugin.getdata(image, duration=length * 10, disposal=1):
                self._file.write(block)
            if self._after_frame is not None:
                self._after_frame(number, len(lengths))
        self._file.write(b";")
        self.abandon()

    def abandon(self) -> None:
        self._file.close()
        self._spool.close()


class _SpooledImage(Image.Image):
    """A spool as a multi-frame Pillow image, so that Pillow asks for its frames one at a time."""

    def __init__(self, spool: Spool, after_frame: AfterFrame | None = None) -> None:
        super().__init__()
        self._spool, self._index, self._after_frame, self._seen = spool, -1, after_frame, 0
        self.n_frames = spool.count
        self.seek(0)

    def seek(self, frame: int) -> None:
        if frame != self._index:
            image = Image.fromarray(self._spool[frame])
            self.im, self._mode, self._size, self._index = image.im, "RGB", image.size, frame
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
    ) -> None:
        self._file = path.open("wb")
        self._spool = Spool(size)
        self._fps, self._quality, self._loop, self._text, self._after_frame = fps, quality, loop, text, after_frame

    def add(self, frame: np.ndarray) -> None:
        self._spool.add(frame)

    def finish(self) -> None:
        exif = Image.Exif()
        exif.get_ifd(EXIF_IFD)[USER_COMMENT] = b"ASCII\0\0\0" + self._text.encode("ascii")
        _SpooledImage(self._spool, self._after_frame).save(
            self._file,
            "WEBP",
            save_all=True,
            duration=ticks(self._spool.count, self._fps, 1000),
            loop=self._loop,
            lossless=self._quality == 100,
            quality=self._quality,
            method=4,
            exif=exif.tobytes(),
        )
        self.abandon()

    def abandon(self) -> None:
        self._file.close()
        self._spool.close()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class ApngEncoder:
    """Each frame compressed by Pillow as a PNG of its own and put in its place in the APNG, with exact durations.

    Chunks as in the PNG specification, third edition, section 11.3.6.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: Fraction, loop: int, text: str) -> None:
        self._file = path.open("wb")
        self._size, self._fps, self._loop = size, fps, loop
        self._count = self._sequence = 0
        header = struct.pack(">IIBBBBB", size[1], size[0], 8, 2, 0, 0, 0)
        self._file.write(PNG_SIGNATURE + _chunk(b"IHDR", header))
        self._control = self._file.tell()
        self._file.write(_chunk(b"acTL", bytes(8)))  # the number of frames is not known yet
        self._file.write(_chunk(b"tEXt", METADATA_KEY.encode() + b"\0" + text.encode("latin-1")))

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
