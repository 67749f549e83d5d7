"""ControlNets: diffusers folders, and single files in diffusers' names or in those of the original release.

Also differences to a base model (a marker tensor `difference`): the weights of its UNet are added to the layers that
were copied from it.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base import ldm
from animatediff.weights.base.components import Component, are_weights_read, empty_model, fill, planned_shapes
from animatediff.weights.base.text_width import in_words
from animatediff.weights.base.text_width import text_width as width_of
from animatediff.weights.fit import Fit, leave_out, some
from animatediff.weights.recognise import check_setting, recognise_header
from animatediff.weights.silence import quiet_loading
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.folders import folder_header, read_json

if TYPE_CHECKING:
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel
    from torch import Tensor

logger = logging.getLogger(__name__)

CLASS = "ControlNetModel"
EXPECTED = "expected a ControlNet: a file (.safetensors, .pth) or a diffusers folder"
MUST_AGREE = ("cross_attention_dim", "block_out_channels", "layers_per_block", "in_channels")
"""Settings in which a ControlNet and its base model are the same, or its residuals would not fit."""
EMBEDDING = "controlnet_cond_embedding."
DIFFERENCE = "difference"
"""Marker tensor of a file whose copied layers are differences to those of the base model."""
POOLED = re.compile(r"_shuffle(_fp16)?$")
"""End of the name of a single file whose conditions are pooled over the image, which no tensor tells."""
_LAYER = re.compile(r"((?:(?:down_blocks\.\d+|mid_block)\.[a-z]+\.|controlnet_down_blocks\.)\d+)\.")


def check_controlnet(path: str | Path, *, text_width: int | None = None) -> None:
    """Raise UserError for anything but a whole ControlNet, by its header and configuration alone.

    text_width: width of the base model's prompt embeddings where it is known; a ControlNet for another one is refused.
    """
    found = _read(Path(path))
    made_for = width_of(found.shapes)
    if text_width is not None and made_for is not None and made_for != text_width:
        raise UserError(
            f"{path}: a ControlNet of another base model: it reads prompt embeddings of width {in_words(made_for)}, "
            f"those of this model have {in_words(text_width)}; take the one made for it"
        )


def load_controlnet(path: str | Path, *, unet: UNet2DConditionModel, dtype: torch.dtype) -> ControlNetModel:
    """A ControlNet for this UNet. Raises UserError as `check_controlnet`, and for one of another base model.

    A difference is added to the plain weights of `unet`, without its LoRAs, in float32.
    """
    found = _read(Path(path))
    _check_base(found, unet)
    config = found.config or _config(found.shapes, unet)
    if POOLED.search(Path(path).stem) and "global_pool_conditions" not in (found.config or {}):
        config["global_pool_conditions"] = True
        logger.info("%s: by its name a shuffle ControlNet: its conditions are pooled over the image", path)
    try:
        controlnet = empty_model("controlnet", config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: its config.json describes no ControlNet ({str(error)[:200]})") from error
    expected = {name: tuple(value.shape) for name, value in controlnet.state_dict().items()}
    fit = Fit.of(found.shapes, expected)
    if further := sorted(_layers(found.shapes) - _layers(expected)):
        raise UserError(
            f"{path}: {_other(found)}: controlnet: it has layers beyond those of this model, {some(further)}"
        )
    if fit.misshapen:
        raise UserError(f"{path}: {_other(found)}: controlnet: {'; '.join(fit.problems())}")
    if fit.missing:
        raise UserError(f"{path}: not a whole ControlNet: {'; '.join(fit.problems())}")
    plan = {name: source for name, source in found.plan.items() if name not in fit.surplus}
    leave_out([*found.unknown, *(found.plan[name].key for name in fit.surplus)], path=path, model="ControlNet")
    component = Component(name="controlnet", header=found.header, plan=plan, config=config)
    fill(controlnet, component, dtype=None if found.is_difference else dtype)
    if found.is_difference and are_weights_read():
        _add_base(controlnet, unet, path)
        logger.info("%s: a difference to a base model: added to the weights of this one", path)
    with quiet_loading():
        return controlnet.to(dtype).eval().requires_grad_(False)


def _other(found: _Found) -> str:
    if found.config is not None:
        return "its tensors are not those of its config.json"
    return "a ControlNet of another base model than this one"


def _layers(names: Iterable[str]) -> set[str]:
    """The layers that a ControlNet and a UNet must have in common, such as `down_blocks.0.resnets.1`."""
    return {layer[1] for name in names if (layer := _LAYER.match(name))}


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A ControlNet's file: its tensors under diffusers' names."""

    header: Header
    plan: ldm.Plan
    unknown: list[str]
    """Keys of the file that have no place in a ControlNet."""
    shapes: dict[str, tuple[int, ...]]
    config: dict[str, Any] | None
    """config.json of a diffusers folder; None of a single file."""

    @property
    def is_difference(self) -> bool:
        return DIFFERENCE in self.header.tensors


