"""State of a sampler as plain values and tensors: what a saved render holds, and how it is put back.

A file of it may come from anyone: names, types and shapes are checked before a scheduler gets them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

CONFIG = "_internal_dict"
"""A scheduler's settings, which no step changes."""
LONGEST = 1 << 17
"""Entries of a scheduler's tables and lists at most; those of 1000 timesteps have 1001."""


class Unsavable(Exception):  # noqa: N818 - a finding about an object
    """An object keeps something that is neither number, text nor tensor."""


class BadState(ValueError):  # noqa: N818 - a finding about a file
    """A saved state does not hold what it should."""


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it; its tensors, on the CPU, go into `tensors`. Raises Unsavable for other objects."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.generic):
        return {"numpy": _keep(torch.from_numpy(np.asarray(value).reshape(1)), tensors)}
    if isinstance(value, np.ndarray):
        return {"array": _keep(torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape), tensors)}
    if isinstance(value, Tensor):
        return {"tensor" if value.device.type == "cpu" else "device": _keep(value, tensors)}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: pack(item, tensors) for key, item in value.items()}}
    raise Unsavable(type(value).__name__)


def _keep(tensor: Tensor, tensors: dict[str, Tensor]) -> str:
    name = str(len(tensors))
    tensors[name] = tensor.detach().to("cpu", copy=True).contiguous()
    return name


def unpack(value: Any, tensors: Mapping[str, Tensor], device: torch.device | str) -> Any:
    """What `pack` was given; tensors that were not on the CPU go to `device`. Raises BadState."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [unpack(item, tensors, device) for item in value]
    if not isinstance(value, Mapping) or len(value) != 1:
        raise BadState("an entry of no known kind")
    ((kind, content),) = value.items()
    if kind == "float" and content in ("inf", "-inf", "nan"):
        return float(content)
    if kind == "tuple" and isinstance(content, list):
        return tuple(unpack(item, tensors, device) for item in content)
    if kind == "dict" and isinstance(content, Mapping):
        return {key: unpack(item, tensors, device) for key, item in content.items()}
    if not isinstance(content, str) or content not in tensors:
        raise BadState("an entry without its tensor")
    tensor = tensors[content]
    if kind == "numpy" and tensor.numel() == 1:
        return tensor.numpy()[0]
    if kind in ("array", "tensor", "device"):
        return tensor.numpy() if kind == "array" else tensor.to(device) if kind == "device" else tensor
    raise BadState("an entry of no known kind")


# -- schedulers and generators -----------------------------------------------------------------------------------------


def scheduler_state(scheduler: Any, latents: Tensor) -> dict[str, Any]:
    """Everything that a scheduler of diffusers keeps between steps, its tables among them. latents: (b, c, f, h, w).

    Tensors of other shapes were left by a clip before this one, and no step of this one reads them.
    """
    kept = vars(scheduler).items()
    return {name: value for name, value in kept if name != CONFIG and _fault(value, tuple(latents.shape)) is None}


def restore_scheduler(scheduler: Any, state: Mapping[str, Any], latents: Tensor) -> None:
    """Put back what `scheduler_state` found, once the same steps are laid out. latents: (b, c, f, h, w).

    Raises BadState, with the scheduler as it is, for names that a scheduler of this class does not keep, and for values
    of another kind.
    """
    for name, value in state.items():
        of_class = getattr(type(scheduler), name, None)
        if name == CONFIG or not name.isidentifier() or callable(of_class) or isinstance(of_class, property):
            raise BadState(f"{name[:40]!r} is nothing that {type(scheduler).__name__} keeps")
        before = vars(scheduler).get(name)
        if isinstance(before, Tensor | list) and value is not None and type(value) is not type(before):
            raise BadState(f"{name[:40]!r} is of another kind")
        if fault := _fault(value, tuple(latents.shape)):
            raise BadState(f"a scheduler's {fault}")
    vars(scheduler).update(state)


def _fault(value: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with a value: tensors are tables, or of the latents' shape."""
    if isinstance(value, Tensor | np.ndarray):
        fits = tuple(value.shape) == shape or (value.ndim <= 1 and math.prod(value.shape) <= LONGEST)
        return None if fits else "tensor of another shape"
    if isinstance(value, Mapping):
        return _fault(list(value.values()), shape)
    if isinstance(value, list | tuple):
        if len(value) > LONGEST:
            return "list that is too long"
        return next((fault for item in value if (fault := _fault(item, shape))), None)
    return None


def generator_states(generators: Sequence[torch.Generator]) -> list[Tensor]:
    """States of the generators of a call, one a clip."""
    return [generator.get_state() for generator in generators]


def restore_generators(generators: Sequence[torch.Generator], states: Any) -> None:
    """Put back what `generator_states` found. Raises BadState."""
    if not isinstance(states, list) or len(states) != len(generators):
        raise BadState("not a generator's state for each clip")
    try:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise BadState(f"a generator's state: {str(error).splitlines()[0]}") from None


def tensor_of(state: Mapping[str, Any], name: str, shape: Sequence[int]) -> Tensor:
    """A float32 tensor of this shape. Raises BadState where the state has none."""
    value = state.get(name)
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape) or value.dtype != torch.float32:
        raise BadState(f"no tensor {name!r} of {tuple(shape)}")
    return value


def number_of(state: Mapping[str, Any], name: str, below: int) -> int:
    """A whole number from 0, less than `below`. Raises BadState where the state has none."""
    value = state.get(name)
    if type(value) is not int or not 0 <= value < below:
        raise BadState(f"{name!r} is no number from 0 to {below - 1}")
    return value
