"""The weights of a LoRA that trains on the live model through PEFT, and the key formats of its files."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff.bundled import named
from animatediff.errors import UserError
from animatediff.training.randomness import generator_for
from animatediff.weights.lora.key_formats import lora_to_original
from animatediff.weights.lora.load import load_lora
from animatediff.weights.storage.files import Header
from animatediff.weights.trained_with import trained_with

if TYPE_CHECKING:
    from animatediff.training.config import TrainConfig

NAME = "trained"
"""Adapter name of the LoRA that trains."""
_ATTENTION = r"transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"
TEMPORAL = re.compile(rf"(.+\.)?motion_modules\.\d+\.{_ATTENTION}")
"""The layers of a MotionLoRA."""
SPATIAL = re.compile(rf"(.+\.)?attentions\.\d+\.{_ATTENTION}")
"""The layers of a domain adapter: self and cross attention of the image model."""
IMAGE = re.compile(
    rf"(.+\.)?attentions\.\d+\.({_ATTENTION}|transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)|proj_in|proj_out)"
)
"""The layers of an image LoRA: everything linear in the image model's transformers, as kohya's default."""
CONVOLUTIONS = re.compile(r"(.+\.)?(resnets\.\d+\.(conv1|conv2|conv_shortcut)|(down|up)samplers\.\d+\.conv)")
"""The layers that kohya's `conv_dim` adds: the convolutions around the transformers."""


def target_layers(model: nn.Module, pattern: re.Pattern[str]) -> dict[str, nn.Module]:
    """Find the layers whose path fits: path -> plain layer, without other LoRAs on the model."""
    found = {}
    for path, module in model.named_modules():
        if pattern.fullmatch(path):
            layer = getattr(module, "base_layer", module)
            assert isinstance(layer, nn.Linear | nn.Conv2d), f"{path} is a {type(layer).__name__}"
            found[path] = layer
    return found


def new_lora(layers: Mapping[str, nn.Module], rank: int, seed: int) -> dict[str, Tensor]:
    """Make weights that change nothing yet: `down` as in a new linear layer, `up` zero (arXiv 2106.09685)."""
    state = {}
    generator = generator_for(seed, "lora")
    for path, layer in layers.items():
        weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType]
        outputs, inputs, *kernel = weight.shape
        bound = 1 / math.sqrt(inputs * math.prod(kernel))
        down = (torch.rand(rank, inputs, *kernel, generator=generator) * 2 - 1) * bound
        up = torch.zeros(outputs, rank, *(1 for _ in kernel))
        state[f"{path}.lora_A.weight"], state[f"{path}.lora_B.weight"] = down, up
    return state


class LoRA:
    """The LoRA that a stage trains: on the layers that fit a pattern, or on those of the file to go on from."""

    def __init__(
        self, unet: nn.Module, *patterns: re.Pattern[str], config: TrainConfig, kinds: tuple[str, ...]
    ) -> None:
        """Raises UserError for a file of another kind than `kinds`, of another rank or for another base model."""
        self.unet = unet
        scale = 1.0 if config.alpha is None else config.alpha / config.lora_rank
        layers = {path: layer for pattern in patterns for path, layer in target_layers(unet, pattern).items()}
        if not layers:
            raise UserError(f"{config.model}: has no layers for a LoRA of the stage {config.stage}")
        self.trained_with: dict[str, Any] = {}
        """Settings that the file to go on from was trained with in place of the base model's."""
        if config.start_from is None:
            load_lora(new_lora(layers, config.lora_rank, config.seed), unet=unet, adapter_name=NAME, scale=scale)
        else:
            start = named(config.start_from)
            self.trained_with = trained_with(check_kind(start, kinds))
            load_lora(start, unet=unet, adapter_name=NAME)
        self.paths = [path for path in layers if NAME in getattr(unet.get_submodule(path), "lora_A", ())]
        self.parameters: dict[str, nn.Parameter] = {}
        for path in self.paths:
            layer = unet.get_submodule(path)
            for part in ("lora_A", "lora_B"):
                self.parameters[f"{path}.{part}.weight"] = getattr(layer, part)[NAME].weight
        self._check_start(config)
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()

    def _check_start(self, config: TrainConfig) -> None:
        if config.start_from is None:
            return
        on_model = [n for n, _ in self.unet.named_parameters() if f".lora_A.{NAME}." in n]
        if len(on_model) != len(self.paths):
            raise UserError(
                f"{config.start_from}: {len(on_model) - len(self.paths)} of its layers are none that the stage "
                f"{config.stage} trains; start from a file of this stage"
            )
        ranks = {self.parameters[f"{path}.lora_A.weight"].shape[0] for path in self.paths}
        if config.rank is not None and ranks != {config.rank}:
            raise UserError(f"{config.start_from}: has rank {sorted(ranks)}, but rank={config.rank}; leave rank out")

    def scaling(self, path: str) -> float:
        """alpha / rank of a layer."""
        return float(self.unet.get_submodule(path).scaling[NAME])  # pyright: ignore[reportArgumentType, reportIndexIssue]

    def folded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by internal name, with alpha / rank multiplied into `up`: for key formats without alpha."""
        state = dict(tensors)
        for path in self.paths:
            up = f"{path}.lora_B.weight"
            if (scaling := self.scaling(path)) != 1.0:
                state[up] = state[up] * scaling
        return state

    def original(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the key format of the published MotionLoRAs and domain adapter, which has no alpha."""
        return {lora_to_original(key): tensor for key, tensor in self.folded(tensors).items()}

    def diffusers(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In diffusers' key format."""
        return {f"unet.{key}": tensor for key, tensor in self.folded(tensors).items()}

    def kohya(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In kohya's key format, as image LoRAs are shared, with alpha. 1x1 convolutions have four axes there."""
        state: dict[str, Tensor] = {}
        for path in self.paths:
            stem = f"lora_unet_{path.replace('.', '_')}"
            down, up = tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"]
            state[f"{stem}.lora_down.weight"], state[f"{stem}.lora_up.weight"] = down, up
            state[f"{stem}.alpha"] = torch.tensor(self.scaling(path) * down.shape[0])
        return state


def check_kind(path: str | Path, kinds: tuple[str, ...]) -> Header:
    """The header of a LoRA. Raises UserError for one of another kind than `kinds`, or not of low-rank pairs alone."""
    from animatediff.weights.lora.methods import sort_keys
    from animatediff.weights.recognise import recognise, wrong_kind

    found = recognise(path)
    if found.kind not in kinds:
        raise wrong_kind(found, kinds[0])
    if methods := sort_keys(found.header.tensors).methods:
        raise UserError(f"{path}: has {', '.join(methods)}, but training goes on from low-rank pairs alone")
    return found.header
