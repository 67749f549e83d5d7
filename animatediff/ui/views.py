"""Results for browsers: what they cannot play as a small video, and folders in one file to download."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from animatediff.ui.library import uploads_folder
from animatediff.ui.stage import PLAYED, SHOWN


def viewable(path: Path) -> Path:
    """The clip itself where browsers show its format, else an mp4 of it, made once. Raises UserError if unreadable."""
    from animatediff.media.read import open_clip
    from animatediff.media.write import write_video

    if path.is_file() and path.suffix.lower() in (*PLAYED, *SHOWN):
        return path
    target = _beside(path, ".mp4")
    if not target.is_file():
        with open_clip(path) as clip:
            write_video(clip.frames, target, fps=clip.fps)
    return target


def downloadable(path: Path) -> Path:
    """The clip itself, or, of a folder, a ZIP archive of its frames."""
    if path.is_file():
        return path
    target = _beside(path, ".zip")
    target = target.with_name(f"{path.name}-{target.name}")
    if not target.is_file():
        with zipfile.ZipFile(target, "w") as archive:
            for frame in sorted(path.iterdir()):
                archive.write(frame, f"{path.name}/{frame.name}")
    return target


def shape_of(path: Path) -> tuple[int, int, int]:
    """Frames, width and height in pixels of a clip as it was written. Raises UserError where it cannot be read."""
    from animatediff.media.read import open_clip

    with open_clip(path) as clip:
        height, width = next(iter(clip.frames)).shape[:2]
        return clip.num_frames, width, height


def _beside(path: Path, suffix: str) -> Path:
    key = hashlib.sha256(f"{path}|{path.stat().st_mtime_ns}".encode()).hexdigest()[:24]
    folder = Path(uploads_folder()) / "views"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}{suffix}"
