"""Folders of images whose names say at which frames they stand, as animatediff-cli-prompt-travel has them."""

from __future__ import annotations

import logging
from pathlib import Path

from animatediff.errors import UserError
from animatediff.media.folder import images_in

logger = logging.getLogger(__name__)


def numbered_images(folder: str | Path) -> dict[int, Path]:
    """Frame -> image, in order: `0000.png` stands at frame 0, `0012.png` at frame 12.

    Raises UserError for what is no folder, a folder without such names, and two images for one frame.
    """
    folder = Path(folder)
    if not folder.is_dir():
        missing = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {missing}; expected a folder of images named by their frames, such as 0012.png")
    found: dict[int, Path] = {}
    for path in sorted(images_in(folder)):
        if not (path.stem.isascii() and path.stem.isdigit()):
            logger.warning("%s: left out, as its name is no number of a frame", path)
            continue
        if (frame := int(path.stem)) in found:
            raise UserError(f"{folder}: {found[frame].name} and {path.name} are both for frame {frame}; keep one")
        found[frame] = path
    if not found:
        raise UserError(f"{folder}: holds no image that is named by its frame, such as 0012.png")
    return dict(sorted(found.items()))
