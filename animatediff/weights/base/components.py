"""One component of an image model (UNet, VAE, text encoder): checked from its header, filled, one copy in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.base.ldm import Part, Plan
from animatediff.weights.storage.files import Header, load_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TEXT_MODEL = "text_model."
"""transformers has had CLIPTextModel with and without this wrapper; names are compared without it."""
MAX_NAMED = 3
"""Keys that a message spells out."""


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


def empty_model(name: str, config: dict[str, Any]) -> Any:
    """The component with its parameters on the meta device; buffers that are computed, not loaded, are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if name == "unet":
            from diffusers import UNet2DConditionModel

            return UNet2DConditionModel.from_config(config)
        if name == "vae":
            from diffusers import AutoencoderKL

            return AutoencoderKL.from_config(config)
        if name == "controlnet":
            from diffusers import ControlNetModel

            return ControlNetModel.from_config(config)
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        projects = "CLIPTextModelWithProjection" in config.get("architectures", ())
        return (CLIPTextModelWithProjection if projects else CLIPTextModel)(CLIPTextConfig(**config))


def _targets(model: nn.Module) -> dict[str, str]:
    """Name without `text_model.` -> name in the model."""
    return {name.removeprefix(TEXT_MODEL): name for name in model.state_dict()}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")


def problems(component: Component, model: nn.Module) -> list[str]:
    """List what keeps the file from filling the model: missing and unknown keys, wrong shapes."""
    state = model.state_dict()
    expected = {short: tuple(state[full].shape) for short, full in _targets(model).items()}
    found = component.shapes()
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(component.plan[key].key for key in found.keys() - expected.keys()) + sorted(component.unknown)
    wrong = sorted(key for key in expected.keys() & found.keys() if expected[key] != found[key])
    lines = []
    if missing:
        lines.append(f"{component.name}: {len(missing)} keys missing ({_some(missing)})")
    if unknown:
        lines.append(f"{component.name}: {len(unknown)} unknown keys ({_some(unknown)})")
    if wrong:
        key = wrong[0]
        lines.append(
            f"{component.name}: {len(wrong)} keys of another shape "
            f"(first {key}: {found[key]}, expected {expected[key]})"
        )
    return lines


def build(components: Sequence[Component], *, dtype: torch.dtype | None) -> dict[str, nn.Module]:
    """Check every component, then fill them one by one. Raises UserError that lists all problems by component."""
    models = {component.name: empty_model(component.name, component.config) for component in components}
    lines = [(part.header.path, line) for part in components for line in problems(part, models[part.name])]
    if lines:
        raise UserError("\n".join([f"{lines[0][0]}: cannot be loaded:", *(f"  {line}" for _, line in lines)]))
    for component in components:
        fill(models[component.name], component, dtype=dtype)
    return models


def main_dtype(component: Component) -> torch.dtype:
    """The floating-point type that most of the component's numbers have in the file; 8-bit files compute in float16."""
    import torch

    counts: dict[str, int] = {}
    for key in {source.key for source in component.plan.values()}:
        info = component.header.tensors[key]
        size = 1
        for length in info.shape:
            size *= length
        if "float" in info.dtype:
            counts[info.dtype] = counts.get(info.dtype, 0) + size
    name = max(counts, key=lambda dtype: counts[dtype], default="float32")
    return torch.float16 if name.startswith("float8") else getattr(torch, name)


def _take(tensor: Tensor, part: Part) -> Tensor:
    if part is Part.CONV_TO_LINEAR:
        return tensor.reshape(tensor.shape[:2])
    if part is Part.TRANSPOSED:
        return tensor.T.contiguous()
    if part in (Part.FIRST, Part.SECOND, Part.THIRD):
        rows = tensor.shape[0] // 3
        first = (Part.FIRST, Part.SECOND, Part.THIRD).index(part) * rows
        return tensor[first : first + rows].clone()  # its own memory, so that each matrix can be moved or freed alone
    return tensor


def fill(model: nn.Module, component: Component, *, dtype: torch.dtype | None) -> None:
    """Give the meta parameters of `model` their values, tensor by tensor: no second copy of the weights exists.

    `dtype=None` keeps the type that most of the component has in the file.
    """
    dtype = dtype or main_dtype(component)
    names = _targets(model)
    users: dict[str, list[str]] = {}
    for target, source in component.plan.items():
        users.setdefault(source.key, []).append(target)
    state: dict[str, Tensor] = {}
    for key, targets in users.items():
        tensor = load_tensors(component.header, [key], dtype=dtype)[key]
        for target in targets:
            state[names[target]] = _take(tensor, component.plan[target].part)
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()
