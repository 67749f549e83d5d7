"""LoRAs on the layers of a model while it runs: PEFT's layers, and normalisations that PEFT has no layer for.

Linear layers and convolutions become PEFT's LoraLayer. A change that is no low-rank pair stands where `lora_A` would,
whole, with the identity as `lora_B`. Normalisations keep their place, their hooks and their parameters, and add what
LoRAs say to weight and bias at each call. Weights of the model are never written to; all scale with the strength.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import LoraVariant
from torch import Tensor, nn
from torch.nn import functional as F

NORMS = "lora_norms"
"""Child of a changed normalisation: adapter name -> its change."""


@dataclass(frozen=True, kw_only=True)
class LayerChange:
    """All that one LoRA does to one layer."""

    path: str
    """Path of the layer in its model."""
    pair: tuple[Tensor, Tensor] | None = None
    """`down` and `up`, with as many axes as the layer's weight."""
    alpha: float = 1.0
    """Of the pair: it counts alpha / rank times."""
    weight: Tensor | None = None
    """A change of the whole weight, instead of a pair."""
    bias: Tensor | None = None
    """A change of the bias: of the pair's `up`, counting alpha / rank times, or of the layer itself."""
    magnitude: Tensor | None = None
    """Of a DoRA, beside a pair: norms of the outputs' weights."""

    @property
    def rank(self) -> int:
        return 1 if self.pair is None else self.pair[0].shape[0]

    @property
    def is_zero(self) -> bool:
        """Whether the layer stays as it is at any strength."""
        if self.magnitude is not None or (self.bias is not None and bool(self.bias.any())):
            return False
        if self.pair is not None:
            return self.alpha == 0 or not all(bool(half.any()) for half in self.pair)
        return self.weight is None or not bool(self.weight.any())


def inject(model: nn.Module, changes: list[LayerChange], name: str, scale: float) -> None:
    """Put one LoRA, called `name`, on the layers of `model`, beside those that are there."""
    norms = [change for change in changes if isinstance(model.get_submodule(change.path), tuple(_CHANGED))]
    by_path = {change.path: change for change in changes if change not in norms}
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=list(by_path),
        rank_pattern={f"^{re.escape(path)}": change.rank for path, change in by_path.items()},
        alpha_pattern={f"^{re.escape(path)}": change.alpha for path, change in by_path.items()},
    )
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    if by_path:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several LoRAs at once are what we want
            inject_adapter_in_model(config, model, adapter_name=name, low_cpu_mem_usage=True)
    else:
        model.peft_config = {**(getattr(model, "peft_config", None) or {}), name: config}  # type: ignore[assignment]
    model._hf_peft_config_loaded = True  # type: ignore[assignment]  # diffusers and transformers look here
    for parameter, wanted in trainable:  # PEFT freezes the model
        parameter.requires_grad_(wanted)
    layers = [(path, layer) for path, layer in lora_layers(model) if name in layer.lora_A]
    assert {path for path, _ in layers} == set(by_path), "PEFT chose other layers than were asked for"
    for path, layer in layers:
        _fill(layer, by_path[path], name)
        layer.set_scale(name, scale)
    for change in norms:
        _change_norm(model.get_submodule(change.path), change, name, scale)
    for _, layer in lora_layers(model):
        _activate(layer)


def set_scale(model: nn.Module, name: str, strength: Callable[[str], float]) -> None:
    """Set the strength of a LoRA on every layer of `model` that it changes; `strength` takes the layer's path."""
    for path, layer in lora_layers(model):
        if name in layer.lora_A:
            layer.set_scale(name, strength(path))
    for path, norm in model.named_modules():
        if isinstance(norm, _ChangedNorm) and name in (changes := getattr(norm, NORMS)):
            changes[name].scale = strength(path)


def rescale(model: nn.Module, names: Collection[str], factor: float) -> None:
    """Multiply the strengths of LoRAs on every layer of `model`."""
    for _, layer in lora_layers(model):
        for name in names:
            if name in layer.scaling:
                layer.scaling[name] *= factor


def acts(model: nn.Module, name: str) -> bool:
    """Whether a LoRA changes any layer of `model` as it is now."""
    layers = (layer for _, layer in lora_layers(model) if name in layer.lora_A and not layer.disable_adapters)
    norms = (norm for norm in _changed_norms(model) if name in getattr(norm, NORMS) and norm.loras_on)
    return any(layer.scaling[name] for layer in layers) or any(getattr(norm, NORMS)[name].scale for norm in norms)


