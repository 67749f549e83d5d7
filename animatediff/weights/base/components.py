"""One component of an image model (UNet, VAE, text encoder): checked from its header, filled, one copy in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base.ldm import NOISE_CHANNELS, Part, Plan, Source
from animatediff.weights.base.quantized import quantization, scale_of, with_scale
from animatediff.weights.fit import Fit, leave_out
from animatediff.weights.storage.files import Header, load_tensors
from animatediff.weights.storage.folders import folder_header, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TEXT_MODEL = "text_model."
"""transformers has had CLIPTextModel with and without this wrapper; names are compared without it."""
TITLES = {
    "unet": "UNet",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "controlnet": "ControlNet",
}
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "controlnet": ("ControlNetModel",),
}
"""Classes of diffusers or transformers that each component may have; the first where its configuration names none."""
OF_TRANSFORMERS = ("text_encoder", "text_encoder_2")
WITHOUT_ENCODER = "_without_encoder"
"""Entry in the configuration of a tiny VAE of which the decoder alone is there."""
QUIET_ENDINGS = ("position_ids", "logit_scale", "num_batches_tracked")
"""Ends of surplus names that tell nothing: buffers of older libraries."""


_WITHOUT_WEIGHTS: ContextVar[bool] = ContextVar("animatediff_without_weights", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """Let components be made and checked in full, but for their weights: parameters stay on the meta device."""
    token = _WITHOUT_WEIGHTS.set(True)
    try:
        yield
    finally:
        _WITHOUT_WEIGHTS.reset(token)


def are_weights_read() -> bool:
    """Whether weights are read here, outside of `without_weights`."""
    return not _WITHOUT_WEIGHTS.get()


@dataclass(frozen=True, kw_only=True)
class Component:
    """Facts about a component, before any tensor is read."""

    name: str
    """Name in diffusers: "unet", "vae", "text_encoder", "text_encoder_2", "controlnet"."""
    header: Header
    plan: Plan
    """Key of the model (without `text_model.`) -> where it is in the file."""
    config: dict[str, Any]
    unknown: Sequence[str] = field(default=())
    """Keys of the file that belong to this component and have no place in it."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return planned_shapes(self.header, self.plan)


def planned_shapes(header: Header, plan: Plan) -> dict[str, tuple[int, ...]]:
    """The shapes that the model's tensors will have if `plan` is followed."""
    return {target: source.shape(header.tensors[source.key].shape) for target, source in plan.items()}


def folder_component(folder: Path, name: str, *, half: bool = False, variant: str | None = None) -> Component:
    """The component `name` of a diffusers folder of its own, shards and variants included, keys as they are.

    Raises UserError for a folder without weights or configuration, and for one of another class.
    """
    config = read_json(folder / "config.json")
    check_class(config, name, folder)
    header = folder_header(folder, half=half, variant=variant)
    plan = {key.removeprefix(TEXT_MODEL): Source(key=key) for key in header.tensors}
    return Component(name=name, header=header, plan=plan, config=config)


def stated_class(config: Mapping[str, Any], name: str) -> str:
    """The class that a configuration names, else the usual one."""
    stated = config.get("architectures") if name in OF_TRANSFORMERS else [config.get("_class_name")]
    return next((str(one) for one in stated or () if one), CLASSES[name][0])


def check_class(config: Mapping[str, Any], name: str, path: Path) -> None:
    """Raise UserError for a configuration of another class than component `name` may have, or of quantized weights."""
    if (found := stated_class(config, name)) not in CLASSES[name]:
        raise UserError(f"{path}: a {found}, expected a {CLASSES[name][0]} ({TITLES[name]})")
    if (stated := config.get("quantization_config")) is not None:
        kind = stated.get("quant_method", "unknown") if isinstance(stated, dict) else stated
        raise UserError(f"{path}: quantized weights ({kind}), which are not supported; give float16 or float32")


