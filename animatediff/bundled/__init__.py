"""Names and files of the small model that ships with the package, and of the set that was trained for it."""

from __future__ import annotations

from pathlib import Path

from animatediff.errors import UserError, did_you_mean

BUNDLED_MODEL = "bundled"
"""Name of the bundled model where a model is asked for."""
PREFIX = "bundled/"
"""Before the names of the bundled set, so that `bundled/paper` can stand where a file or folder is asked for."""

CAMERA_MOVES = (
    *("ZoomIn", "ZoomOut", "PanLeft", "PanRight", "TiltUp", "TiltDown"),
    *("RollingClockwise", "RollingAnticlockwise"),
)
"""MotionLoRAs of the set, by the names of the published ones."""


def no_camera_control() -> str:
    """Message where a path of the camera is given without a model that follows it, which may be meant for these."""
    return (
        "`camera` is given, but no CameraCtrl model that follows it; add `camera_control` (CameraCtrl.ckpt, for the "
        f"bundled model {PREFIX}camera_control). Without one, MotionLoRAs move the camera (`motion_loras`): "
        f"{', '.join(CAMERA_MOVES)}"
    )


def is_bundled(model: str | Path | None) -> bool:
    """Whether a name means the bundled model, `bundled`, or another look of it, `bundled/neon`."""
    return f"{model}/".startswith(PREFIX)


def bundled_path() -> Path:
    """Folder of the bundled image model, in the diffusers layout."""
    return Path(__file__).parent / "model"


def motion_module_path() -> Path:
    """File of the bundled motion module, in the original key format."""
    return Path(__file__).parent / "motion_module.safetensors"


def tiny_decoder_path() -> Path:
    """File of the tiny decoder of the bundled model's latents, for previews."""
    return Path(__file__).parent / "tiny_decoder.safetensors"


def set_path() -> Path:
    """Folder of the bundled set: MotionLoRAs, SparseCtrl encoders, a domain adapter, image models of other styles."""
    return Path(__file__).parent / "set"


def bundled_set(folder: Path | None = None) -> dict[str, Path]:
    """File or folder of each part of the bundled set, or of one elsewhere, by name: `ZoomIn`, `neon`, ...."""
    return {path.stem: path for path in sorted((folder or set_path()).iterdir())}


def bundled_file(name: str, folder: Path | None = None) -> Path:
    """The file or folder of the bundled set (`folder`: of one elsewhere) that a name such as `bundled/paper` means.

    Raises UserError for a name that is none of it.
    """
    known, wanted = bundled_set(folder), name.removeprefix(PREFIX)
    if wanted not in known:
        names = [PREFIX + part for part in known]
        raise UserError(f"{name}: not in the bundled set; {did_you_mean(name, names)}known are {', '.join(names)}")
    return known[wanted]


def named(path: str | Path) -> str | Path:
    """Resolve a name of weights: `bundled/paper` is a part of the set, all others are themselves.

    Raises UserError as `bundled_file`.
    """
    return bundled_file(path) if isinstance(path, str) and path.startswith(PREFIX) else path
