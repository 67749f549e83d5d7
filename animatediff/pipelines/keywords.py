"""Keywords of `from_pretrained` and `from_single_file`: ours, and those that users of diffusers write."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from animatediff.errors import UserError, unknown
from animatediff.pipelines.precision import as_dtype, default_device

logger = logging.getLogger(__name__)

MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")
SMALL = ("tokenizer", "tokenizer_2", "scheduler")
LATER = ("feature_extractor", "image_encoder", "controlnet")
"""Parts that are put in when the image model stands."""
OF_PIPELINES = ("force_zeros_for_empty_prompt", "pag_applied_layers")
"""Settings of pipelines of diffusers, set when the image model stands."""
HUB = ("revision", "token", "cache_dir", "force_download", "local_files_only")
OF_FILES = ("prediction_type", "use_ema", "config")
"""Settings of single files."""
NO_EFFECT = {
    "low_cpu_mem_usage": "weights are never in memory twice",
    "trust_remote_code": "no code of a model is ever run",
    "requires_safety_checker": "there is no safety checker in it",
    "load_connected_pipeline": "there are none",
    "resume_download": "downloads always go on from where they ended",
    "add_watermarker": "frames are never marked",
    "original_config": "the weights say what they are",
    "original_config_file": "the weights say what they are",
    "offload_state_dict": "weights are never in memory twice",
    "disable_mmap": "files are read, not mapped",
    "keep_in_fp32_modules": "give a mapping as `torch_dtype` instead",
}
"""Keyword -> why it can be left out: whatever it says, the result is the same."""
REFUSED = {
    "custom_pipeline": "the code of other pipelines is not run",
    "custom_revision": "the code of other pipelines is not run",
    "from_flax": "only PyTorch weights are read; convert them with diffusers first",
    "use_flax": "only PyTorch weights are read; convert them with diffusers first",
    "use_onnx": "only PyTorch weights are read; leave it out",
    "provider": "only PyTorch weights are read; leave it out",
    "sess_options": "only PyTorch weights are read; leave it out",
    "quantization_config": "quantized weights are not supported; give a smaller `torch_dtype`, or offload with "
    "`enable_model_cpu_offload`",
    "max_memory": "models are not spread over devices; call `enable_model_cpu_offload` on the pipeline",
    "offload_folder": "models are not spread over devices; call `enable_model_cpu_offload` on the pipeline",
    "proxies": "set the environment variables HTTP_PROXY and HTTPS_PROXY instead",
    "mirror": "set the environment variable HF_ENDPOINT instead",
    "output_loading_info": "what is missing is an error, and what is left out a warning; leave it out",
}
"""Keyword -> what to do instead, where leaving it out would change the result."""
OURS = ("dtype", "torch_dtype", "device_map", "safety_checker", "use_safetensors", "variant", "subfolder", "family")
CAST = (*MODELS, "controlnet", "image_encoder")
"""Parts that a mapping of number formats may name."""


@dataclass(frozen=True, kw_only=True)
class Keywords:
    """Keywords of a call, sorted by what they are about."""

    dtype: torch.dtype
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    """Part -> its number format, where it is not `dtype`."""
    dtype_is_given: bool = False
    device: torch.device | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Those of `weights.base`: parts that replace the model's, and how to read it."""
    later: Mapping[str, Any] = field(default_factory=dict)
    hub: Mapping[str, Any] = field(default_factory=dict)
    variant: str | None = None
    subfolder: str = ""
    family: str | None = None
    use_safetensors: bool | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Keywords:
        """Sort keywords. Raises UserError for an unknown one, and for one that cannot be done, saying what to do."""
        known = [*MODELS, *SMALL, *LATER, *HUB, *OF_FILES, *NO_EFFECT, *REFUSED, *OURS]
        for name, value in given.items():
            if name not in (*known, *OF_PIPELINES):
                raise unknown("keyword", name, [*known, "motion_adapter"])
            if name in REFUSED and value not in (None, False):
                raise UserError(f"`{name}` cannot be used here: {REFUSED[name]}")
            if name in NO_EFFECT and value is not None:
                logger.info("`%s` makes no difference here: %s", name, NO_EFFECT[name])
        _say_unused(given)
        dtype, dtypes = _dtypes(given)
        stated = any(given.get(name) is not None for name in ("dtype", "torch_dtype"))
        parts = {name: given[name] for name in (*MODELS, *SMALL) if given.get(name) is not None}
        for name in SMALL:
            if isinstance(parts.get(name), str | Path):
                raise UserError(f"`{name}` is an object, such as one made by `from_pretrained` of its class")
        return cls(
            dtype=dtype,
            dtypes=dtypes,
            dtype_is_given=stated,
            device=_device(given.get("device_map")),
            settings=parts | {name: given[name] for name in OF_FILES if given.get(name) is not None},
            later={name: given[name] for name in (*LATER, *OF_PIPELINES) if given.get(name) is not None},
            hub={name: given[name] for name in HUB if given.get(name) not in (None, False)},
            variant=given.get("variant"),
            subfolder=given.get("subfolder") or "",
            family=given.get("family"),
            use_safetensors=given.get("use_safetensors"),
        )

    def as_saved(self, dtypes: Mapping[str, str] | None) -> Keywords:
        """With the number formats that a saved pipeline had, part by part, unless some are given."""
        if self.dtype_is_given or not dtypes:
            return self
        dtype, others = _dtypes({"dtype": {"default": dtypes.get("unet"), **dtypes}})
        return replace(self, dtype=dtype, dtypes={name: value for name, value in others.items() if value != dtype})

    def check_format(self, path: Path) -> None:
        """Raise UserError where `use_safetensors` is asked for and a part of the model is there as a pickle alone."""
        from animatediff.weights.storage.files import read_header
        from animatediff.weights.storage.folders import preferred_weights

        if not self.use_safetensors:
            return
        message = "not in safetensors, which `use_safetensors` asks for; leave it out: pickles are read without running"
        if path.is_file():
            if read_header(path).format != "safetensors":
                raise UserError(f"{path}: {message}")
            return
        for name in MODELS:
            if name in self.settings or not (path / name).is_dir():
                continue
            chosen = preferred_weights([file.name for file in (path / name).iterdir()], variant=self.variant)
            if chosen is not None and chosen.suffix != "safetensors":
                raise UserError(f"{path / name}: {message}")


