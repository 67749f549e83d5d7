"""ControlNets as diffusers keeps them: a folder with `config.json` and weights of a `ControlNetModel`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.folders import read_json, weights_file

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

CLASS = "ControlNetModel"
MUST_AGREE = ("cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels")
"""Settings in which a ControlNet and its base model are the same, or its residuals would not fit."""


def check_controlnet(path: str | Path) -> dict[str, Any]:
    """Its configuration. Raises UserError for anything but the folder of a ControlNet with weights in it."""
    path = Path(path)
    if path.is_file():
        raise UserError(
            f"{path}: is a file, expected a diffusers folder of a ControlNet (config.json and "
            "diffusion_pytorch_model.safetensors), as its hub repository holds"
        )
    if not (path / "config.json").is_file():
        missing = "no such folder" if not path.exists() else "no config.json in this folder"
        raise UserError(f"{path}: {missing}; expected a diffusers folder of a ControlNet")
    config = read_json(path / "config.json")
    if config.get("_class_name") != CLASS:
        raise UserError(f"{path}: holds a {config.get('_class_name', 'model without a name')}, expected a {CLASS}")
    weights_file(path)
    return config


def load_controlnet(path: str | Path, *, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet for this UNet. Raises UserError as `check_controlnet`, and for one of another base model."""
    from diffusers import ControlNetModel

    config = check_controlnet(path)
    for name in MUST_AGREE:
        own, wanted = (_plain(value) for value in (config.get(name), unet.config[name]))
        if own is not None and own != wanted:
            raise UserError(
                f"{path}: a ControlNet of another base model: {name} is {own}, of this model it is {wanted}; take the "
                "one made for it"
            )
    try:
        net = ControlNetModel.from_pretrained(path, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be loaded as a ControlNet ({str(error)[:200]})") from error
    return net.eval().requires_grad_(False)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
