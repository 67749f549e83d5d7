"""Upscalers for images in weight files that people have (ESRGAN, SPAN, SwinIR, ...), loaded by spandrel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from animatediff.errors import UserError
from animatediff.media.upscale import Upscaler
from animatediff.weights.recognise import check_setting, recognise_header
from animatediff.weights.storage.files import load_tensors, read_header

if TYPE_CHECKING:
    import torch

PADDING, TILE = 32, 192
"""Pixels around a tile, and its side; networks that look at the whole image see each tile as one."""
PREFIXES = ("params_ema.", "params.", "module.", "model_state_dict.")
"""Before the names of all tensors, in files as training programs leave them; the averaged weights win."""


def check_upscaler(path: str | Path) -> None:
    """Raise UserError for a file that is no upscaler, and where spandrel cannot be imported; no weights are read."""
    found = recognise_header(read_header(path))
    if found.kind != "unknown":  # spandrel knows more of them than we do
        check_setting(found, "upscaler")
    _spandrel()


def load_upscaler(path: str | Path, *, device: str | torch.device = "cpu") -> Upscaler:
    """Load an upscaler; the tensors are read by our reader, nothing in the file is run. Raises as `check_upscaler`."""
    import torch

    path = Path(path)
    check_upscaler(path)
    spandrel = _spandrel()
    tensors = load_tensors(read_header(path))
    try:
        model: Any = spandrel.ModelLoader(device=torch.device(device)).load_from_state_dict(_bare(tensors))
    except Exception as error:  # its own type for an unknown architecture; any for weights that do not fit one
        raise UserError(f"{path}: spandrel knows no upscaler with these weights ({_brief(error)})") from error
    if not isinstance(model, spandrel.ImageModelDescriptor) or (model.input_channels, model.output_channels) != (3, 3):
        raise UserError(f"{path}: is a {model.architecture.name} model that does not enlarge RGB images by itself")
    model.eval()

    def run(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            made = model(torch.from_numpy(np.ascontiguousarray(image))[None].to(device))
        return made[0].float().cpu().numpy()

    return Upscaler(path.name, int(model.scale), run, PADDING, TILE)


def _bare(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names that they have in the network."""
    for prefix in PREFIXES:
        if named := {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}:
            return named
    return tensors


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}" if str(error) else type(error).__name__


def _spandrel() -> Any:
    try:
        import spandrel
    except Exception as error:  # torchvision of another PyTorch than the one installed raises RuntimeError
        raise UserError(
            f"upscalers in files need spandrel, which cannot be imported here ({_brief(error)}): pip install "
            "'animatediff[media]', with a torchvision made for this PyTorch. The published upscalers "
            "(`upscaler` realesr-animevideov3-x2, ...) do without"
        ) from error
    return spandrel
