"""GIF: colours by Pillow, the file made smaller by gifsicle where it is installed."""

from __future__ import annotations

import logging
import shutil
import struct
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import GifImagePlugin, Image

from animatediff.media.shrink import GIF, Reduced, Step, shrink
from animatediff.media.spool import AfterFrame, Spool, ticks

logger = logging.getLogger(__name__)

PALETTE_PIXELS = 1 << 14
"""Pixels of each frame that the palette of a GIF is made from (all of them up to 128x128)."""
PALETTE_FRAMES = 128
"""Frames at most that it is made from: all of a clip up to that length, then every second, every fourth, ...."""
CLEAR_BELOW = 128
"""Opacity (of 255) under which a pixel is transparent; GIF knows nothing between."""
GIFSICLE_S = 600
"""Seconds that gifsicle may take."""


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
        *,
        clear: bool = False,
        max_bytes: int | None = None,
    ) -> None:
        """clear: frames have transparency; max_bytes: of the file, reached by the steps of `shrink.GIF`."""
        self._path = path
        self._clear, self._max_bytes = clear, max_bytes
        self._spool = Spool(size, 4 if clear else 3)
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
            sample = frame[:: self._stride, :: self._stride].reshape(1, -1, frame.shape[-1]).copy()
            self._samples.append(sample[:, sample[0, :, 3] >= CLEAR_BELOW, :3] if self._clear else sample)
        self._spool.add(frame)

    def finish(self) -> None:
        steps = GIF if gifsicle() is not None else tuple(dict.fromkeys(replace(step, lossy=0) for step in GIF))
        shrink(self._path, self._write, steps, self._max_bytes, self._spool, self._fps)
        self.abandon()

    def _write(self, step: Step) -> None:
        frames = Reduced(self._spool, step)
        seen = np.concatenate(self._samples, axis=1 if self._clear else 0)
        if not seen.size:  # nothing is seen in any frame
            seen = np.zeros((1, 1, 3), np.uint8)
        colors = min(step.colors, 255 if self._clear else 256)
        palette = Image.fromarray(seen).quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1)
        with self._path.open("wb") as file:
            file.write(self._head(palette, frames.size))
            lengths = ticks(len(frames), self._fps / step.every, 100)
            for number, (frame, length) in enumerate(zip(frames, lengths, strict=True), start=1):
                for block in self._blocks(frame, palette, length * 10):
                    file.write(block)
                if self._after_frame is not None:
                    self._after_frame(number, len(lengths))
            file.write(b";")
        optimize(self._path, step.lossy)

    def _head(self, palette: Image.Image, size: tuple[int, ...]) -> bytes:
        """Header, 256 colours, the number of times it plays, and the text."""
        colours = bytes(palette.getpalette() or []).ljust(768, b"\0")[:768]
        head = b"GIF89a" + struct.pack("<HHBBB", *size, 0xF7, 0, 0) + colours  # 0xF7: 256 global colours
        if self._loop != 1:  # played once where the block is absent; the block counts repetitions after the first
            head += b"!\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, max(0, self._loop - 1), 0)
        comment = self._text.encode()
        head += b"!\xfe"
        for start in range(0, len(comment), 255):
            block = comment[start : start + 255]
            head += bytes([len(block)]) + block
        return head + b"\0"

    def _blocks(self, frame: np.ndarray, palette: Image.Image, duration: int) -> list[bytes]:
        """A frame as the blocks of the file."""
        image = Image.fromarray(frame[..., :3]).quantize(palette=palette, dither=Image.Dither.NONE)
        if not self._clear:
            return GifImagePlugin.getdata(image, duration=duration, disposal=1)
        numbers = np.asarray(image).copy()
        numbers[frame[..., 3] < CLEAR_BELOW] = 255  # a number that the palette leaves free
        marked = Image.fromarray(numbers)
        marked.putpalette(image.getpalette() or [])
        return GifImagePlugin.getdata(marked, duration=duration, disposal=2, transparency=255)

    def abandon(self) -> None:
        self._spool.close()


def gifsicle() -> str | None:
    """The program, where it is installed."""
    return shutil.which("gifsicle")


def optimize(path: Path, lossy: int = 0) -> None:
    """Let gifsicle make a GIF smaller, where it is installed: the same frames, or, `lossy`, nearly the same."""
    if (program := gifsicle()) is None:
        return
    # frames without a change would be left out, which changes their number
    command = [program, "--no-warnings", "-O3", "-Okeep-empty", *([f"--lossy={lossy}"] if lossy else [])]
    try:
        done = subprocess.run([*command, str(path.absolute())], capture_output=True, timeout=GIFSICLE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("gifsicle cannot make the GIF smaller (%s)", error)
        return
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip()[:200]
        logger.warning("gifsicle cannot make the GIF smaller (%s)", words)
    elif 0 < len(done.stdout) < path.stat().st_size:
        path.write_bytes(done.stdout)