def _read(path: Path) -> _Found:
    """Read header and configuration of a ControlNet. Raises UserError for another kind of file."""
    if any("instantid" in re.sub(r"[\W_]", "", part).lower() for part in path.parts[-2:]):
        raise UserError(
            f"{path}: the ControlNet of InstantID reads face embeddings (of insightface) in place of the prompt, which "
            "are not computed here; take another ControlNet"
        )
    config = None
    if not path.is_dir() and os.path.lexists(path):  # of a pipe and a link to nothing, it says that
        header = read_header(path)
        beside = path.with_name("config.json")
        if beside.is_file() and (stated := read_json(beside)).get("_class_name") == CLASS:
            config = stated
    else:
        config = _folder_config(path)
        header = folder_header(path)
    plan, unknown = _plan(header)
    shapes = planned_shapes(header, plan)
    if (channels := shapes[f"{EMBEDDING}conv_in.weight"][1]) != 3:
        raise UserError(
            f"{path}: a ControlNet for conditions of {channels} channels; those for images of 3 channels are supported"
        )
    return _Found(header=header, plan=plan, unknown=unknown, shapes=shapes, config=config)


def _folder_config(path: Path) -> dict[str, Any]:
    if not (path / "config.json").is_file():
        missing = "no such file or folder" if not path.exists() else "no config.json in this folder"
        raise UserError(f"{path}: {missing}; {EXPECTED}")
    config = read_json(path / "config.json")
    if (name := config.get("_class_name")) != CLASS:
        check_setting(recognise_header(folder_header(path)), "controlnet")  # which says what it is, and what to do
        raise UserError(f"{path}: holds a {name or 'model without a name'}, expected a {CLASS}")
    return config


def _plan(header: Header) -> tuple[ldm.Plan, list[str]]:
    """Map a ControlNet's tensors to the keys of a file; also list the keys that have no place in one.

    Raises UserError for what is no ControlNet.
    """
    check_setting(recognise_header(header), "controlnet")
    prefixed = ldm.strip(header.tensors, ldm.CONTROL_PREFIX)
    prefix = ldm.CONTROL_PREFIX if prefixed else ""
    names = prefixed or [name for name in header.tensors if not ldm.IGNORED_TOP.match(name) and name != DIFFERENCE]
    if any(name.startswith("controlnet_mid_block.") for name in names):  # diffusers' own names
        plan, unknown = {name: ldm.Source(key=name) for name in names}, []
    else:
        plan, unknown = ldm.controlnet_plan(names)
    if not {"conv_in.weight", f"{EMBEDDING}conv_in.weight", "controlnet_mid_block.weight"} <= plan.keys():
        raise UserError(f"{header.path}: not a whole ControlNet; is the download complete?")
    others = [name for name in header.tensors if not name.startswith(prefix) and name != DIFFERENCE] if prefix else []
    return ldm.with_prefix(plan, prefix), [prefix + name for name in unknown] + others


def _check_base(found: _Found, unet: UNet2DConditionModel) -> None:
    """Raise UserError where a folder's configuration, or the width of the prompt embeddings, is of another model."""
    config = found.config or {}
    for name in MUST_AGREE:
        own, wanted = (_plain(value) for value in (config.get(name), unet.config[name]))
        if own is not None and own != wanted:
            raise UserError(
                f"{found.header.path.parent}: a ControlNet of another base model: {name} is {own}, of this model it is "
                f"{wanted}; take the one made for it"
            )


def _config(shapes: Mapping[str, tuple[int, ...]], unet: UNet2DConditionModel) -> dict[str, Any]:
    """Configuration of a single file's ControlNet.

    Values that shapes do not tell (heads, activations, epsilons) are those of the base model's UNet; small ControlNets
    of SDXL have fewer attentions than it, or none.
    """
    from diffusers import ControlNetModel

    wanted = inspect.signature(ControlNetModel.__init__).parameters
    config: dict[str, Any] = {name: value for name, value in unet.config.items() if name in wanted}
    config["conditioning_channels"] = shapes[f"{EMBEDDING}conv_in.weight"][1]
    config["conditioning_embedding_out_channels"] = _embedding_channels(shapes)
    blocks = [f"down_blocks.{number}." for number in range(len(config["down_block_types"]))]
    depths = [_depth(shapes, block) for block in blocks]
    config["down_block_types"] = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    middle = _depth(shapes, "mid_block.")
    config["mid_block_type"] = "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D"
    depths[-1] = depths[-1] or middle  # the mid block is as deep as the last entry says
    config["transformer_layers_per_block"] = [depth or 1 for depth in depths]
    return config


def _depth(shapes: Mapping[str, tuple[int, ...]], block: str) -> int:
    """Transformer blocks in the attentions of a block; 0 where it has no attentions."""
    number = re.compile(re.escape(block) + r"attentions\.\d+\.transformer_blocks\.(\d+)\.")
    return 1 + max((int(found[1]) for name in shapes if (found := number.match(name))), default=-1)


def _embedding_channels(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Channels of the conditioning embedding, layer by layer."""
    channels = [shapes[f"{EMBEDDING}conv_in.weight"][0]]
    while (key := f"{EMBEDDING}blocks.{2 * len(channels) - 1}.weight") in shapes:
        channels.append(shapes[key][0])
    return tuple(channels)


def _add_base(controlnet: ControlNetModel, unet: UNet2DConditionModel, path: str | Path) -> None:
    """Add the UNet's weights to the layers that were copied from it; zero convolutions and conditions are whole."""
    base = plain_weights(unet)
    for name, parameter in controlnet.named_parameters():
        if (weight := base.get(name)) is None:
            continue
        if weight.device.type == "meta":
            raise UserError(
                f"{path}: a difference to a base model: load it before enable_sequential_cpu_offload hides the weights"
            )
        parameter.data = parameter.data.float() + weight.detach().to(parameter.device).float()


def plain_weights(model: Any) -> dict[str, Tensor]:
    """Weights of a model by name, as they are without LoRAs: PEFT keeps those inside its own layers."""
    return {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
