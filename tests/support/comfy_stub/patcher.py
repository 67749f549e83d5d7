"""`comfy.model_patcher`, `comfy.patcher_extension` and `comfy.model_management`: patchers that share a model.

A model is loaded through one patcher at a time. That one's injections stay in it until the host loads another patcher
of the same model or frees it, and a clone of an injected patcher counts as injected, as in ComfyUI.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


class WrappersMP:
    OUTER_SAMPLE = "outer_sample"
    PREPARE_SAMPLING = "prepare_sampling"
    SAMPLER_SAMPLE = "sampler_sample"
    APPLY_MODEL = "apply_model"
    DIFFUSION_MODEL = "diffusion_model"


class WrapperExecutor:
    """A function with wrappers round it, the first one outside."""

    def __init__(self, original: Any, class_obj: Any, wrappers: list[Any]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.wrappers:
            return self.original(*args, **kwargs)
        return self.wrappers[0](WrapperExecutor(self.original, self.class_obj, self.wrappers[1:]), *args, **kwargs)


class PatcherInjection:
    def __init__(self, inject: Any, eject: Any) -> None:
        self.inject, self.eject = inject, eject


def get_all_wrappers(kind: str, options: dict[str, Any]) -> list[Any]:
    return [one for several in options.get("wrappers", {}).get(kind, {}).values() for one in several]


def copy_nested_dicts(given: dict[Any, Any]) -> dict[Any, Any]:
    """A copy down to the lists; their entries are shared."""
    copied = {}
    for key, value in given.items():
        copied[key] = copy_nested_dicts(value) if isinstance(value, dict) else value
        if isinstance(value, list):
            copied[key] = list(value)
    return copied


class LoRAAdapter:
    def __init__(self, loaded_keys: set[str], weights: tuple[Any, ...]) -> None:
        self.loaded_keys, self.weights = loaded_keys, weights

    def added(self, weight: Tensor, strength: float) -> Tensor:
        up, down, alpha, *_ = self.weights
        change = up.float().flatten(1) @ down.float().flatten(1)
        return weight + (strength * alpha / down.shape[0]) * change.view_as(weight)


class ModelPatcher:
    def __init__(self, model: nn.Module, load_device: Any, offload_device: Any) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        model.device = offload_device  # type: ignore[assignment]
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.patches: dict[str, list[Any]] = {}
        self.object_patches: dict[str, Any] = {}
        self.backup: dict[str, Tensor] = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.attachments: dict[str, Any] = {}
        self.additional_models: dict[str, list[ModelPatcher]] = {}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.injections: dict[str, list[PatcherInjection]] = {}
        self.is_injected = False

    def clone(self) -> ModelPatcher:
        other = type(self)(self.model, self.load_device, self.offload_device)
        other.model_options = copy_nested_dicts(self.model_options)
        other.patches = {key: list(value) for key, value in self.patches.items()}
        other.object_patches = dict(self.object_patches)
        other.backup, other.object_patches_backup = self.backup, self.object_patches_backup
        other.attachments = dict(self.attachments)
        other.additional_models = {key: [one.clone() for one in value] for key, value in self.additional_models.items()}
        other.wrappers = copy_nested_dicts(self.wrappers)
        other.injections = {key: list(value) for key, value in self.injections.items()}
        other.is_injected = self.is_injected
        return other

    def is_clone(self, other: ModelPatcher) -> bool:
        return self.model is other.model

    def is_dynamic(self) -> bool:
        return False

    def get_free_memory(self, device: Any) -> float:
        return float("inf")

    def model_state_dict(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def add_patches(self, patches: dict[str, Any], strength_patch: float = 1.0) -> list[str]:
        known = self.model.state_dict()
        for key, patch in patches.items():
            if key in known:
                self.patches.setdefault(key, []).append((strength_patch, patch))
        return [key for key in patches if key in known]

    def add_object_patch(self, name: str, obj: Any) -> None:
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        if name in self.object_patches:
            return self.object_patches[name]
        return self.object_patches_backup[name] if name in self.object_patches_backup else getattr(self.model, name)

    def set_attachments(self, key: str, attachment: Any) -> None:
        self.attachments[key] = attachment

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def set_injections(self, key: str, injections: list[PatcherInjection]) -> None:
        self.injections[key] = injections

    def set_additional_models(self, key: str, patchers: list[ModelPatcher]) -> None:
        self.additional_models[key] = patchers

    def get_additional_models_with_key(self, key: str) -> list[ModelPatcher]:
        return self.additional_models.get(key, [])

    def get_nested_additional_models(self) -> list[ModelPatcher]:
        found = [one for several in self.additional_models.values() for one in several]
        return found + [inner for one in found for inner in one.get_nested_additional_models()]

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def inject_model(self) -> None:
        if self.is_injected:
            return
        for injection in (one for several in self.injections.values() for one in several):
            injection.inject(self)
            self.is_injected = True

    def eject_model(self) -> None:
        if not self.is_injected:
            return
        for injection in (one for several in self.injections.values() for one in several):
            injection.eject(self)
        self.is_injected = False

    def partially_load(self) -> None:
        """Bring what this patcher changes into the model."""
        self.eject_model()
        self.unpatch()
        for name, obj in self.object_patches.items():
            self.object_patches_backup[name] = getattr(self.model, name)
            setattr(self.model, name, obj)
        state = self.model.state_dict()
        for key, patches in self.patches.items():
            self.backup[key] = state[key].clone()
            weight = state[key].float()
            for strength, patch in patches:
                is_lora = isinstance(patch, LoRAAdapter)
                weight = patch.added(weight, strength) if is_lora else weight + strength * patch[1][0].float()
            state[key].copy_(weight)
        self.inject_model()

    def unpatch(self) -> None:
        state = self.model.state_dict()
        for key in list(self.backup):
            state[key].copy_(self.backup.pop(key))
        for name in list(self.object_patches_backup):
            setattr(self.model, name, self.object_patches_backup.pop(name))

    def detach(self, unpatch_all: bool = True) -> None:
        self.eject_model()
        if unpatch_all:
            self.unpatch()

    def pre_run(self) -> None:
        self.model.current_patcher = self  # type: ignore[assignment]

    def cleanup(self) -> None:
        self.model.current_patcher = None  # type: ignore[assignment]

    def __del__(self) -> None:
        self.detach(unpatch_all=False)


CoreModelPatcher = ModelPatcher
_LOADED: list[weakref.ref[ModelPatcher]] = []


def load_models_gpu(patchers: list[ModelPatcher]) -> None:
    for patcher in dict.fromkeys(patchers):
        for loaded in [one for one in _LOADED if (found := one()) is None or found.is_clone(patcher)]:
            _LOADED.remove(loaded)
            if (before := loaded()) is not None:
                before.detach(unpatch_all=False)
        patcher.partially_load()
        _LOADED.append(weakref.ref(patcher))


def loaded_models(only_currently_used: bool = False) -> list[ModelPatcher]:
    return [found for one in _LOADED if (found := one()) is not None]


def unload_all_models() -> None:
    for patcher in loaded_models():
        patcher.detach()
    _LOADED.clear()


def get_torch_device() -> torch.device:
    return CPU


def unet_offload_device() -> torch.device:
    return CPU


def unet_dtype(device: Any = None) -> torch.dtype:
    return torch.float32


def unet_manual_cast(weight_dtype: torch.dtype, inference_device: Any) -> torch.dtype | None:
    return None


def archive_model_dtypes(model: nn.Module) -> None:
    """Real hosts note the types of the weights, which the stub never moves."""


def cast_to_device(tensor: Tensor, device: Any, dtype: Any) -> Tensor:
    return tensor.to(device=device, dtype=dtype)
