"""The sound of one video put beside the images of another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.media.decode import address, open_container
from animatediff.media.encode import MUXERS

CODECS = {"mp4": "aac", "webm": "libopus", "mov": "aac", "mkv": "libopus"}
RATE = 48_000
"""Samples a second of the result: Opus knows no 44,100."""


@dataclass(frozen=True)
class Sound:
    """A part of the sound of a video."""

    path: Path
    start: float
    """Seconds."""


def add_sound(video: Path, container: str, sound: Sound, target: Path) -> None:
    """Write `target` with the images of `video`, bit for bit, and as much of the sound as they last.

    container: one of CODECS. Raises UserError for a source without sound, or that cannot be read.
    """
    import av
    from av.error import FFmpegError

    options = {"movflags": "+faststart"} if container in ("mp4", "mov") else {}
    muxer = MUXERS[container]
    with av.open(address(video)) as source, av.open(address(target), "w", format=muxer, options=options) as output:
        shown: Any = source.streams.video[0]
        stream: Any = output.add_stream_from_template(shown)
        for key, value in shown.metadata.items():
            if key.lower() == "alpha_mode":
                stream.metadata[key.lower()] = value
        voice: Any = output.add_stream(CODECS[container], rate=RATE, layout="stereo")
        for key, value in source.metadata.items():
            if key.lower() == "comment":
                output.metadata["comment"] = value
        end = 0.0
        packets = [packet for packet in source.demux(shown) if packet.dts is not None]
        for packet in packets:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            packet.stream = stream
        try:
            heard = _encoded(sound, voice, end)
        except FFmpegError as error:
            raise UserError(f"{sound.path}: its sound cannot be read ({error.strerror})") from error
        for packet in sorted([*packets, *heard], key=lambda packet: float(packet.dts * packet.time_base)):
            output.mux(packet)


def _encoded(sound: Sound, voice: Any, duration: float) -> list[Any]:
    """Packets of the stream `voice`: the source from `start` on, `duration` seconds or as long as it lasts."""
    import av

    resampler = av.AudioResampler(format=voice.codec_context.format, layout="stereo", rate=RATE)
    left, position, packets = round(duration * RATE), 0, []
    with open_container(sound.path) as source:
        if not source.streams.audio:
            raise UserError(f"{sound.path}: holds no sound; leave `audio` out")
        stream = source.streams.audio[0]
        first = source.streams.video[0] if source.streams.video else stream
        skip = round((sound.start + _begin(first) - _begin(stream)) * RATE)
        chunks = (chunk for frame in source.decode(stream) for chunk in resampler.resample(frame))
        fifo = av.AudioFifo()
        for chunk in chunks:
            chunk.pts = None
            fifo.write(chunk)
            if skip > 0:
                skip -= getattr(fifo.read(min(skip, fifo.samples), partial=True), "samples", 0)
            if fifo.samples >= left and skip <= 0:
                break
        size = voice.codec_context.frame_size or 1024
        while left > 0 and fifo.samples:
            frame = fifo.read(min(size, left), partial=True)
            if frame is None:
                break
            frame.pts, frame.sample_rate, frame.time_base = position, RATE, _tick()
            position += frame.samples
            left -= frame.samples
            packets += voice.encode(frame)
        packets += voice.encode(None)
    return packets


def _begin(stream: Any) -> float:
    """When the first packet of a stream is due, in seconds."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def _tick() -> Any:
    from fractions import Fraction

    return Fraction(1, RATE)
