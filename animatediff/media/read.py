"""Read clips: frames, frame rate, and the request inside the file."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.files import FRAME_NAME
from animatediff.media.animated import EXIF_IFD, USER_COMMENT
from animatediff.media.formats import METADATA_KEY


def _frame_files(folder: Path) -> list[Path]:
    files = sorted((f for f in folder.iterdir() if FRAME_NAME.fullmatch(f.name)), key=lambda f: int(f.stem))
    if not files:
        raise UserError(f"{folder}: no numbered frames (00000.png, 00001.png, ...) in this folder")
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in (".gif", ".webp", ".png", ".apng")


def _check(path: Path) -> None:
    if not path.exists():
        raise UserError(f"{path}: no such file")


def read_video(path: str | Path) -> tuple[np.ndarray, float]:
    """All frames of a video, an animated image or a folder of frames: uint8 (f, h, w, 3), and frames per second.

    Where an image file holds frames of unequal length, each is repeated so that the frame rate is constant.
    Raises UserError for a file that is missing or no video.
    """
    path = Path(path)
    _check(path)
    if path.is_dir():
        return _read_folder(path)
    try:
        return _read_image(path) if _is_image(path) else _read_stream(path)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a broken PNG a syntax error
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: cannot be read as a video ({error})") from error


def _read_folder(folder: Path) -> tuple[np.ndarray, float]:
    frames, rate = [], Fraction(8)
    for file in _frame_files(folder):
        try:
            with Image.open(file) as image:
                if not frames:
                    rate = Fraction(image.info.get("fps", "8"))
                frames.append(np.asarray(image.convert("RGB")))
        except (OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{file}: cannot be read as an image ({error})") from error
        if frames[-1].shape != frames[0].shape:
            sizes = " and ".join(f"{frame.shape[1]}x{frame.shape[0]}" for frame in (frames[0], frames[-1]))
            raise UserError(f"{file}: not of the size of the first frame ({sizes})")
    return np.stack(frames), float(rate)


def _read_image(path: Path) -> tuple[np.ndarray, float]:
    frames, lengths_ms = [], []
    with Image.open(path) as image:
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            image.load()  # WebP tells the length of a frame only once it is decoded
            frames.append(np.asarray(image.convert("RGB")))
            lengths_ms.append(float(image.info.get("duration", 0)))
    total = sum(lengths_ms)
    if total <= 0:
        return np.stack(frames), 8.0
    shortest = min(length for length in lengths_ms if length > 0)
    repeats = [max(1, round(length / shortest)) for length in lengths_ms]
    unit = total / sum(repeats)
    if any(abs(length - n * unit) > 10 for length, n in zip(lengths_ms, repeats, strict=True)):
        repeats = [1] * len(frames)  # no common length: keep the frames as they are, at their mean rate
    count = sum(repeats)
    fps = count * 1000 / total
    # lengths are rounded to the format's ticks: a whole rate that explains the total is the one that was meant
    tick_ms = 10 if path.suffix.lower() == ".gif" else 1
    if round(fps) and abs(count * 1000 / round(fps) - total) <= tick_ms / 2:
        fps = float(round(fps))
    return np.repeat(np.stack(frames), repeats, axis=0), fps


def _read_stream(path: Path) -> tuple[np.ndarray, float]:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: holds no video")
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            rate = stream.average_rate or stream.guessed_rate or Fraction(8)
    except FFmpegError as error:
        raise UserError(f"{path}: cannot be read as a video ({error.strerror})") from error
    if not frames:
        raise UserError(f"{path}: holds no frames")
    return np.stack(frames), float(rate)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_video` put into a file or a folder; empty where there is none.

    Raises UserError for a file that is missing or cannot be opened.
    """
    path = Path(path)
    _check(path)
    if path.is_dir():
        path = _frame_files(path)[0]
    try:
        text = _image_text(path) if _is_image(path) else _stream_text(path)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read as a video or an image ({error})") from error
    try:
        content = json.loads(text)
    except ValueError:  # a comment by another program
        return {}
    return content if isinstance(content, dict) else {}


def _image_text(path: Path) -> str:
    with Image.open(path) as image:
        if image.format == "WEBP":
            comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
            return comment[8:].decode("ascii", "replace") if isinstance(comment, bytes) else ""
        text = image.info.get("comment" if image.format == "GIF" else METADATA_KEY, "")
        return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


def _stream_text(path: Path) -> str:
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path)) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
    except FFmpegError as error:
        raise ValueError(error.strerror) from error
    return tags.get("comment", "")
