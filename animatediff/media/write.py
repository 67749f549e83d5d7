"""Write frames to a video file or a folder, whole or not at all."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.files import AtomicFile, AtomicFolder, write_error
from animatediff.media.animated import ApngEncoder, FolderEncoder, WebpEncoder
from animatediff.media.audio import CODECS as SOUND_CODECS
from animatediff.media.audio import Sound, add_sound
from animatediff.media.encode import CODECS as VIDEO_CODECS
from animatediff.media.encode import CodecEncoder, check_encoder
from animatediff.media.formats import CLEAR, FOLDER, SIZED, check_quality, codec_of, format_of, frame_rate, shown_rate
from animatediff.media.gif import GifEncoder
from animatediff.media.pixels import blend
from animatediff.media.shrink import MEGABYTE
from animatediff.media.spool import AfterFrame

logger = logging.getLogger(__name__)

Encoder = CodecEncoder | GifEncoder | WebpEncoder | ApngEncoder | FolderEncoder


def write_video(
    frames: np.ndarray | Iterable[Any],
    path: str | Path,
    *,
    fps: float | Fraction = 8,
    quality: int = 80,
    metadata: Mapping[str, Any] | str | None = None,
    loop: int = 0,
    overwrite: bool = True,
    sound: Sound | None = None,
    codec: str | None = None,
    max_size: float | None = None,
) -> Path:
    """Write frames to `path` in the format its suffix names, and return the path written.

    frames: as `AnimateDiffPipeline` returns them for one clip: PIL images, arrays or tensors; or an iterable of such
    frames (h, w, 3) or chunks (f, h, w, 3), of which only one is kept at a time. Numbers are uint8, or floats in 0..1.
    quality: 0 to 100; rate factor of H.264, H.265, VP9, AV1, WebP quality with 100 lossless; others do not use it.
    metadata: kept as JSON inside the file, a text as it is; loop: times played by GIF, WebP and APNG, 0 for ever.
    sound: the sound track, in mp4, mov, mkv and webm; codec: one of `formats.CODECS`; max_size: megabytes that a GIF or
    WebP has at most (`media.shrink`).
    With `overwrite=False` a taken file name gets `-2`, `-3`, ... Raises UserError where the file cannot be written.
    """
    if getattr(frames, "ndim", 4) == 5:  # (b, f, h, w, 3): clips would follow each other
        frames = [list(frames)]
    with VideoWriter(
        path,
        fps=fps,
        quality=quality,
        metadata=metadata,
        loop=loop,
        overwrite=overwrite,
        sound=sound,
        codec=codec,
        max_size=max_size,
    ) as writer:
        for chunk in frames:
            writer.write(as_bytes(chunk))
    return writer.path


def as_bytes(frames: Any) -> np.ndarray:
    """One frame or several as uint8 (h, w, 3) or (f, h, w, 3).

    frames: a PIL image, or numbers, uint8 or floats in 0..1; tensors have their channels first, as `output_type="pt"`
    has them. Raises UserError for anything else.
    """
    if isinstance(frames, Image.Image):
        return np.asarray(frames.convert("RGB"))
    if isinstance(frames, (list, tuple)):
        raise UserError("frames are those of one clip: `out.frames[0]` of what a pipeline returns, not `out.frames`")
    if type(frames).__name__ == "Tensor" and frames.ndim in (3, 4):
        frames = frames.detach().cpu()
        frames = (frames.float() if frames.is_floating_point() else frames).movedim(-3, -1).numpy()
    if not isinstance(frames, np.ndarray) or frames.ndim not in (3, 4) or frames.shape[-1] != 3:
        shape = f" {frames.shape}" if isinstance(frames, np.ndarray) else ""
        raise UserError(f"frames are images (h, w, 3), got {type(frames).__name__}{shape}")
    if np.issubdtype(frames.dtype, np.floating):
        if not (np.isfinite(frames).all() and frames.min() >= 0 and frames.max() <= 1):
            raise UserError("frames in floats have values from 0 to 1; these have others, or some that are not finite")
        frames = (frames * 255).round().astype(np.uint8)
    if frames.dtype != np.uint8:
        raise UserError(f"frames are uint8, or floats in 0..1, got {frames.dtype}")
    return frames


def check_takes_sound(path: str | Path) -> None:
    """Raise UserError for a format without sound."""
    if format_of(path) not in SOUND_CODECS:
        raise UserError(
            f"{path}: holds no sound; only .mp4, .webm, .mov and .mkv do, so choose one of them or leave `audio` out"
        )


def check_output(path: str | Path, codec: str | None = None, max_size: float | None = None) -> None:
    """Raise UserError for a codec or a size that the format of `path` does not have."""
    found = codec_of(format_of(path), codec)
    if found in VIDEO_CODECS:
        check_encoder(found)
    if max_size is not None:
        if found not in SIZED:
            raise UserError(f"{path}: `max_size` is for {' and '.join(SIZED)}; `quality` makes others smaller")
        if not max_size > 0:
            raise UserError(f"max_size={max_size}: expected more than 0 megabytes")


class VideoWriter:
    """A context that takes frames as they come; `.path` is the file once the body has ended well.

    Arguments and errors as for `write_video`. GIF and WebP are encoded at the end, from frames kept on disk:
    `after_frame(frames encoded, of how many)` follows each of them, and may raise to leave nothing behind.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float | Fraction = 8,
        quality: int = 80,
        metadata: Mapping[str, Any] | str | None = None,
        loop: int = 0,
        overwrite: bool = True,
        sound: Sound | None = None,
        after_frame: AfterFrame | None = None,
        codec: str | None = None,
        max_size: float | None = None,
    ) -> None:
        self._format = format_of(path)
        check_output(path, codec, max_size)
        self._codec = codec_of(self._format, codec)
        self._max_bytes = None if max_size is None else int(max_size * MEGABYTE)
        self._after_frame = after_frame
        if sound is not None:
            check_takes_sound(path)
        self._sound = sound
        self._wanted_fps = frame_rate(fps)
        self._fps = shown_rate(self._format, self._wanted_fps)
        if self._fps < self._wanted_fps:
            logger.warning(
                "%s: browsers play frames of 10 ms and less at a tenth of their speed, so of %g frames a second %d are "
                "written and the others left out; .mp4 and .webm hold all",
                path,
                self._wanted_fps,
                self._fps,
            )
        self._given = self._kept = 0
        self._quality = check_quality(quality)
        if not 0 <= loop < 65536:
            raise UserError(f"loop={loop}: expected 0 (for ever) to 65535 times")
        self._loop = loop
        # JSON is ASCII, which every container can hold
        self._text = metadata if isinstance(metadata, str) else json.dumps(metadata or {}, separators=(",", ":"))
        self._file = AtomicFolder(path) if self._format == FOLDER else AtomicFile(path, overwrite=overwrite)
        self._encoder: Encoder | None = None
        self._shape: tuple[int, ...] | None = None

    @property
    def path(self) -> Path:
        """Path of the file, or its path to be."""
        return self._file.path

    def __enter__(self) -> VideoWriter:
        self._file.__enter__()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append uint8 frames, (f, h, w, 3) or (h, w, 3), all of one size; or all with opacity, (f, h, w, 4).

        Opacity stays in the formats and codecs of `formats.CLEAR`; in others frames are on white, which is said once.
        """
        if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or frames.shape[-1] not in (3, 4):
            raise ValueError(f"frames must be uint8 (f, h, w, 3), got {frames.dtype} {frames.shape}")
        if frames.shape[-1] == 4 and self._codec not in CLEAR:
            if not self._given:
                logger.warning(
                    "%s: holds no transparency, so frames are on white; .webm (vp9), .mov (prores), .mkv (ffv1), "
                    ".webp, .apng, .gif and folders of PNG hold it",
                    self.path,
                )
            frames = blend(frames)
        for frame in frames if frames.ndim == 4 else frames[None]:
            if self._shape is None:
                self._shape = frame.shape
                self._encode(self._open)
            if frame.shape != self._shape:
                raise ValueError(f"all frames must have one size: first {self._shape}, now {frame.shape}")
            assert self._encoder is not None
            self._given += 1
            # as many as the time that has passed holds, so that the clip keeps its speed
            if self._kept < max(1, round(self._given * self._fps / self._wanted_fps)):
                self._encode(functools.partial(self._encoder.add, frame))
                self._kept += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None:
                if self._encoder is None:
                    raise UserError(f"{self.path}: there are no frames to write")
                self._encode(self._encoder.finish)
                if self._sound is not None:
                    self._encode(functools.partial(self._add, self._sound))
        except BaseException as failure:
            self._abandon()
            self._file.__exit__(type(failure), failure, None)
            raise
        if kind is not None:
            self._abandon()
        self._file.__exit__(kind, error, trace)

    def _add(self, sound: Sound) -> None:
        mute = self._file.temporary
        heard = mute.with_suffix(".sound.part")
        try:
            add_sound(mute, self._format, sound, heard)
            os.replace(heard, mute)
        finally:
            heard.unlink(missing_ok=True)

    def _open(self) -> None:
        assert self._shape is not None
        path, text, fps = self._file.temporary, self._text, self._fps
        size, clear = (self._shape[0], self._shape[1]), self._shape[2] == 4
        after = self._after_frame
        if self._format == FOLDER:
            self._encoder = FolderEncoder(path, fps, text)
        elif self._format == "gif":
            self._encoder = GifEncoder(path, size, fps, self._loop, text, after, clear=clear, max_bytes=self._max_bytes)
        elif self._format == "webp":
            self._encoder = WebpEncoder(
                path, size, fps, self._quality, self._loop, text, after, clear=clear, max_bytes=self._max_bytes
            )
        elif self._format == "apng":
            self._encoder = ApngEncoder(path, size, fps, self._loop, text, clear=clear)
        else:
            self._encoder = CodecEncoder(
                path, self._format, size, fps, self._quality, text, codec=self._codec, clear=clear
            )

    def _encode(self, step: Any) -> None:
        from av.error import FFmpegError

        try:
            step()
        except (OSError, FFmpegError) as error:
            raise write_error(self.path, error) from error

    def _abandon(self) -> None:
        if self._encoder is not None:
            with suppress(Exception):  # the first error is the one to report; the temporary file goes anyway
                self._encoder.abandon()
