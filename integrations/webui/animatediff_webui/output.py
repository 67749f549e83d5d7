"""Clips to files, with the host's text inside, where users of the WebUIs look for them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from animatediff.errors import UserError
from animatediff_webui.settings import FRAME, Settings, said

SUFFIXES = {"GIF": "gif", "MP4": "mp4", "WEBP": "webp", "WEBM": "webm"}
SHOWN = (".gif", ".webp")
"""Files that pages show as an image that moves."""
_NUMBERED = re.compile(r"(\d{5,})-")


def check_formats(settings: Settings) -> None:
    """Raise UserError for formats that cannot be written here, before a clip is made for them."""
    missing = [kind for kind in settings.format if kind in SUFFIXES and f".{SUFFIXES[kind]}" not in SHOWN]
    if missing and find_spec("av") is None:
        raise UserError(
            f"{said('format')}: {' and '.join(missing)} cannot be written without PyAV; `pip install av` in the "
            "environment of the WebUI, or choose GIF or WEBP"
        )


def write_clip(
    frames: Sequence[Image.Image], settings: Settings, *, samples: Path, seed: int, text: str, quality: int = 80
) -> list[Path]:
    """Write one clip in the formats asked for: `AnimateDiff/{date}/{number}-{seed}.{suffix}` below `samples`.

    PNG makes a folder of that name without suffix. text: the host's, kept in every file. Raises UserError where a
    file cannot be written.
    """
    folder = samples / "AnimateDiff" / date.today().isoformat()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{next_number(folder):05}-{seed}" + (f"-{settings.request_id}" if settings.request_id else "")
        written = []
        if "PNG" in settings.format:
            written += _write_frames(frames, folder / name, text)
        if "TXT" in settings.format:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
            written.append(folder / f"{name}.txt")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error})") from error
    moving = final_frames(frames, settings)
    for kind in settings.format:
        if kind in SUFFIXES:
            path = folder / f"{name}.{SUFFIXES[kind]}"
            _write_video(moving, path, settings, text, quality)
            written.append(path)
    return written


def final_frames(frames: Sequence[Image.Image], settings: Settings) -> list[np.ndarray]:
    """Frames of the animation, uint8 (h, w, 3): between those sampled come others where interpolation is on.

    `A` for a clip in one window plays it back again, without its ends.
    """
    images = [np.asarray(frame.convert("RGB")) for frame in frames]
    if settings.closed_loop == "A" and len(images) <= settings.batch_size:
        images += images[-2:0:-1]
    if settings.interp == "Off" or settings.interp_x == 1:
        return images
    from animatediff.media.interpolate import interpolated

    return list(interpolated(images, 1, settings.interp_x, closed_loop=settings.closed_loop in ("R+P", "A")))


def next_number(folder: Path) -> int:
    """One more than the highest number that a name in `folder` starts with; 0 in an empty one."""
    numbers = [int(found[1]) for path in folder.iterdir() if (found := _NUMBERED.match(path.name))]
    return max(numbers, default=-1) + 1


def reply(frames: Iterable[Image.Image], files: Iterable[Path], settings: Settings) -> list[Any]:
    """The images of an API's reply: animations as base64 text, and the frames where `Frame` or no animation is asked.

    The host encodes the frames itself.
    """
    animations = [path for path in files if path.suffix[1:] in SUFFIXES.values()]
    encoded: list[Any] = [base64.b64encode(path.read_bytes()).decode() for path in animations]
    return encoded + (list(frames) if FRAME in settings.format or not encoded else [])


def _write_frames(frames: Iterable[Image.Image], folder: Path, text: str) -> list[Path]:
    folder.mkdir()
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", text)
    written = []
    for index, frame in enumerate(frames):
        written.append(folder / f"{index:05}.png")
        frame.save(written[-1], pnginfo=info)
    return written


def _write_video(frames: Sequence[np.ndarray], path: Path, settings: Settings, text: str, quality: int) -> None:
    try:
        import av as av
    except ImportError:
        _write_by_pillow(frames, path, settings, text, quality)
        return
    from animatediff.media.write import VideoWriter

    with VideoWriter(path, fps=settings.fps, quality=quality, loop=settings.loop_number, metadata=text) as writer:
        for frame in frames:
            writer.write(frame)


def _write_by_pillow(frames: Sequence[np.ndarray], path: Path, settings: Settings, text: str, quality: int) -> None:
    """GIF and WebP without PyAV, which the other formats need (`check_formats`)."""
    from animatediff.media.animated import exif_comment

    images = [Image.fromarray(frame) for frame in frames]
    facts: dict[str, Any] = {"comment": text}
    if path.suffix == ".webp":
        facts = {"exif": exif_comment(text), "quality": quality}
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / settings.fps),
        loop=settings.loop_number,
        **facts,
    )
