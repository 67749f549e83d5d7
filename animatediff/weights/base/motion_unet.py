"""diffusers' `UNetMotionModel`, a UNet saved or made with motion modules in it: its image UNet."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base.components import empty_model
from animatediff.weights.base.ldm import NOISE_CHANNELS
from animatediff.weights.base.unet_kinds import UNET, unet_refusal
from animatediff.weights.keys import CONV_IN_WEIGHT, MOTION_KEY, NINE

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

MOTION_UNET = "UNetMotionModel"
_BLOCKS = {
    "CrossAttnDownBlockMotion": "CrossAttnDownBlock2D",
    "DownBlockMotion": "DownBlock2D",
    "CrossAttnUpBlockMotion": "CrossAttnUpBlock2D",
    "UpBlockMotion": "UpBlock2D",
}


def is_motion_unet(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a UNet with motion modules in it."""
    return config.get("_class_name") == MOTION_UNET


def image_config(config: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The configuration of the image UNet in a `UNetMotionModel`. Raises UserError for blocks of other UNets."""
    from diffusers import UNet2DConditionModel

    known = signature(UNet2DConditionModel.__init__).parameters
    found = {key: value for key, value in config.items() if key in known}
    for side in ("down_block_types", "up_block_types"):
        kinds = [_BLOCKS.get(kind) for kind in config.get(side, ())]
        if not kinds or None in kinds:
            raise UserError(f"{label}: a {MOTION_UNET} with {side} {config.get(side)}, which no image UNet has")
        found[side] = tuple(kinds)
    # The heads are named as in UNet2DConditionModel, where the older name of the two is read for both.
    found["attention_head_dim"] = found.pop("num_attention_heads", None) or config.get("attention_head_dim", 8)
    if found.get("in_channels") == NINE:  # of PIA: five more than the image model has
        found["in_channels"] = NOISE_CHANNELS
    return {**found, "mid_block_type": "UNetMidBlock2DCrossAttn", "_class_name": UNET}


def image_unet(unet: Any, label: str = MOTION_UNET) -> UNet2DConditionModel:
    """The image UNet in a `UNetMotionModel`, sharing its weights. Raises UserError for one of another kind of model."""
    config = image_config({**unet.config, "_class_name": MOTION_UNET}, label)
    if reason := unet_refusal(config):
        raise UserError(f"{label}: {reason}")
    state = {key: value for key, value in unet.state_dict().items() if not MOTION_KEY.match(key)}
    if unet.config["in_channels"] == NINE:
        state[CONV_IN_WEIGHT] = state[CONV_IN_WEIGHT][:, :NOISE_CHANNELS].contiguous()
    return sharing(config, state, label)


def sharing(config: Mapping[str, Any], state: Mapping[str, Any], label: str, name: str = "unet") -> Any:
    """A component of this configuration with the very tensors of `state`; those of LoRAs and the like are passed over.

    Raises UserError where some are missing.
    """
    model = empty_model(name, config)
    wanted = model.state_dict()
    below = {key: key if key in state else _below_lora(key) for key in wanted}
    if missing := [key for key, found in below.items() if found not in state]:
        raise UserError(f"{label}: has no {missing[0]} ({len(missing)} tensors missing), so it is not whole")
    model.load_state_dict({key: state[found].detach() for key, found in below.items()}, assign=True)
    return model.eval()


def _below_lora(key: str) -> str:
    """The name that PEFT gives a tensor of a layer which a LoRA acts on."""
    layer, _, tensor = key.rpartition(".")
    return f"{layer}.base_layer.{tensor}"
