"""Folders of images whose names say at which frames they stand, as animatediff-cli-prompt-travel has them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.frames import neighbours
from animatediff.limits import MAX_FRAMES
from animatediff.media.folder import images_in

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import numpy as np

    from animatediff.media.images import Resize

FPS = 8.0
"""Frames per second of a folder of images."""


def find_numbered(folder: Path) -> dict[int, Path]:
    """Frame -> image of a folder, in order; empty where no image is named so. Raises UserError as `numbered_images`."""
    found: dict[int, Path] = {}
    others = []
    images, left_out = images_in(folder)
    for path in sorted(images):
        if not (path.stem.isascii() and path.stem.isdigit()):
            others.append(path.name)
            continue
        if (frame := int(path.stem)) in found:
            raise UserError(f"{folder}: {found[frame].name} and {path.name} are both for frame {frame}; keep one")
        found[frame] = path
    if found and left_out:
        logger.warning("%s: %s", folder, left_out)
    if found and others:
        logger.warning(
            "%s: images whose names are no numbers of frames are left out: %d, such as %s",
            folder,
            len(others),
            others[0],
        )
    return dict(sorted(found.items()))


def numbered_images(folder: str | Path) -> dict[int, Path]:
    """Frame -> image, in order: `0000.png` stands at frame 0, `0012.png` at frame 12.

    Raises UserError for what is no folder, a folder without such names, and two images for one frame.
    """
    folder = Path(folder)
    if not folder.is_dir():
        missing = "is a file" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {missing}; expected a folder of images named by their frames, such as 0012.png")
    found = find_numbered(folder)
    if not found:
        raise UserError(f"{folder}: holds no image that is named by its frame, such as 0012.png")
    return found


def check_readable(paths: Iterable[Path]) -> None:
    """Raise UserError for the first file that is no image, or damaged."""
    from animatediff.media.read import naming
    from animatediff.media.stills import check_image

    for path in paths:
        with naming(path, "cannot be read as an image ({})"):
            check_image(path)


@dataclass(frozen=True, kw_only=True)
class NumberedFrames:
    """Images at frames of a clip, to begin with: frames in between are blended from their neighbours.

    It stands where a `media.source.Source` may.
    """

    path: Path
    images: Mapping[int, Path]
    """By frame, in order."""
    size: tuple[int, int]
    """(width, height) of the first, in pixels."""
    fps: float = FPS
    has_audio: bool = False
    held: bool = False

    @classmethod
    def of(cls, folder: str | Path) -> NumberedFrames:
        """Look into a folder. Raises UserError as `numbered_images`, and for an image that cannot be read."""
        from animatediff.media.images import open_image

        images = numbered_images(folder)
        check_readable(images.values())
        first = open_image(next(iter(images.values())))
        return cls(path=Path(folder), images=images, size=first.size)

    @property
    def indices(self) -> tuple[int, ...]:
        """Frames up to the last image, or as many as a clip may have."""
        return tuple(range(min(max(self.images) + 1, MAX_FRAMES.value)))

    def read(self, num_frames: int, width: int, height: int, resize: Resize = "crop") -> np.ndarray:
        """The first frames, uint8 (num_frames, height, width, 3): before the first image it, behind the last that.

        Raises UserError for a damaged file, and where no image stands at these frames.
        """
        import numpy as np

        from animatediff.media.images import open_image, shaped

        inside = {frame: path for frame, path in self.images.items() if frame < num_frames}
        if not inside:
            raise UserError(
                f"{self.path}: its first image is for frame {min(self.images)}, but the clip has {num_frames}"
            )
        stills = [np.asarray(shaped(open_image(path), width, height, resize)) for path in inside.values()]
        return np.stack(
            [
                stills[before] if not share else np.rint(_mixed(stills[before], stills[after], share)).astype(np.uint8)
                for before, after, share in neighbours(list(inside), num_frames)
            ]
        )


def _mixed(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    return first * (1 - share) + second * share
