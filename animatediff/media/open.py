"""The one door to frames in files: what a file is, its content says, not its name."""

from __future__ import annotations

from pathlib import Path

from animatediff.media.animation import AnimatedImage
from animatediff.media.decode import VideoFile
from animatediff.media.folder import ImageFolder
from animatediff.media.kinds import head_of, is_image
from animatediff.media.reader import Reader

MJPEG = (".mjpeg", ".mjpg")
"""Raw streams of JPEG images, which begin like a single one: here the name decides."""


def open_media(source: str | Path | bytes, fps: float | None = None, *, alpha: bool = False) -> Reader:
    """Open a video, an image, animated or not, or a folder of images. A context.

    source: a path, or the bytes of a file; fps: how fast a folder plays that does not say; alpha: keep transparency in
    place of white (`Reader.clear`). Raises BadMedia for what is
    no such file, or damaged, and UserError for a folder without images.
    """
    if not isinstance(source, bytes) and Path(source).is_dir():
        return ImageFolder(Path(source), fps, alpha=alpha)
    if is_image(head_of(source)) and not (isinstance(source, (str, Path)) and str(source).lower().endswith(MJPEG)):
        return AnimatedImage(source, alpha=alpha)
    return VideoFile(source, alpha=alpha)
