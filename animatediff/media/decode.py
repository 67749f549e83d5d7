"""Exact frames of videos, by PyAV: from the keyframe before the first frame wanted to the last one wanted, no more."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.limits import MAX_VIDEO_FRAMES
from animatediff.media.colors import is_clear_layout, is_hdr, rgb_of, square_size
from animatediff.media.kinds import BadMedia, head_of, reason, sniff, stated_size
from animatediff.media.reader import Reader
from animatediff.media.stills import check_size
from animatediff.media.timing import DEFAULT_FPS

COUNTED = {"vp8", "avi"}
"""VP8 packets may hold no image to show (alternate references), and AVI files tell no presentation times: the frames
of these are found by decoding from the start."""
RAW = {"h264", "hevc", "vvc", "m4v", "mpegvideo", "obu", "mjpeg", "vc1", "dirac", "cavsvideo"}
"""Streams without a container, which tell no times at all and cannot be searched."""
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Codecs -> the decoders that give their transparency; FFmpeg's own leave it out."""

HDR = "is in high dynamic range (HDR); its highlights are brought to standard range"
INTERLACED = "is interlaced: edges that move have combs; deinterlace it first, as by `ffmpeg -i IN -vf bwdif OUT`"


@dataclass(frozen=True)
class Timeline:
    """When each frame of a video is shown, from its packets alone."""

    times: tuple[int, ...]
    """Presentation times, ascending, in ticks of the stream."""
    keys: tuple[int, ...]
    """Presentation times of the keyframes, from which decoding can begin."""
    end: int
    """Time at which the last frame ends; that of the last frame itself where the file does not say."""


def address(path: str | Path) -> str:
    """A path as FFmpeg takes it: a colon in it begins no protocol."""
    return f"file:{path}"


PLAYLISTS = ("hls", "concat", "concatf", "dash", "imf", "sdp")
"""FFmpeg's formats that name other files, wherever these are."""


def open_container(source: str | Path | bytes) -> Any:
    """Open a media file with PyAV. Raises BadMedia for what is none."""
    import av
    from av.error import FFmpegError

    try:
        # A playlist named .mp4 must not make us fetch things.
        place = io.BytesIO(source) if isinstance(source, bytes) else address(source)
        found = av.open(place, options={"protocol_whitelist": "file"})
        if found.format.name.split(",")[0] in PLAYLISTS:
            found.close()
            raise BadMedia("is a playlist, which names other files; give one of those")
        return found
    except (FFmpegError, OSError, ValueError) as error:
        raise BadMedia(sniff(source) or f"cannot be opened as a video ({reason(error)})") from error


