"""Media files for tests: videos of given frames, formats, tags and times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from animatediff.media.open import open_media
from support.videos import numbered_frame

CORNERS = np.full((16, 32, 3), 128, np.uint8)
CORNERS[:8, :8], CORNERS[:8, -8:] = (255, 0, 0), (0, 255, 0)
"""Red at the left, green at the right, at the top."""


def frames_of(path: Path) -> list[np.ndarray]:
    with open_media(path) as reader:
        return [frame for _, frame in reader.each(range(reader.num_frames))]


def encoded(path: Path, frames: list[av.VideoFrame], codec: str = "ffv1", rate: int = 8, **context: Any) -> Path:
    """Frames as they are, in the format and with the tags of the first one."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        for key, value in context.items():
            setattr(stream.codec_context, key, value)
        for number, frame in enumerate(frames):
            if frame.pts is None:
                frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def plain(values: tuple[int, ...], layout: str, width: int = 64, height: int = 16) -> av.VideoFrame:
    """A frame of one colour, by the numbers in its planes."""
    frame = av.VideoFrame(width, height, layout)
    deep = frame.format.components[0].bits > 8
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // (2 if deep else 1), value, np.uint16 if deep else np.uint8).tobytes())
    return frame


def timed(path: Path, times: list[int], codec: str = "libx264", per_second: int = 1000, **context: Any) -> Path:
    """A video whose frames show their number, at these times."""
    frames = []
    for number, time in enumerate(times):
        frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = time, Fraction(1, per_second)
        frames.append(frame)
    return encoded(path, frames, codec, rate=30, time_base=Fraction(1, per_second), **context)
