"""Identity of a call: by what a saved state is known as its own, with a short hash of each argument and each model."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from animatediff.pipelines.arguments import Arguments
from animatediff.sampling.schedulers import full_config
from animatediff.sampling.state import Unsavable
from animatediff.weights.lora.load import lora_names, uncompiled

if TYPE_CHECKING:
    from animatediff.pipelines.job import Job

DIGITS = 16
SAMPLED = 64
"""Numbers of a weight that are hashed: so many from its first to its last, evenly."""
NO_PART = (
    "generator", "return_dict", "on_progress", "cancel", "callback_on_step_end", "callback_on_step_end_tensor_inputs",
    "resume", "save_every",
)  # fmt: skip
"""Arguments that are no part of what is rendered; generators count by their states."""
OF_A_CALL = ("training", "identity_part", "gradient_checkpointing", "scale")
"""Attributes of modules that a call or a trainer changes for its time; strengths of LoRAs are counted by themselves."""
MODELS = (
    *("unet", "vae", "text_encoder", "text_encoder_2", "image_encoder", "motion_image_encoder", "sparsectrl"),
    "camera_control",
)


def arguments_of(job: Job) -> dict[str, str]:
    """A short hash of each argument that is not its default, generators excepted.

    Raises Unsavable for an argument that holds an object which cannot be compared.
    """
    found = {}
    for item in fields(Arguments):
        value = getattr(job.call, item.name)
        if item.name not in NO_PART and not _is_default(value, item.default):
            try:
                found[item.name] = digest(value)
            except Unsavable as error:
                raise Unsavable(f"`{item.name}` holds an object of type {error}") from None
    return found


def models_of(pipe: Any) -> dict[str, str]:
    """A short hash of each model of a pipeline: names, shapes, settings, and a sample of the weights."""
    found: dict[str, Any] = {name: getattr(pipe, name, None) for name in MODELS}
    found |= {f"controlnet {number}": one for number, one in enumerate(getattr(pipe, "controlnets", ()), start=1)}
    hashes = {name: _of_module(uncompiled(one)) for name, one in found.items() if isinstance(one, nn.Module)}
    config = full_config(pipe.scheduler)
    return {**hashes, "scheduler": digest({k: _plain(v) for k, v in config.items() if k != "_use_default_values"})}


def lora_strengths_of(pipe: Any) -> str:
    """A short hash of the strengths at which LoRAs act now."""
    models = [uncompiled(one) for name in MODELS if isinstance(one := getattr(pipe, name, None), nn.Module)]
    found: list[Any] = [[] for _ in models]
    if lora_names(models):  # PEFT takes seconds to import
        from animatediff.weights.lora.layers import acting_strengths

        found = [list(acting_strengths(model)) for model in models]
    return digest(found)


def versions() -> dict[str, str]:
    """Versions that decide the last bits of a result."""
    import diffusers

    from animatediff import __version__

    return {"AnimateDiff": __version__, "torch": torch.__version__, "diffusers": diffusers.__version__}


def machine_of(device: torch.device) -> dict[str, str]:
    """Versions and kind of device."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
    return {**versions(), "device": name}


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """The entries of two identities that differ, in words. Both are groups of entries: machine, models, arguments."""
    found: list[str] = []
    for group, entries in ours.items():
        before = theirs.get(group)
        known: Mapping[str, Any] = before if isinstance(before, Mapping) else {}
        for name in sorted({*known, *entries}):
            if known.get(name) == entries.get(name):
                continue
            if group == "machine":
                found.append(f"{name} {str(known.get(name))[:40]} (now {entries.get(name)})")
            else:
                found.append("another seed" if name == "generator" else f"another `{name.partition('.')[0]}`")
    return found


# -- hashes ------------------------------------------------------------------------------------------------------------


def digest(value: Any) -> str:
    """A short hash of plain values, arrays, tensors, images and dataclasses of them. Raises Unsavable for others."""
    found = hashlib.sha256()
    for part in _parts(value):
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.hexdigest()[:DIGITS]


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    if value is None or isinstance(value, bool | int | float | str | Path | torch.dtype | np.generic):
        yield f"{type(value).__name__} {value!r}".encode(errors="surrogateescape")
    elif isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}".encode()
        yield _bytes(value)
    elif isinstance(value, np.ndarray):
        if value.dtype == object:
            raise Unsavable("array of objects")
        yield f"array {value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif _is_image(value):
        yield f"image {value.mode} {value.size}".encode()
        yield value.tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key in sorted(value, key=repr):
            yield from _parts(key)
            yield from _parts(value[key])
    elif isinstance(value, Sequence):
        yield f"list {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__.encode()
        for item in fields(value):
            yield item.name.encode()
            yield from _parts(getattr(value, item.name))
    else:
        raise Unsavable(type(value).__name__)


def _is_image(value: Any) -> bool:
    image = sys.modules.get("PIL.Image")  # where nobody has imported it, there is none
    return image is not None and isinstance(value, image.Image)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().to("cpu").contiguous().flatten()
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, bool | int | float | str | tuple) and value == default)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str | list | tuple) else repr(value)


def _of_module(module: nn.Module) -> str:
    found = hashlib.sha256()
    for path, part in module.named_modules():
        settings = {
            name: value
            for name, value in vars(part).items()
            if not name.startswith("_") and name not in OF_A_CALL and isinstance(value, bool | int | float | str)
        }
        processor = getattr(part, "processor", None)
        kind = "" if processor is None else f"{type(processor).__name__} {getattr(processor, 'scale', '')}"
        found.update(f"{path} {type(part).__name__} {sorted(settings.items())} {kind}\n".encode())
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.device.type != "meta" and value.numel():  # hidden by sequential offload
            flat = value.detach().flatten() if value.is_contiguous() else value.detach().reshape(-1)
            found.update(_bytes(flat[:: max(1, flat.numel() // SAMPLED)]))
    return found.hexdigest()[:DIGITS]
