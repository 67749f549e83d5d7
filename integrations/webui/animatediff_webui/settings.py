"""All settings of the extension: names in API and infotext, labels on the page, defaults, ranges; one table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from animatediff.errors import UserError, did_you_mean

FORMATS = ("GIF", "MP4", "WEBP", "WEBM", "PNG", "TXT")
API_FORMATS = (*FORMATS, "Frame")
"""In the API alone: `Frame` returns the frames themselves."""
CLOSED_LOOPS = ("N", "R-P", "R+P", "A")
INTERPOLATIONS = ("Off", "FILM")
FREEINIT_FILTERS = ("butterworth", "gaussian", "box", "ideal")
INFOTEXT_NAME = "AnimateDiff"
"""Name of the entry in a host's infotext."""
DEFAULT_MODEL = "mm_sd15_v3.safetensors"


def setting(
    default: Any,
    label: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    step: float | None = None,
    choices: Sequence[str] = (),
    infotext: bool = False,
    img2img: bool = False,
    page: bool = True,
) -> Any:
    """A field with what the page, the API and infotext need to know of it.

    infotext: whether it is written there; img2img: whether it is on that tab alone; page: whether it has a place there.
    """
    facts = {
        "label": label, "minimum": minimum, "maximum": maximum, "step": step, "choices": tuple(choices),
        "infotext": infotext, "img2img": img2img, "page": page,
    }  # fmt: skip
    if isinstance(default, list):
        return field(default_factory=lambda: tuple(default), metadata=facts)
    return field(default=default, metadata=facts)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What users say. Field names are the keys of the API; UserError for a value that is out of range or of no type."""

    enable: bool = setting(False, "Enable AnimateDiff")
    model: str = setting(DEFAULT_MODEL, "Motion module", infotext=True)
    format: tuple[str, ...] = setting(["GIF", "PNG"], "Save format", choices=API_FORMATS)
    video_length: int = setting(0, "Number of frames", minimum=0, maximum=4096, step=1, infotext=True)
    fps: int = setting(8, "FPS", minimum=1, maximum=240, step=1, infotext=True)
    loop_number: int = setting(0, "Display loop number", minimum=0, maximum=65535, step=1, infotext=True)
    closed_loop: str = setting("R-P", "Closed loop", choices=CLOSED_LOOPS, infotext=True)
    batch_size: int = setting(16, "Context batch size", minimum=1, maximum=32, step=1, infotext=True)
    stride: int = setting(1, "Stride", minimum=1, maximum=32, step=1, infotext=True)
    overlap: int = setting(-1, "Overlap", minimum=-1, maximum=31, step=1, infotext=True)
    interp: str = setting("Off", "Frame Interpolation", choices=INTERPOLATIONS, infotext=True)
    interp_x: int = setting(10, "Interp X", minimum=1, maximum=10, step=1, infotext=True)
    freeinit_enable: bool = setting(False, "Enable FreeInit", infotext=True)
    freeinit_filter: str = setting("butterworth", "Filter Type", choices=FREEINIT_FILTERS)
    freeinit_ds: float = setting(0.25, "d_s", minimum=0.0, maximum=1.0)
    freeinit_dt: float = setting(0.25, "d_t", minimum=0.0, maximum=1.0)
    freeinit_iters: int = setting(3, "FreeInit Iterations", minimum=2, maximum=5, step=1)
    video_source: str = setting("", "Video source")
    video_path: str = setting("", "Video path")
    mask_path: str = setting("", "Mask path")
    latent_power: float = setting(1.0, "Latent power", minimum=0.1, maximum=10.0, img2img=True)
    latent_scale: float = setting(32.0, "Latent scale", minimum=1.0, maximum=128.0, img2img=True)
    last_frame: Any = setting(None, "Optional last frame", img2img=True)
    latent_power_last: float = setting(1.0, "Optional latent power for last frame", minimum=0.1, maximum=10.0, img2img=True)  # fmt: skip # noqa: E501
    latent_scale_last: float = setting(32.0, "Optional latent scale for last frame", minimum=1.0, maximum=128.0, img2img=True)  # fmt: skip # noqa: E501
    request_id: str = setting("", "Request id", page=False)
