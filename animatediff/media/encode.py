"""MP4 (H.264) and WebM (VP9), by PyAV."""

from __future__ import annotations

import platform
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.media.decode import address

CODECS = {"mp4": "libx264", "webm": "libvpx-vp9"}

THREADS = 4
"""Threads of an encoder, whatever the machine: with other numbers the same frames are encoded differently."""

SIMD = "asm=MMX2,SSE2,SSE2Fast,SSSE3"
"""Instructions of x86 that x264 may use, by its names. By those for AVX-512 its macroblock tree (`mbtree`) differs from
run to run where the width is no multiple of 128 pixels; without that tree files are twice as large. All processors
make the same file by these, in the same time."""

BT709 = 1
"""Number of ITU-R BT.709 in the colour tables of H.264 and VP9 (ISO/IEC 23091-2)."""


def crf_of(container: str, quality: int) -> int:
    """Rate factor for a quality of 0 to 100: 50 to 10 for H.264 (default 18), 60 to 10 for VP9 (default 20)."""
    return round(50 - 0.4 * quality) if container == "mp4" else round(60 - 0.5 * quality)


class CodecEncoder:
    """Encode frames one by one; only the codec's lookahead is kept.

    H.264 in yuv420p has even sizes only: an odd image is widened by repeating its last column or row. The same frames
    give the same file, however many processors there are and however busy they are.
    """

    def __init__(
        self, path: Path, container: str, size: tuple[int, int], fps: Fraction, quality: int, text: str
    ) -> None:
        import av

        height, width = size
        self._odd = (height % 2, width % 2) if container == "mp4" else (0, 0)
        # WebM has a random identifier unless it is to be "bit exact"
        options = {"movflags": "+faststart"} if container == "mp4" else {"fflags": "+bitexact"}
        self._output: Any = av.open(address(path), "w", format=container, options=options)
        self._output.metadata["comment"] = text
        self._stream = self._output.add_stream(CODECS[container], rate=fps)
        context = self._stream.codec_context
        context.width, context.height = width + self._odd[1], height + self._odd[0]
        context.pix_fmt = "yuv420p"
        context.time_base = 1 / fps
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # limited ("video") range, what players expect of yuv420p
        context.thread_count = THREADS
        speed = {"preset": "medium"} if container == "mp4" else {"b": "0", "cpu-used": "2", "row-mt": "1"}
        if container == "mp4" and platform.machine().lower() in ("x86_64", "amd64"):
            speed["x264-params"] = SIMD
        context.options = {"crf": str(crf_of(container, quality)), **speed}
        self._count = 0

    def add(self, frame: np.ndarray) -> None:
        """frame: uint8 (h, w, 3)."""
        import av

        if any(self._odd):
            frame = np.pad(frame, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        image = image.reformat(
            format="yuv420p",
            src_colorspace="ITU709",
            dst_colorspace="ITU709",
            src_color_range="JPEG",
            dst_color_range="MPEG",
            interpolation="BICUBIC",
        )
        image.pts, image.duration = self._count, 1
        image.time_base = self._stream.codec_context.time_base
        self._output.mux(self._stream.encode(image))
        self._count += 1

    def finish(self) -> None:
        """Write the codec's last packets, and the index."""
        self._output.mux(self._stream.encode(None))
        self._output.close()

    def abandon(self) -> None:
        """Let go of the file."""
        self._output.close()