def acting_strengths(model: nn.Module) -> Iterator[tuple[str, str, float]]:
    """Path of a layer, name of a LoRA on it, and its strength there now, 0 where it is switched off."""
    if not hasattr(model, "peft_config"):
        return
    for path, layer in lora_layers(model):
        for name, scaling in layer.scaling.items():
            yield path, name, 0.0 if layer.disable_adapters else float(scaling)
    for number, norm in enumerate(_changed_norms(model)):
        for name, change in getattr(norm, NORMS).items():
            yield str(number), name, float(change.scale) if norm.loras_on else 0.0


def switch(model: nn.Module, on: bool) -> None:
    """Switch all LoRAs of `model` off or on; strengths stay."""
    for _, layer in lora_layers(model):
        layer._disable_adapters = not on
    for norm in _changed_norms(model):
        norm.loras_on = on


def more_than_pairs(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Those of these LoRAs that are more than low-rank pairs here, so that PEFT cannot merge them."""
    odd = {name for norm in _changed_norms(model) for name in getattr(norm, NORMS)}
    for _, layer in lora_layers(model):
        odd |= {name for name, up in layer.lora_B.items() if isinstance(up, nn.Identity) or up.bias is not None}
        odd |= set(layer.lora_variant)
    return [name for name in names if name in odd]


@contextmanager
def lora_factor(models: Iterable[nn.Module], factor: float) -> Iterator[None]:
    """Multiply the strengths of all LoRAs on the models for a while; they are then exactly what they were."""
    layers = [layer for model in models for _, layer in lora_layers(model)] if factor != 1 else []
    norms = [change for model in models for norm in _changed_norms(model) for change in getattr(norm, NORMS).values()]
    before = [(layer, dict(layer.scaling)) for layer in layers]
    norms_before = [(change, change.scale) for change in norms] if factor != 1 else []
    for layer, scaling in before:
        layer.scaling.update({name: scale * factor for name, scale in scaling.items()})
    for change, scale in norms_before:
        change.scale = scale * factor
    try:
        yield
    finally:
        for layer, scaling in before:
            layer.scaling.update(scaling)
        for change, scale in norms_before:
            change.scale = scale


def remove(model: nn.Module, name: str) -> None:
    """Take a LoRA off `model`; layers that no other LoRA changes become the very modules they were."""
    for path, layer in lora_layers(model):
        if name not in layer.lora_A:
            continue
        if len(layer.lora_A) == 1:
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.base_layer)
        else:
            layer.delete_adapter(name)
            _activate(layer)
    for norm in _changed_norms(model):
        changes = getattr(norm, NORMS)
        if name in changes:
            del changes[name]
        if not changes:
            delattr(norm, NORMS)
            norm.__dict__.pop("loras_on", None)
            plain: Any = next(plain for plain, changed in _CHANGED.items() if type(norm) is changed)
            norm.__class__ = plain


def lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Path and layer, for every layer of `model` that PEFT has put LoRAs on."""
    return [(path, module) for path, module in model.named_modules() if isinstance(module, LoraLayer)]


def changeable(module: nn.Module) -> bool:
    """Whether a LoRA can change a layer of this kind."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        return True
    norm = type(module) in (*_CHANGED, *_CHANGED.values())
    return norm and module.weight is not None and module.bias is not None


def _fill(layer: Any, change: LayerChange, name: str) -> None:
    """Put the tensors of a change into the places that PEFT made for them."""
    weight = layer.base_layer.weight

    def fill(module: nn.Module, **values: Tensor | None) -> None:
        state = {key: value.to(weight) for key, value in values.items() if value is not None}
        module.load_state_dict(state, assign=True)

    if change.weight is not None:
        layer.lora_A[name] = _same_kind(layer.base_layer, bias=change.bias is not None)
        layer.lora_B[name] = nn.Identity()
        fill(layer.lora_A[name], weight=change.weight, bias=change.bias)
        return
    down, up = change.pair or _nothing(weight)
    fill(layer.lora_A[name], weight=down)
    if change.bias is not None:
        layer.lora_B[name].bias = nn.Parameter(torch.empty_like(change.bias, device="meta"))
    fill(layer.lora_B[name], weight=up, bias=change.bias)
    if change.magnitude is not None:
        layer.lora_magnitude_vector[name] = _Magnitude(layer.base_layer, (down, up), change.magnitude)
        layer.lora_variant[name] = _Dora()


def _nothing(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A pair that changes nothing, to carry a bias."""
    kernel = weight.shape[2:]
    return weight.new_zeros(1, weight.shape[1], *kernel), weight.new_zeros(weight.shape[0], 1, *(1 for _ in kernel))


def _same_kind(layer: nn.Module, *, bias: bool) -> nn.Module:
    """A layer that applies another weight as this one applies its own."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, layer.out_features, bias=bias, device="meta")
    assert isinstance(layer, nn.Conv2d)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return nn.Conv2d(**{name: getattr(layer, name) for name in names}, bias=bias, device="meta")


def _activate(layer: Any) -> None:
    """All LoRAs of a layer count; PEFT would let only the last one, and make it trainable."""
    layer.set_adapter(list(layer.lora_A))
    for parts in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
        parts.requires_grad_(False)


class _Dora(LoraVariant):
    """DoRA as PEFT's own, but off at strength 0, and without a look at the layer's weight, which may be offloaded."""

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing to prepare: the magnitudes come from the file."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        scaling = module.scaling[active_adapter]
        if scaling == 0:
            return result
        base = result if module.active_adapters[0] == active_adapter else module.base_layer(x)
        low = module.lora_B[active_adapter](module.lora_A[active_adapter](x))
        return result + module.lora_magnitude_vector[active_adapter](base, low, scaling)


class _Magnitude(nn.Module):
    """What DoRA (arXiv 2402.09353, eq. 5) adds to a layer's output: its weight W + s D gets rows of a given norm.

    Norms of the rows are known at any s = strength * alpha / rank from three numbers: |W|^2 + 2 s W.D + s^2 |D|^2.
    """

    squares: Tensor
    magnitude: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Module, pair: tuple[Tensor, Tensor], magnitude: Tensor) -> None:
        super().__init__()
        weight: Tensor = layer.weight  # type: ignore[assignment]
        down, up = (half.to(weight.device).flatten(1).double() for half in pair)
        low, own = up @ down, weight.detach().flatten(1).double()
        squares = torch.stack([(own * own).sum(1), 2 * (own * low).sum(1), (low * low).sum(1)])
        self.register_buffer("squares", squares.float())
        self.register_buffer("magnitude", magnitude.flatten().to(squares.device, torch.float32))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())  # type: ignore[operator]
        self.shape = (-1, *(1 for _ in weight.shape[2:]))

    def forward(self, base: Tensor, low: Tensor, scaling: float) -> Tensor:
        """base: output of the layer, (b, c, ...) or (b, n, c); low: that of the pair; returned with the same shape."""
        own, cross, square = self.squares.float()
        factor = self.magnitude.float() / (own + scaling * cross + scaling * scaling * square).sqrt()
        factor = factor.to(base.dtype).reshape(self.shape)
        if self.bias is not None:
            base = base - self.bias.reshape(self.shape)
        return (factor - 1) * base + factor * (low * scaling)


class _NormChange(nn.Module):
    """What one LoRA adds to weight and bias of a normalisation."""

    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, norm: nn.Module, change: LayerChange, scale: float) -> None:
        super().__init__()
        for name, value in (("weight", change.weight), ("bias", change.bias)):
            self.register_buffer(name, None if value is None else value.to(norm.weight))  # type: ignore[arg-type]
        self.scale = scale

    def forward(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias of the normalisation, (c,) each, with this change."""
        if self.weight is not None:
            weight = weight + self.scale * self.weight
        if self.bias is not None:
            bias = bias + self.scale * self.bias
        return weight, bias


class _ChangedNorm(nn.Module):
    """A normalisation of which LoRAs change weight and bias."""

    loras_on = True

    def changed(self) -> tuple[Tensor, Tensor]:
        """Weight and bias, (c,) each, with the changes of all LoRAs."""
        weight, bias = self.weight, self.bias
        if not self.loras_on:
            return weight, bias  # type: ignore[return-value]
        for change in getattr(self, NORMS).values():
            weight, bias = change(weight, bias)
        return weight, bias  # type: ignore[return-value]


class _ChangedGroupNorm(_ChangedNorm, nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        """input: (b, c, ...), returned with the same shape."""
        return F.group_norm(input, self.num_groups, *self.changed(), self.eps)


class _ChangedLayerNorm(_ChangedNorm, nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        """input: (..., c), returned with the same shape."""
        return F.layer_norm(input, self.normalized_shape, *self.changed(), self.eps)


_CHANGED: dict[type[nn.Module], type[nn.Module]] = {
    nn.GroupNorm: _ChangedGroupNorm,
    nn.LayerNorm: _ChangedLayerNorm,
}


def _change_norm(norm: nn.Module, change: LayerChange, name: str, scale: float) -> None:
    if type(norm) in _CHANGED:
        setattr(norm, NORMS, nn.ModuleDict())
        norm.__class__ = _CHANGED[type(norm)]  # the object keeps its hooks and parameters
    getattr(norm, NORMS)[name] = _NormChange(norm, change, scale)


def _changed_norms(model: nn.Module) -> Iterator[_ChangedNorm]:
    yield from [module for module in model.modules() if isinstance(module, _ChangedNorm)]


def changes_nothing(changes: Iterable[LayerChange]) -> bool:
    """Whether a LoRA of these changes leaves every layer as it is, at any strength."""
    return all(change.is_zero for change in changes)