def _say_unused(given: Mapping[str, Any]) -> None:
    if given.get("safety_checker") is not None:
        logger.warning("`safety_checker` is left out: animations are not checked")
    if given.get("use_safetensors") is False:
        logger.warning("`use_safetensors=False` has no effect: .safetensors are read wherever they are there")


def _dtypes(given: Mapping[str, Any]) -> tuple[torch.dtype, dict[str, torch.dtype]]:
    """The number format of the model, and those of parts that have another."""
    device = default_device()
    name = "torch_dtype" if given.get("dtype") is None else "dtype"
    asked = given.get(name)
    if not isinstance(asked, Mapping):
        return as_dtype(asked, device), {}
    for part in asked:
        if part not in ("default", "motion_adapter", *CAST):
            raise unknown(f"part in `{name}`", part, ("default", *CAST))
    # As in diffusers: float32 where the mapping leaves a part open.
    default = as_dtype(asked.get("default", torch.float32), device)
    dtypes = {part: as_dtype(value, device) for part, value in asked.items() if part not in ("default",)}
    motion, unet = dtypes.pop("motion_adapter", None), dtypes.get("unet", default)
    if motion is not None and motion != unet:
        logger.warning("`%s`: motion modules compute in the number format of the UNet, %s", name, unet)
    return default, dtypes


def _device(asked: Any) -> torch.device | None:
    """The one device of a `device_map`."""
    if isinstance(asked, Mapping):
        devices = {str(value) for value in asked.values()}
        asked = devices.pop() if len(devices) == 1 else "several devices"
    if asked is None or isinstance(asked, torch.device):
        return asked
    try:
        return torch.device(asked)
    except (RuntimeError, TypeError):
        raise UserError(
            f"`device_map`={asked!r}: a model is on one device here, such as `device_map`='cuda'; to save memory call "
            "`enable_model_cpu_offload` on the pipeline"
        ) from None


def hub_settings(given: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Those of the keywords of an addition (a LoRA, an embedding) that are the hub's.

    Raises UserError for an unknown one; those that make no difference are logged.
    """
    harmless = {"low_cpu_mem_usage", "use_safetensors", "prefix", "user_agent", "proxies", "resume_download"}
    found = {}
    for name, value in given.items():
        if name in HUB:
            found |= {name: value} if value not in (None, False) else {}
        elif name in harmless:
            logger.info("`%s` makes no difference to %s", name, method)
        elif name == "hotswap" and value in (None, False):
            continue
        else:
            raise unknown(f"keyword of {method}", name, ("weight_name", "subfolder", "adapter_name", *HUB))
    return found
