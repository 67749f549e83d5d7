"""At which frames the given pictures stand."""

from __future__ import annotations

from collections.abc import Sequence

from animatediff.errors import UserError


def frame_indices(indices: Sequence[int], num_pictures: int, num_frames: int | None = None) -> list[int]:
    """One frame a picture, negatives counted from the end of the clip.

    `num_frames` None: the length is not known yet, so that only the number of indices and plain repetitions are
    checked. Raises UserError for more or fewer indices than pictures, a frame beyond the clip, and a frame with two
    pictures.

    >>> frame_indices([0, -1], 2, 16)
    [0, 15]
    """
    if len(indices) != num_pictures:
        raise UserError(
            f"{_count(num_pictures, 'picture')} and {_count(len(indices), 'frame index')} "
            f"({', '.join(map(str, indices)) or 'none'}): give one index for each picture, such as 0 for the first "
            "frame and -1 for the last"
        )
    frames = list(indices)
    if num_frames is not None:
        for index in indices:
            if not -num_frames <= index < num_frames:
                raise UserError(
                    f"there is no frame {index} in a clip of {num_frames}: indices go from 0 to {num_frames - 1}, or "
                    f"from -1 (the last) to {-num_frames}"
                )
        frames = [index % num_frames for index in indices]
    for place, frame in enumerate(frames):
        if frame in frames[:place]:
            first = indices[frames.index(frame)]
            raise UserError(
                f"two pictures for frame {frame} (indices {first} and {indices[place]}): a frame takes one picture"
            )
    return frames


def _count(number: int, what: str) -> str:
    plural = {"picture": "pictures", "frame index": "frame indices"}[what]
    return f"1 {what}" if number == 1 else f"{number} {plural}"
