"""ControlNets: diffusers folders, and single files in diffusers' names or in those of the original release."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import Component, build, empty_model, planned_shapes, problems
from animatediff.weights.recognise import recognise_header, wrong_kind
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import read_json, weights_file

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

CLASS = "ControlNetModel"
EXPECTED = "expected a ControlNet: a file (.safetensors, .pth) or a diffusers folder"
MUST_AGREE = ("cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels")
"""Settings in which a ControlNet and its base model are the same, or its residuals would not fit."""
EMBEDDING = "controlnet_cond_embedding."


def check_controlnet(path: str | Path) -> None:
    """Raise UserError for anything but a ControlNet with weights in it, by its header and configuration alone."""
    path = Path(path)
    if path.is_file():
        _plan(read_header(path))
    else:
        _folder_config(path)


def load_controlnet(path: str | Path, *, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet for this UNet. Raises UserError as `check_controlnet`, and for one of another base model."""
    path = Path(path)
    controlnet = _from_file(path, unet, dtype) if path.is_file() else _from_folder(path, unet, dtype)
    return controlnet.eval().requires_grad_(False)


def _folder_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        missing = "no such file or folder" if not path.exists() else "no config.json in this folder"
        raise UserError(f"{path}: {missing}; {EXPECTED}")
    config = read_json(path / "config.json")
    if config.get("_class_name") != CLASS:
        raise UserError(f"{path}: holds a {config.get('_class_name', 'model without a name')}, expected a {CLASS}")
    weights_file(path)
    return config


def _from_folder(path: Path, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    from diffusers import ControlNetModel

    config = _folder_config(path)
    for name in MUST_AGREE:
        own, wanted = (_plain(value) for value in (config.get(name), unet.config[name]))
        if own is not None and own != wanted:
            raise UserError(
                f"{path}: a ControlNet of another base model: {name} is {own}, of this model it is {wanted}; take the "
                "one made for it"
            )
    try:
        return ControlNetModel.from_pretrained(path, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be loaded as a ControlNet ({str(error)[:200]})") from error


def _plan(header: Header) -> tuple[ldm.Plan, list[str]]:
    """Map a ControlNet's tensors to the keys of a single file; also list keys that have no place in one."""
    names = ldm.strip(header.tensors, ldm.CONTROL_PREFIX)
    prefix = ldm.CONTROL_PREFIX if names else ""
    names = names or [name for name in header.tensors if not ldm.IGNORED_TOP.match(name)]
    if any(name.startswith("controlnet_mid_block.") for name in names):  # diffusers' own names
        plan, unknown = {name: ldm.Source(key=name) for name in names}, []
    else:
        plan, unknown = ldm.controlnet_plan(names)
    if not {"conv_in.weight", f"{EMBEDDING}conv_in.weight", "controlnet_mid_block.weight"} <= plan.keys():
        found = recognise_header(header)
        if found.kind != "controlnet":
            raise wrong_kind(found, "controlnet")
        raise UserError(
            f"{header.path}: not a whole ControlNet; Control-LoRAs, T2I-Adapters and differences to a base model are "
            "not supported"
        )
    return ldm.with_prefix(plan, prefix), [prefix + name for name in unknown]


def _from_file(path: Path, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    from diffusers import ControlNetModel

    header = read_header(path)
    plan, unknown = _plan(header)
    shapes = planned_shapes(header, plan)
    # Values that shapes do not tell (heads, activations, epsilons) are those of the base model's UNet.
    wanted = inspect.signature(ControlNetModel.__init__).parameters
    config: dict[str, Any] = {name: value for name, value in unet.config.items() if name in wanted}
    config["conditioning_channels"] = shapes[f"{EMBEDDING}conv_in.weight"][1]
    config["conditioning_embedding_out_channels"] = _embedding_channels(shapes)
    component = Component(name="controlnet", header=header, plan=plan, config=config, unknown=unknown)
    if wrong := problems(component, empty_model("controlnet", config)):
        raise UserError(f"{path}: a ControlNet of another base model than this one: {'; '.join(wrong)}")
    controlnet: Any = build([component], dtype=dtype)["controlnet"]
    return controlnet


def _embedding_channels(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Channels of the conditioning embedding, layer by layer."""
    channels = [shapes[f"{EMBEDDING}conv_in.weight"][0]]
    while (key := f"{EMBEDDING}blocks.{2 * len(channels) - 1}.weight") in shapes:
        channels.append(shapes[key][0])
    return tuple(channels)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
