"""Conditions for ControlNets from the frames of a video: lines drawn here, poses by a detector if one is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.media.sketch import sketch

Preprocessor = Literal["none", "scribble", "canny", "openpose"]
PREPROCESSORS: tuple[Preprocessor, ...] = ("none", "scribble", "canny", "openpose")

WEIGHTS_FOLDER = "Annotators"
"""Folder under models/ where the detector's weights are looked for."""
BODY, HAND, FACE = "body_pose_model.pth", "hand_pose_model.pth", "facenet.pth"
"""Weights of OpenPose as lllyasviel/Annotators has them; hands and faces are found where theirs are there too."""
NO_DETECTOR = (
    f"a pose detector is not at hand: it takes the package controlnet_aux (pip install controlnet-aux) and {BODY}, "
    f"{HAND} and {FACE} (hub: lllyasviel/Annotators) in models/{WEIGHTS_FOLDER}"
)


def pose_weights(roots: Roots = HERE) -> Path | None:
    """The folder with the weights of the pose detector; None if they, or the package that reads them, are not here."""
    from importlib.util import find_spec

    folder = next((place for models in roots.models if (place := models / WEIGHTS_FOLDER) and _holds(place)), None)
    return folder if folder is not None and find_spec("controlnet_aux") is not None else None


def _holds(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (BODY, HAND, FACE))


def preprocess(frames: np.ndarray, method: Preprocessor, *, roots: Roots = HERE, device: Any = "cpu") -> np.ndarray:
    """Frames as a ControlNet is to see them, uint8 (f, h, w, 3), returned with the same shape.

    `openpose` runs a detector on `device`. Raises UserError where none is at hand.
    """
    if method == "none":
        return frames
    if method == "openpose":
        return _poses(frames, roots, device)
    return np.stack([np.asarray(sketch(Image.fromarray(frame), method)) for frame in frames])


def _poses(frames: np.ndarray, roots: Roots, device: Any) -> np.ndarray:
    """Skeletons in OpenPose's colours on black."""
    if (folder := pose_weights(roots)) is None:
        raise UserError(NO_DETECTOR)
    try:
        from controlnet_aux.open_pose import OpenposeDetector  # pyright: ignore[reportMissingImports]

        detector = OpenposeDetector.from_pretrained(str(folder)).to(device)
    except Exception as error:  # its errors are those of a dozen libraries
        raise UserError(f"the pose detector of controlnet_aux cannot be loaded ({str(error)[:200]})") from error
    height, width = frames.shape[1:3]
    side = min(height, width)
    drawn = []
    for frame in frames:
        image = detector(
            Image.fromarray(frame), detect_resolution=side, image_resolution=side, include_hand=True, include_face=True
        )
        drawn.append(np.asarray(image.convert("RGB").resize((width, height))))
    return np.stack(drawn)
