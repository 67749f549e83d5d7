"""Exact frames of videos, by PyAV: from the keyframe before the first frame wanted to the last one wanted, no more."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from animatediff.media.kinds import BadMedia, reason, sniff

COUNTED = {"vp8", "avi"}
"""VP8 packets may hold no image to show (alternate references), and AVI files tell no presentation times: the frames
of these are found by decoding from the start."""

DEFAULT_FPS = 8
"""Of a file that does not say."""


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown, from its packets alone."""

    times: tuple[int, ...]
    """Presentation times, ascending, in ticks of the stream."""
    keys: tuple[int, ...]
    """Presentation times of the keyframes, from which decoding can begin."""


class VideoFile:
    """An open video whose frames are read by their number. A context; `source` is a path or the bytes of a file.

    Raises BadMedia, at once or while reading, for whatever is no video or cannot be decoded.
    """

    def __init__(self, source: str | Path | bytes) -> None:
        import av
        from av.error import FFmpegError

        self._timeline: Timeline | None = None
        try:
            if isinstance(source, bytes):
                self._container: Any = av.open(io.BytesIO(source))
            else:
                # A playlist named .mp4 must not make us fetch things.
                self._container = av.open(str(source), options={"protocol_whitelist": "file"})
        except (FFmpegError, OSError, ValueError) as error:
            raise BadMedia(sniff(source) or f"cannot be opened as a video ({reason(error)})") from error
        try:
            if not self._container.streams.video:
                raise BadMedia("holds no video")
            self._stream = self._container.streams.video[0]
            self._stream.codec_context.thread_count = 1  # loader workers are the parallelism
            with _decoding("cannot be read as a video"):
                if not COUNTED & {self._stream.codec_context.name, self._container.format.name}:
                    self._timeline = self._scan()
                self.num_frames = len(self._timeline.times) if self._timeline else self._count()
            if not self.num_frames:
                raise BadMedia("holds no frames")
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def _scan(self) -> Timeline | None:
        """Read all packets, decode none; None where they do not tell which frames there are."""
        times: list[int] = []
        keys: list[int] = []
        count = 0
        for packet in self._container.demux(self._stream):
            count += packet.size > 0
            if packet.size == 0 or packet.is_discard:  # the end of the stream; frames that an edit list cuts away
                continue
            if packet.pts is None:
                return None
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
        if count < self._stream.frames and "mp4" in self._container.format.name:  # it has a table of its frames
            raise BadMedia(f"ends early: {count} of {self._stream.frames} frames are there")
        if len(set(times)) < len(times) or not keys:
            return None
        return Timeline(tuple(sorted(times)), tuple(sorted(keys)))

    def _rewind(self) -> None:
        """Go to the first frame."""
        self._container.seek(0, backward=True, any_frame=False)

    def _count(self) -> int:
        self._rewind()
        return sum(1 for _ in self._container.decode(self._stream))

    @property
    def fps(self) -> float:
        """Frames per second, on average."""
        return float(self._stream.average_rate or self._stream.guessed_rate or DEFAULT_FPS)

    @property
    def has_audio(self) -> bool:
        """Whether there is sound."""
        return bool(self._container.streams.audio)

    def times(self) -> list[float]:
        """Time of each frame, in seconds after the first one."""
        if self._timeline is None:
            return [index / self.fps for index in range(self.num_frames)]
        first = self._timeline.times[0]
        return [float((time - first) * self._stream.time_base) for time in self._timeline.times]

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The frames of these numbers, in this order: uint8 RGB (f, h, w, 3), upright as the file says."""
        found = dict(self.each(indices))
        return np.stack([found[index] for index in indices])

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """The number and the image of these frames one after another, as they come: uint8 RGB (h, w, 3)."""
        if not indices or min(indices) < 0 or max(indices) >= self.num_frames:
            raise ValueError(f"frames {list(indices)} of a video of {self.num_frames}")
        missing = set(indices)
        with _decoding("cannot be decoded"):
            for read in (self._read_by_time, self._read_by_count):
                if missing and (self._timeline or read == self._read_by_count):
                    # by counting: a format that cannot be searched, or a damaged file
                    for index, image in read(sorted(missing)):
                        missing.discard(index)
                        yield index, image
        if missing:
            raise BadMedia(f"frame {min(missing)} of {self.num_frames} cannot be decoded")

    def _read_by_time(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        assert self._timeline is not None
        times = self._timeline.times
        wanted = {times[index]: index for index in indices}
        first, last = min(wanted), max(wanted)
        start = max(bisect_right(self._timeline.keys, first) - 1, 0)
        self._container.seek(self._timeline.keys[start], stream=self._stream, backward=True, any_frame=False)
        for frame in self._container.decode(self._stream):
            if frame.pts in wanted:
                yield wanted[frame.pts], _image(frame)
            if frame.pts is not None and frame.pts >= last:
                break

    def _read_by_count(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        self._rewind()
        wanted, last = set(indices), max(indices)
        for index, frame in enumerate(self._container.decode(self._stream)):
            if index in wanted:
                yield index, _image(frame)
            if index == last:
                break


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors about a damaged file into BadMedia."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError, MemoryError) as error:
        raise BadMedia(f"{what} ({reason(error)})") from error


def _image(frame: Any) -> np.ndarray:
    """One decoded frame as uint8 RGB (h, w, 3), turned upright."""
    image = frame.reformat(format="rgb24", threads=1).to_ndarray()
    # Telephones store images as the sensor lies, and how far to turn them anticlockwise.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))) if frame.rotation else image
