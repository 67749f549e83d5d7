"""Video files, by PyAV: mp4, webm, mov and mkv, with the codecs of `formats.CODECS`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.errors import UserError
from animatediff.media.decode import address

THREADS = 4
"""Threads of an encoder, whatever the machine: with other numbers the same frames are encoded differently."""

SIMD = "asm=MMX2,SSE2,SSE2Fast,SSSE3"
"""Instructions of x86 that x264 may use, by its names. By those for AVX-512 its macroblock tree (`mbtree`) differs from
run to run where the width is no multiple of 128 pixels; without that tree files are twice as large. All processors
make the same file by these, in the same time."""

BT709 = 1
"""Number of ITU-R BT.709 in the colour tables of H.264 and VP9 (ISO/IEC 23091-2)."""

MUXERS = {"mp4": "mp4", "webm": "webm", "mov": "mov", "mkv": "matroska"}
"""Format -> its name in FFmpeg."""


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How frames are encoded."""

    encoder: str
    layout: str
    """Pixels in the file, by FFmpeg's name."""
    clear_layout: str = ""
    """The same with transparency, where the codec has it."""
    even: bool = False
    """Whether width and height are even: an odd image is widened by repeating its last column or row."""
    crf: tuple[int, int] | None = None
    """Rate factor at quality 0 and at 100; None where there is no quality to choose."""
    options: Callable[[], dict[str, str]] = dict
    tag: str = ""
    """Four letters that players look for."""

    def rate(self, quality: int) -> dict[str, str]:
        """The option that says the quality, 0 to 100."""
        if self.crf is None:
            return {}
        worst, best = self.crf
        return {"crf": str(round(worst + (best - worst) / 100 * quality))}


def _h264() -> dict[str, str]:
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return {"preset": "medium", **({"x264-params": SIMD} if x86 else {})}


CODECS = {
    "h264": Codec(encoder="libx264", layout="yuv420p", even=True, crf=(50, 10), options=_h264),
    "h265": Codec(
        encoder="libx265",
        layout="yuv420p",
        even=True,
        crf=(50, 10),
        tag="hvc1",
        options=lambda: {"preset": "medium", "x265-params": f"log-level=none:pools={THREADS}:frame-threads=1"},
    ),
    "vp9": Codec(
        encoder="libvpx-vp9",
        layout="yuv420p",
        clear_layout="yuva420p",
        crf=(60, 10),
        options=lambda: {"b": "0", "cpu-used": "2", "row-mt": "1"},
    ),
    "av1": Codec(encoder="libsvtav1", layout="yuv420p", even=True, crf=(60, 12), options=lambda: {"preset": "6"}),
    "prores": Codec(
        encoder="prores_ks",
        layout="yuv444p10le",
        clear_layout="yuva444p10le",
        options=lambda: {"profile": "4444", "vendor": "apl0", "bits_per_mb": "8000"},
    ),
    "ffv1": Codec(
        encoder="ffv1",
        layout="bgr0",
        clear_layout="bgra",
        options=lambda: {"level": "3", "slicecrc": "1", "g": "1", "slices": "4"},
    ),
}
"""Codecs by the names of `formats.CODECS`."""


def check_encoder(name: str) -> None:
    """Raise UserError where this build of FFmpeg has no encoder for a codec."""
    import av

    if CODECS[name].encoder not in av.codecs_available:
        raise UserError(f"codec={name!r}: PyAV was built without {CODECS[name].encoder} here; choose another `codec`")


class CodecEncoder:
    """Encode frames one by one; only the codec's lookahead is kept.

    The same frames give the same file, however many processors there are and however busy they are.
    """

    def __init__(
        self,
        path: Path,
        container: str,
        size: tuple[int, int],
        fps: Fraction,
        quality: int,
        text: str,
        *,
        codec: str,
        clear: bool = False,
    ) -> None:
        """clear: frames have transparency, and the codec too."""
        import av

        height, width = size
        chosen = CODECS[codec]
        self._odd = (height % 2, width % 2) if chosen.even else (0, 0)
        self._layout = chosen.clear_layout if clear else chosen.layout
        self._given = "rgba" if clear else "rgb24"
        if codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors alone; it asks nothing else before it prints
        # Matroska has a random identifier unless it is to be "bit exact"
        options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {"fflags": "+bitexact"}
        self._output: Any = av.open(address(path), "w", format=MUXERS[container], options=options)
        self._output.metadata["comment"] = text
        self._stream = self._output.add_stream(chosen.encoder, rate=fps)
        if clear and codec == "vp9":
            self._stream.metadata["alpha_mode"] = "1"
        context = self._stream.codec_context
        context.width, context.height = width + self._odd[1], height + self._odd[0]
        context.pix_fmt = self._layout
        context.time_base = 1 / fps
        self._is_rgb = not self._layout.startswith("yuv")
        if not self._is_rgb:
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = 1  # limited ("video") range, what players expect of yuv
        context.thread_count = THREADS
        if chosen.tag and container in ("mp4", "mov"):
            context.codec_tag = chosen.tag
        context.options = {**chosen.rate(quality), **chosen.options()}
        self._count = 0

    def add(self, frame: np.ndarray) -> None:
        """frame: uint8 (h, w, 3), or (h, w, 4) where frames have transparency."""
        import av

        if any(self._odd):
            frame = np.pad(frame, ((0, self._odd[0]), (0, self._odd[1]), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=self._given)
        if self._is_rgb:
            image = image.reformat(format=self._layout)
        else:
            image = image.reformat(
                format=self._layout,
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
