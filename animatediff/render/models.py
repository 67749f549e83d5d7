"""The model of a request: which it is, and its loading, part by part."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.files import parse_yaml, read_text
from animatediff.render.options import MODEL_OPTIONS, PATH_FIELDS
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    import torch

    from animatediff.pipelines import AnimateDiffPipeline

logger = logging.getLogger(__name__)

BUNDLED = "bundled"

BASE_SETTINGS = ("vae", "text_encoder", "text_encoder_2", "prediction_type", "use_ema")
"""Settings of the image model, as `weights.base.load_base` calls them."""

AfterPart = Callable[[int, int], None]
"""(parts loaded, of how many); may raise to end the loading."""


@dataclass(frozen=True)
class ModelSpec:
    """Key of a loaded model: equal for two requests that one model serves; a changed file makes another one."""

    settings: AnimateRequest
    """A complete request with every setting that does not belong to the model at its default."""
    files: tuple[tuple[str, int, int], ...]
    """(path, time of change in ns, bytes) of every file that it names, those in folders included."""

    @classmethod
    def of(cls, request: AnimateRequest) -> ModelSpec:
        """The model of a complete request, with its files as they are now."""
        others = {
            name: field.get_default(call_default_factory=True)
            for name, field in AnimateRequest.model_fields.items()
            if name not in MODEL_OPTIONS and not field.is_required()
        }
        settings = request.model_copy(update={**others, "prompt": ("",)})
        return cls(settings, tuple(sorted(_stamp(file) for path in _paths(settings) for file in _files(path))))


def _paths(settings: AnimateRequest) -> Iterator[Path]:
    """Files and folders of a model."""
    for name in PATH_FIELDS:
        if name not in MODEL_OPTIONS or (value := getattr(settings, name)) is None:
            continue
        for item in value if isinstance(value, tuple) else (value,):
            path = getattr(item, "path", item)
            yield bundled_path() if path == BUNDLED else Path(path)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path


def _stamp(file: Path) -> tuple[str, int, int]:
    state = file.stat()
    return str(file.absolute()), state.st_mtime_ns, state.st_size


def load_model(spec: ModelSpec, after_part: AfterPart = lambda done, total: None) -> AnimateDiffPipeline:
    """Load the model of a complete request. Raises UserError for files of another kind."""
    from animatediff.pipelines.placement import compute_on
    from animatediff.pipelines.precision import default_device

    settings = spec.settings
    device = settings.device or str(default_device())
    pipe = _load_base(settings, device)
    if settings.scheduler is not None:
        pipe.set_scheduler(settings.scheduler)
    pipe.sampler.check()
    steps = _additions(pipe, settings)
    for number, step in enumerate(steps, start=1):
        after_part(number, len(steps) + 1)
        step()
    if settings.cpu_offload and not device.startswith("cpu"):
        pipe.enable_model_cpu_offload(device=device)
    else:
        if settings.cpu_offload:
            logger.warning("`cpu_offload` does nothing here: the whole model is on the CPU already")
        if device.startswith(("cpu", "mps")):
            pipe.to(device)
        else:
            compute_on(pipe, device)  # the first clip says how much of the model goes there
    if settings.compile:
        pipe.enable_compile()
    pipe.set_progress_bar_config(disable=True)
    after_part(len(steps) + 1, len(steps) + 1)
    return pipe


def _load_base(settings: AnimateRequest, device: str) -> AnimateDiffPipeline:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.precision import as_dtype

    assert settings.model is not None
    parts = base_settings(settings, settings.model)
    if settings.model == BUNDLED:
        pipe = AnimateDiffPipeline.from_bundled(torch_dtype=settings.dtype or "float32", **parts)
    else:
        pipe = AnimateDiffPipeline.from_pretrained(
            settings.model, torch_dtype=as_dtype(settings.dtype, device), motion_adapter=None, **parts
        )
    pipe.sampler.asked = asked_sampling(settings)
    return pipe


def loading_dtype(settings: AnimateRequest) -> torch.dtype:
    """The number format in which the model of a request is loaded, by which the variant to fetch is chosen."""
    from animatediff.pipelines.precision import as_dtype, default_device

    return as_dtype(settings.dtype, settings.device or str(default_device()))


def base_settings(settings: AnimateRequest, model: str | Path) -> dict[str, Any]:
    """The settings of the image model in a request, as its loader takes them; a folder states its own prediction."""
    found = {name: value for name in BASE_SETTINGS if (value := getattr(settings, name))}
    return found if Path(model).is_file() else {k: v for k, v in found.items() if k != "prediction_type"}


def asked_sampling(settings: AnimateRequest) -> dict[str, Any]:
    """Settings of the noise schedule that a request states, which stand against what weights state."""
    return {} if settings.prediction_type is None else {"prediction_type": settings.prediction_type}


def _additions(pipe: AnimateDiffPipeline, settings: AnimateRequest) -> list[Callable[[], object]]:
    """The loading of each part beside the base model, in order."""
    steps: list[Callable[[], object]] = []
    if settings.motion_module is not None or settings.model != BUNDLED:
        motion_module = motion_module_of(settings)
        steps.append(partial(pipe.load_motion_module, motion_module, **module_settings(settings)))
    if settings.inference_config is not None:
        path = settings.inference_config
        steps.append(lambda: compare_inference_config(path, pipe.family))
    if settings.sparsectrl is not None:
        steps.append(partial(_load_sparsectrl, pipe, settings.sparsectrl, settings.sparsectrl_config))
    if settings.camera_control is not None:
        steps.append(partial(pipe.load_camera_control, settings.camera_control))
    for embedding in settings.embeddings:
        steps.append(partial(pipe.load_textual_inversion, embedding.path, token=embedding.token))
    if (adapter := settings.domain_adapter) is not None:
        steps.append(partial(pipe.load_lora_weights, adapter.path, scale=adapter.scale))
    for number, ref in enumerate((*settings.loras, *settings.motion_loras)):
        # Names must differ where several files of one kind are loaded, and are of letters, digits, _ and -.
        name = re.sub(r"[^\w-]", "_", f"lora_{number}_{Path(ref.path).stem}")
        steps.append(partial(pipe.load_lora_weights, ref.path, adapter_name=name, scale=ref.scale))
    steps += [partial(pipe.load_controlnet, path) for path in settings.controlnet]
    if settings.ip_adapter is not None:
        steps.append(partial(pipe.load_ip_adapter_file, settings.ip_adapter, image_encoder=settings.ip_adapter_encoder))
        steps.append(partial(pipe.set_ip_adapter_scale, settings.ip_adapter_scale))
    return steps


def motion_module_of(settings: AnimateRequest) -> str | Path:
    """The motion module of a complete request: its own, the bundled one, or that of a whole pipeline's folder."""
    if settings.motion_module is not None:
        return settings.motion_module
    return motion_module_path() if settings.model == BUNDLED else Path(settings.model or "") / "motion_adapter"