def empty_model(name: str, config: Mapping[str, Any]) -> Any:
    """The component with its parameters on the meta device; buffers that are computed, not loaded, are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if name in OF_TRANSFORMERS:
            import transformers

            return getattr(transformers, stated_class(config, name))(transformers.CLIPTextConfig(**config))
        import diffusers

        config = dict(config)
        without_encoder = config.pop(WITHOUT_ENCODER, False)
        if stated_class(config, name) == "AutoencoderTiny":
            config.pop("block_out_channels", None)  # which diffusers saves, and warns of when it reads it
        model = getattr(diffusers, stated_class(config, name)).from_config(config)
        if without_encoder:
            model.encoder = no_encoder()
        return model


def no_encoder() -> Any:
    """A module in place of the encoder of a tiny VAE of which the decoder alone is there."""
    from torch import nn

    class NoEncoder(nn.Module):
        def forward(self, images: Any) -> Any:
            raise UserError(
                "`vae`: this tiny VAE is a decoder alone, and images have to be encoded here; put the encoder's file "
                "beside it (taesd_encoder beside taesd_decoder), or give a whole VAE"
            )

    return NoEncoder()


def _model(component: Component) -> Any:
    """The empty model of a component. Raises UserError where its configuration describes none."""
    try:
        return empty_model(component.name, component.config)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise UserError(
            f"{component.header.path}: no {TITLES[component.name]} can be made of its configuration "
            f"({type(error).__name__}: {str(error)[:200]})"
        ) from error


def _targets(model: nn.Module) -> dict[str, str]:
    """Name without `text_model.` -> name in the model."""
    return {name.removeprefix(TEXT_MODEL): name for name in model.state_dict()}


def _fit(component: Component, model: nn.Module) -> Fit:
    state = model.state_dict()
    expected = {short: tuple(state[full].shape) for short, full in _targets(model).items()}
    return Fit.of(component.shapes(), expected)


def problems(component: Component, model: nn.Module) -> list[str]:
    """List what keeps the file from filling the model: quantized weights, missing keys, wrong shapes."""
    if (kind := quantization(component.header, [source.key for source in component.plan.values()])) is not None:
        return [f"{component.name}: {kind}"]
    return [f"{component.name}: {line}" for line in _fit(component, model).problems()]


def surplus(component: Component, model: nn.Module) -> list[str]:
    """List the keys of the file that the model has no place for, harmless ones left out."""
    names = [component.plan[target].key for target in _fit(component, model).surplus]
    return sorted(name for name in {*names, *component.unknown} if not _is_quiet(component.header, name))


def _is_quiet(header: Header, name: str) -> bool:
    return name.endswith(QUIET_ENDINGS) or scale_of(header, name)


def build(components: Sequence[Component], *, dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """Check every component, then fill them one by one; tensors without a place in one are left out with a warning.

    Raises UserError that lists all problems by component.
    """
    models = {component.name: _model(component) for component in components}
    lines = [(part.header.path, line) for part in components for line in problems(part, models[part.name])]
    if lines:
        raise UserError("\n".join([f"{lines[0][0]}: cannot be loaded:", *(f"  {line}" for _, line in lines)]))
    for component in components:
        names = surplus(component, models[component.name])
        leave_out(names, path=component.header.path, model=TITLES[component.name])
        fill(models[component.name], component, dtype=dtype)
    return models


def main_dtype(component: Component) -> torch.dtype:
    """The floating-point type that most of the component's numbers have in the file; 8-bit files compute in float16."""
    import torch

    counts: dict[str, int] = {}
    for key in {source.key for source in component.plan.values()}:
        info = component.header.tensors[key]
        if "float" in info.dtype:
            counts[info.dtype] = counts.get(info.dtype, 0) + prod(info.shape)
    name = max(counts, key=lambda dtype: counts[dtype], default="float32")
    return torch.float16 if name.startswith("float8") else getattr(torch, name)


def _take(tensor: Tensor, part: Part) -> Tensor:
    if part is Part.CONV_TO_LINEAR:
        return tensor.reshape(tensor.shape[:2])
    if part is Part.NOISE:
        return tensor[:, :NOISE_CHANNELS].contiguous()
    if part is Part.TRANSPOSED:
        return tensor.T.contiguous()
    if part in (Part.FIRST, Part.SECOND, Part.THIRD):
        rows = tensor.shape[0] // 3
        first = (Part.FIRST, Part.SECOND, Part.THIRD).index(part) * rows
        return tensor[first : first + rows].clone()  # its own memory, so that each matrix can be moved or freed alone
    return tensor


def fill(model: nn.Module, component: Component, *, dtype: torch.dtype | None) -> None:
    """Give the meta parameters of `model` their values, tensor by tensor: no second copy of the weights exists.

    Tensors without a place in the model are not read. `dtype=None` keeps the type that most of the component has in the
    file.
    """
    if (kind := quantization(component.header, [source.key for source in component.plan.values()])) is not None:
        raise UserError(f"{component.header.path}: {kind}")
    if not are_weights_read():
        model.eval()
        return
    dtype = dtype or main_dtype(component)
    names = _targets(model)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    users: dict[str, list[str]] = {}
    for target, source in component.plan.items():
        if target in names:
            users.setdefault(source.key, []).append(target)
    state: dict[str, Tensor] = {}
    for key, targets in users.items():
        tensor = with_scale(component.header, key, dtype)
        if tensor is None:
            tensor = load_tensors(component.header, [key], dtype=dtype)[key]
        for target in targets:
            name = names[target]
            state[name] = _take(tensor, component.plan[target].part).reshape(shapes[name])
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
