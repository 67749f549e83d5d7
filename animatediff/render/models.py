"""From a request to a pipeline that is ready to render it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.bundled import PREFIX, bundled_file, motion_module_path, set_path
from animatediff.errors import UserError
from animatediff.files import REPOSITORY, parse_yaml, read_text
from animatediff.render.control_images import check_control, compare_config
from animatediff.render.request import AnimateRequest
from animatediff.render.shown_images import check_pictures, with_encoder
from animatediff.render.sources import check_video
from animatediff.weights.hub import WEIGHT_SUFFIXES, fetch, motion_lora_file

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline

logger = logging.getLogger(__name__)

BUNDLED = "bundled"
DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"

BASE_SETTINGS = ("vae", "text_encoder", "text_encoder_2", "prediction_type", "use_ema")
"""Settings of the image model, as `weights.base.load_base` calls them."""

PIPELINE_FIELDS = (
    *("model", "motion_module", "family", "vae", "text_encoder", "text_encoder_2", "prediction_type", "use_ema"),
    *("loras", "motion_loras", "domain_adapter", "embeddings", "sparsectrl", "sparsectrl_config", "scheduler"),
    *("device", "dtype", "cpu_offload", "inference_config"),
    *("ip_adapter", "ip_adapter_encoder", "ip_adapter_scale", "controlnet"),
)
"""Settings that decide the pipeline; requests that agree in them share one."""


def pipeline_key(request: AnimateRequest) -> tuple[Any, ...]:
    """Equal for two requests that one pipeline serves."""
    return tuple(getattr(request, name) for name in PIPELINE_FIELDS)


def complete(request: AnimateRequest) -> AnimateRequest:
    """`request` with the base model filled in and every weight file present; nothing is loaded yet.

    Known files that are missing are fetched where the request says `download`. Raises UserError for a file that is
    missing or not what its setting wants, for a model without a motion module, and for an unknown scheduler or device.
    """
    from animatediff.render.preflight import check_files

    if request.scheduler is not None:
        from animatediff.sampling.schedulers import scheduler_class

        scheduler_class(request.scheduler)
    _check_device(request.device)
    model = request.model or (BUNDLED if request.motion_module is None else default_base(request.download))
    of_bundled = model == BUNDLED or model.startswith(PREFIX)
    motion_module = request.motion_module
    if model != BUNDLED:
        model = _present(model, "model", download=request.download)
        if motion_module is None and of_bundled:
            motion_module = str(motion_module_path())
        elif motion_module is None and not (Path(model) / "motion_adapter").is_dir():
            raise UserError(
                f"{model}: is an image model, and no motion module is given to make it move; add --motion-module FILE"
                " (with --download, `--motion-module v3_sd15_mm.ckpt` for SD 1.5 or mm_sdxl_v10_beta.ckpt for SDXL)"
            )
    changes: dict[str, Any] = {"model": model, "motion_module": motion_module}
    present = partial(_present, download=request.download, lora_folders=(set_path(),) if of_bundled else ())
    for name in ("motion_module", "vae", "text_encoder", "text_encoder_2", "sparsectrl"):
        if (value := changes.get(name, getattr(request, name))) is not None:
            changes[name] = present(value, name)
    for name in ("loras", "motion_loras", "embeddings"):
        changes[name] = tuple(
            ref.model_copy(update={"path": present(ref.path, name)}) for ref in getattr(request, name)
        )
    if (adapter := request.domain_adapter) is not None:
        changes["domain_adapter"] = adapter.model_copy(update={"path": present(adapter.path, "domain_adapter")})
    completed = with_encoder(request.model_copy(update=changes))
    check_files(completed)
    check_control(completed)
    check_video(completed)
    check_pictures(completed)
    return completed


def _check_device(device: str | None) -> None:
    if device is None:
        return
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device={device!r}: is no device; expected cpu, cuda, cuda:1, mps, ...") from error
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise UserError(f"device={device!r}: this machine, or this build of PyTorch, has none; leave --device out")


def default_base(download: bool) -> str:
    """Stable Diffusion 1.5, the base that the original takes where no other is named, if it is in models/.

    Raises UserError if it is not there and may not be fetched.
    """
    for root in (Path(), REPOSITORY):
        folder = root / "models" / "StableDiffusion"
        for candidate in (folder, folder / "stable-diffusion-v1-5"):
            if (candidate / "model_index.json").is_file():
                return str(candidate)
    if download:
        return DEFAULT_BASE
    raise UserError(
        "no image model is given for the motion module: name one with --model (a .safetensors file, a diffusers folder"
        f" or a hub id such as {DEFAULT_BASE}), put one into models/StableDiffusion, or add --download"
    )


def _present(name: str, setting: str, *, download: bool, lora_folders: tuple[Path, ...] = ()) -> str:
    """`name` if it is there or may be a hub id; a known file that is missing is fetched if allowed."""
    if setting == "motion_loras":
        name = motion_lora_file(name, *lora_folders)
    path = Path(name)
    if path.exists():
        return name
    if name.startswith(PREFIX):
        return str(bundled_file(name))
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        if name.count("/") == 1 and not name.startswith((".", "/", "~")):
            return name  # a hub id
        raise UserError(f"{name}: no such file or folder (setting {setting})")
    if setting in ("motion_module", "motion_loras", "domain_adapter", "sparsectrl"):
        return str(fetch(name, download=download))
    raise UserError(f"{name}: no such file (setting {setting})")


def build_pipeline(request: AnimateRequest) -> AnimateDiffPipeline:
    """Load what a `complete` request names. Raises UserError for files that are not what they should be."""
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.precision import as_dtype, default_device

    device = request.device or str(default_device())
    assert request.model is not None
    if request.model == BUNDLED:
        pipe = AnimateDiffPipeline.from_bundled(torch_dtype=request.dtype or "float32")
    else:
        settings = {name: value for name in BASE_SETTINGS if (value := getattr(request, name))}
        pipe = AnimateDiffPipeline.from_pretrained(
            request.model, torch_dtype=as_dtype(request.dtype, device), **settings
        )
        if request.motion_module is None:
            pipe.load_motion_module(Path(request.model) / "motion_adapter", family=request.family)
    if request.motion_module is not None:
        pipe.load_motion_module(request.motion_module, family=request.family)
    if request.inference_config is not None:
        _compare(request.inference_config, pipe.family)
    if request.sparsectrl is not None:
        kind = pipe.load_sparsectrl(request.sparsectrl)
        if request.sparsectrl_config is not None:
            compare_config(request.sparsectrl_config, kind)
    _load_additions(pipe, request)
    for path in request.controlnet:
        pipe.load_controlnet(path)
    if request.ip_adapter is not None:
        pipe.load_ip_adapter_file(request.ip_adapter, image_encoder=request.ip_adapter_encoder)
        pipe.set_ip_adapter_scale(request.ip_adapter_scale)
    if request.scheduler is not None:
        pipe.set_scheduler(request.scheduler)
    if request.cpu_offload and not device.startswith("cpu"):
        pipe.enable_model_cpu_offload(device=device)
    else:
        if request.cpu_offload:
            logger.warning("cpu_offload does nothing here: the whole model is on the CPU already")
        pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _load_additions(pipe: AnimateDiffPipeline, request: AnimateRequest) -> None:
    for embedding in request.embeddings:
        pipe.load_textual_inversion(embedding.path, token=embedding.token)
    if (adapter := request.domain_adapter) is not None:
        pipe.load_lora_weights(adapter.path, scale=adapter.scale)
    for number, ref in enumerate((*request.loras, *request.motion_loras)):
        # Names must differ where several files of one kind are loaded; PEFT takes no dots in them.
        name = f"lora_{number}_{Path(ref.path).stem}".replace(".", "_")
        pipe.load_lora_weights(ref.path, adapter_name=name, scale=ref.scale)


def _compare(path: str, family: Any) -> None:
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
    """(setting, its value in the inference YAML, what the family was trained with) wherever the two differ."""
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