def module_settings(settings: AnimateRequest) -> dict[str, Any]:
    """Settings of a request with which its motion module is loaded."""
    return {"family": settings.family, "conv_in_from_file": settings.conv_in_from_file or None}


def compare_configs(settings: AnimateRequest, pipe: AnimateDiffPipeline) -> None:
    """Compare the original's YAML files of a request with what is known from the weights."""
    if settings.inference_config is not None:
        compare_inference_config(settings.inference_config, pipe.family)
    if settings.sparsectrl_config is not None and pipe.sparsectrl is not None:
        compare_sparsectrl_config(settings.sparsectrl_config, pipe.sparsectrl.kind)


def _load_sparsectrl(pipe: AnimateDiffPipeline, path: str, config: str | None) -> None:
    kind = pipe.load_sparsectrl(path)
    if config is not None:
        compare_sparsectrl_config(config, kind)


def compare_inference_config(path: str, family: Any) -> None:
    """Say that an inference YAML of the original is not needed, and warn where it contradicts the weights."""
    if not Path(path).is_file():
        logger.info("%s: is not needed, what it would say is known from the weights", path)
        return
    data, _ = parse_yaml(read_text(Path(path)), path)
    data = data if isinstance(data, Mapping) else {}
    differences = [] if family is None else list(contradictions(data, family))
    for name, told, known in differences:
        logger.warning(
            "%s: %s is %s, but this motion module was trained with %s, which is used", path, name, told, known
        )
    if not differences:
        logger.info("%s: is not needed, what it says is known from the weights", path)


def contradictions(data: Mapping[str, Any], family: Any) -> list[tuple[str, Any, Any]]:
    """(setting, its value in the inference YAML, its value in the family's training) wherever the two differ."""
    found = []
    schedule = data.get("noise_scheduler_kwargs")
    for name, known in (family.betas or {}).items():
        if isinstance(schedule, Mapping) and name in schedule and schedule[name] != known:
            found.append((name, schedule[name], known))
    unet = data.get("unet_additional_kwargs")
    if isinstance(unet, Mapping) and family.betas is not None:
        inflated = bool(unet.get("use_inflated_groupnorm", False))  # True in the original means per frame
        if inflated == family.numerics.image_norm_over_frames:
            found.append(("use_inflated_groupnorm", inflated, not inflated))
    return found


def compare_sparsectrl_config(path: str, kind: str) -> None:
    """Warn where a SparseCtrl YAML of the original contradicts the encoder's own file, which counts."""
    if not Path(path).is_file():
        logger.info("%s: is not needed, what it would say is known from the weights", path)
        return
    data, _ = parse_yaml(read_text(Path(path)), path)
    settings: Any = data.get("controlnet_additional_kwargs") if isinstance(data, Mapping) else None
    simple = settings.get("use_simplified_condition_embedding") if isinstance(settings, Mapping) else None
    if simple is not None and bool(simple) != (kind == "rgb"):
        logger.warning("%s: is for the other kind of SparseCtrl encoder; this one is %s, which is used", path, kind)
    else:
        logger.info("%s: is not needed, what it says is known from the weights", path)
