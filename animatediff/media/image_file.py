"""Single images beside a video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from animatediff.files import AtomicFile, write_errors


def write_image(pixels: np.ndarray, path: str | Path) -> Path:
    """Write uint8 (h, w, 3) as PNG, whole or not at all; what was there is replaced.

    Raises UserError where it cannot be written.
    """
    with AtomicFile(path) as file, write_errors(file.path):
        Image.fromarray(pixels).save(file.temporary, format="PNG")
    return file.path