class VideoFile(Reader):
    """An open video whose frames are read by their number. A context; `source` is a path or the bytes of a file.

    Raises BadMedia, at once or while reading, for whatever is no video or cannot be decoded.
    """

    def __init__(self, source: str | Path | bytes, *, alpha: bool = False) -> None:
        super().__init__()
        self._source = source
        self._timeline: Timeline | None = None
        self._counted: list[float] | None = None
        self._open()
        try:
            self._check_size()
            self._raw = self._container.format.name in RAW
            self.has_audio = bool(self._container.streams.audio)
            self.clear = alpha and (self._says_alpha() or is_clear_layout(self._stream.codec_context.pix_fmt or ""))
            # of a raw stream the average is a guess of FFmpeg's, and the other is what its header says
            rates = (self._stream.average_rate, self._stream.guessed_rate)
            self.fps = float(next((rate for rate in rates[:: -1 if self._raw else 1] if rate), DEFAULT_FPS))
            with _decoding("cannot be read as a video"):
                if not self._raw and not COUNTED & {self._stream.codec_context.name, self._container.format.name}:
                    self._timeline = self._scan()
                self.num_frames = len(self._timeline.times) if self._timeline else self._count()
            if not self.num_frames:
                raise BadMedia("holds no frames")
        except BaseException:
            self._container.close()
            raise

    def _open(self) -> None:
        self._container = open_container(self._source)
        streams = self._container.streams.video
        if not streams:
            self._container.close()
            raise BadMedia("holds no video")
        # the cover of a song or a film is a video stream as well
        self._stream: Any = next((s for s in streams if not _is_cover(s)), streams[0])
        codec = self._stream.codec_context
        if codec is None:
            self._container.close()
            raise BadMedia("holds video in a codec that is not known here, or is damaged")
        codec.thread_count = 1  # loader workers are the parallelism
        try:
            check_size(*square_size(codec.width or 0, codec.height or 0, self._aspect()))
        except BadMedia:
            self._container.close()
            raise

    def _check_size(self) -> None:
        stated = stated_size(head_of(self._source))
        size = len(self._source) if isinstance(self._source, bytes) else Path(self._source).stat().st_size
        if stated and size < stated:
            raise BadMedia(f"ends early: {size} of {stated} bytes are there")

    def close(self) -> None:
        self._container.close()

    def _scan(self) -> Timeline | None:
        """Read all packets, decode none; None where they do not tell which frames there are."""
        times: list[int] = []
        keys: list[int] = []
        count = 0
        whole = True
        for packet in self._container.demux(self._stream):
            count += packet.size > 0
            _check_count(count)
            whole = whole and not packet.is_discard
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
        times.sort()
        duration = self._stream.duration if whole else None  # that of a packet is until the next one in decoding order
        end = max(times[-1], times[0] + (duration or 0))
        return Timeline(tuple(times), tuple(sorted(keys)), end)

    def _count(self) -> int:
        """Decode all frames, and keep their times where every frame has one."""
        times = []
        for frame in self._from_the_start():
            times.append(frame.time)
            _check_count(len(times))
        known = [time for time in times if time is not None]
        if not self._raw and len(known) == len(times) and all(a < b for a, b in pairwise(known)):
            self._counted = [time - known[0] for time in known]
        return len(times)

    def _from_the_start(self) -> Iterator[Any]:
        """All frames. The file is opened anew: not every format can be searched."""
        self._container.close()
        self._open()
        yield from self._decode()

    def _decode(self) -> Iterator[Any]:
        name = self._stream.codec_context.name
        if not self._says_alpha() or name not in WITH_ALPHA:
            yield from self._container.decode(self._stream)
            return
        import av

        decoder: Any = av.CodecContext.create(WITH_ALPHA[name], "r")
        for packet in self._container.demux(self._stream):
            yield from decoder.decode(packet if packet.size else None)

    def _says_alpha(self) -> bool:
        """Whether WebM says that its VP8 or VP9 has transparency beside it."""
        return any(key.lower() == "alpha_mode" and value == "1" for key, value in self._stream.metadata.items())

    def times(self) -> list[float]:
        if self._timeline is None:
            return self._counted or [index / self.fps for index in range(self.num_frames)]
        first = self._timeline.times[0]
        return [float((time - first) * self._stream.time_base) for time in self._timeline.times]

    def end(self) -> float:
        last = (self._timeline.end - self._timeline.times[-1]) * self._stream.time_base if self._timeline else 0
        return self.times()[-1] + (float(last) or 1 / self.fps)

    def each(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        if not indices or min(indices) < 0 or max(indices) >= self.num_frames:
            raise ValueError(f"frames {list(indices)} of a video of {self.num_frames}")
        missing = set(indices)
        with _decoding("cannot be decoded"):
            for read in (self._read_by_time, self._read_by_count):
                if missing and (self._timeline or read == self._read_by_count):
                    # by counting: a format that cannot be searched, or a damaged file
                    for index, frame in read(sorted(missing)):
                        missing.discard(index)
                        yield index, self._image(frame)
        if missing:
            raise BadMedia(f"frame {min(missing)} of {self.num_frames} cannot be decoded")

    def _read_by_time(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        assert self._timeline is not None
        times = self._timeline.times
        wanted = {times[index]: index for index in indices}
        first, last = min(wanted), max(wanted)
        start = max(bisect_right(self._timeline.keys, first) - 1, 0)
        self._container.seek(self._timeline.keys[start], stream=self._stream, backward=True, any_frame=False)
        for frame in self._decode():
            if frame.pts in wanted:
                yield wanted[frame.pts], frame
            if frame.pts is not None and frame.pts >= last:
                break

    def _read_by_count(self, indices: Sequence[int]) -> Iterator[tuple[int, Any]]:
        wanted, last = set(indices), max(indices)
        for index, frame in enumerate(self._from_the_start()):
            if index in wanted:
                yield index, frame
            if index == last:
                break

    def _image(self, frame: Any) -> np.ndarray:
        for found, note in ((is_hdr(frame), HDR), (frame.interlaced_frame, INTERLACED)):
            if found and note not in self.notes:
                self.notes.append(note)
        aspect = self._aspect()
        check_size(*square_size(frame.width, frame.height, aspect))  # it may change on the way
        return rgb_of(frame, aspect, alpha=self.clear)

    def _aspect(self) -> Any:
        """Width of a pixel by its height, or None."""
        return self._stream.sample_aspect_ratio or self._stream.codec_context.sample_aspect_ratio


def _check_count(count: int) -> None:
    MAX_VIDEO_FRAMES.check(count, f"has {count:,} frames or more", BadMedia)


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    """Turn FFmpeg's errors about a damaged file into BadMedia."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError, MemoryError) as error:
        raise BadMedia(f"{what} ({reason(error)})") from error
