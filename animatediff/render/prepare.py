"""The models that a request names, before anything is loaded: found, fetched and checked without reading weights.

Of a configuration with many runs, the last one's mistake is raised before the first one is rendered.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from animatediff.bundled import (
    PREFIX,
    bundled_file,
    bundled_path,
    bundled_set,
    is_bundled,
    motion_module_path,
    set_path,
)
from animatediff.errors import UserError, did_you_mean
from animatediff.files import HERE, TINY, Roots
from animatediff.pipelines.arguments import AUTO
from animatediff.render.hub_models import fetch_model, hub_folder
from animatediff.render.models import BUNDLED, loading_dtype, motion_module_of
from animatediff.render.request import AnimateRequest
from animatediff.weights.hub import KNOWN_FILES, cached_folder, fetch, is_hub_id, known_file, motion_lora_file
from animatediff.weights.storage.files import WEIGHT_SUFFIXES

logger = logging.getLogger(__name__)

DEFAULT_BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"

Fetch = Callable[[str], str]
"""From the name of a published file to the file."""
FetchModel = Callable[[str, str], str]
"""From a hub id and the setting that names it to its local folder."""


def complete(
    request: AnimateRequest,
    *,
    roots: Roots = HERE,
    fetched: Fetch | None = None,
    fetched_model: FetchModel | None = None,
) -> AnimateRequest:
    """`request` with the base model filled in and every weight file present; no weights are read.

    Known files and hub ids that are missing are fetched where the request says `download`, by `fetched` and
    `fetched_model`; else they are taken from models/ and the hub's cache alone. Raises UserError for a file that is
    missing or not what its setting wants, for a model without a motion module, and for an unknown scheduler or device.
    """
    if request.scheduler is not None:
        from animatediff.sampling.schedulers import scheduler_class

        scheduler_class(request.scheduler)
    check_device(request.device)
    model = base_of(request, roots)
    of_bundled = is_bundled(model)
    present = partial(
        _present,
        roots=roots,
        fetched=fetched or (lambda name: str(fetch(name, download=request.download, roots=roots))),
        fetched_model=fetched_model or partial(model_here, request=request),
        lora_folders=(set_path(),) if of_bundled else (),
    )
    motion_module = request.motion_module
    if motion_module == BUNDLED:
        motion_module = None if model == BUNDLED else str(motion_module_path())
    if model != BUNDLED:
        model = present(model, "model")
        if motion_module is None and of_bundled:
            motion_module = str(motion_module_path())
        elif motion_module is None and not (Path(model) / "motion_adapter").is_dir():
            raise UserError(
                f"{model}: is an image model, and no motion module is given to make it move; add `motion_module`"
                " (with `download`, v3_sd15_mm.ckpt for SD 1.5 or mm_sdxl_v10_beta.ckpt for SDXL)"
            )
    changes: dict[str, Any] = {"model": model, "motion_module": motion_module}
    for name in ("motion_module", "vae", "text_encoder", "text_encoder_2", "sparsectrl", "camera_control"):
        if (value := changes.get(name, getattr(request, name))) is not None:
            changes[name] = present(value, name)
    for name in ("loras", "motion_loras", "embeddings"):
        changes[name] = tuple(
            ref.model_copy(update={"path": present(ref.path, name)}) for ref in getattr(request, name)
        )
    if (adapter := request.domain_adapter) is not None:
        changes["domain_adapter"] = adapter.model_copy(update={"path": present(adapter.path, "domain_adapter")})
    changes["controlnet"] = tuple(
        present(name, "controlnet") if is_hub_id(name) and not os.path.lexists(name) else name
        for name in request.controlnet
    )
    completed = _with_sparsectrl(request.model_copy(update=changes), roots)
    check_files(completed)
    return completed


def base_of(request: AnimateRequest, roots: Roots = HERE) -> str:
    """The image model of a request, as it is named or by default. Raises UserError as `default_base`."""
    own = request.motion_module in (None, BUNDLED)
    return request.model or (BUNDLED if own else default_base(request.download, roots))


def to_come(name: str, *, download: bool, roots: Roots = HERE) -> str:
    """A `Fetch` that fetches nothing: `name` itself where it may be fetched later. Raises UserError as `fetch`."""
    return str(known_file(name, download=download, roots=roots) or name)


def model_here(name: str, setting: str, *, request: AnimateRequest) -> str:
    """The local folder of a hub id: from the cache, or fetched where the request says so. Raises UserError."""
    found = hub_folder(name, setting, download=request.download)
    return str(found or fetch_model(name, setting, dtype=loading_dtype(request)))


def model_to_come(name: str, setting: str, *, request: AnimateRequest) -> str:
    """The same, but nothing is fetched: `name` itself where it may be fetched later. Raises UserError."""
    return str(hub_folder(name, setting, download=request.download) or name)


def check_device(device: Any) -> None:
    """Raise UserError for a device that this machine does not have; None is none in particular."""
    if device is None:
        return
    import torch

    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise UserError(f"device={device!r}: is no device; expected cpu, cuda, cuda:1, mps, ...") from error
    if (kind == "cuda" and not torch.cuda.is_available()) or (kind == "mps" and not torch.backends.mps.is_available()):
        raise UserError(f"device={device!r}: this machine, or this build of PyTorch, has none; leave `device` out")


def default_base(download: bool, roots: Roots = HERE) -> str:
    """Stable Diffusion 1.5, the base that the original takes where no other is named, if it is in models/.

    Else that of the hub's cache. Raises UserError if it is not there either and may not be fetched.
    """
    for models in roots.models:
        folder = models / "StableDiffusion"
        for candidate in (folder, folder / "stable-diffusion-v1-5"):
            if (candidate / "model_index.json").is_file():
                return str(candidate)
    if download or cached_folder(DEFAULT_BASE) is not None:
        return DEFAULT_BASE
    raise UserError(
        "no image model is given for the motion module: name one with `model` (a .safetensors file, a diffusers folder"
        f" or a hub id such as {DEFAULT_BASE}), put one into models/StableDiffusion, or add `download`"
    )


def _present(
    name: str,
    setting: str,
    *,
    roots: Roots,
    fetched: Fetch,
    fetched_model: FetchModel = lambda name, setting: name,
    lora_folders: tuple[Path, ...] = (),
) -> str:
    """`name` if it is there; a known file or a hub id that is missing is fetched if allowed."""
    if name.startswith(TINY):
        return _tiny(name, setting, roots, fetched_model)
    if setting == "motion_loras":
        name = motion_lora_file(name, *lora_folders, roots=roots)
    path = Path(name)
    if os.path.lexists(path):  # of a link to nothing, its reader says where it leads
        return name
    if name.startswith(PREFIX):
        return str(bundled_file(name))
    if path.suffix.lower() not in WEIGHT_SUFFIXES:
        if is_hub_id(name):
            return fetched_model(name, setting)
        hint = did_you_mean(name, [BUNDLED, *(PREFIX + part for part in bundled_set())]).rstrip()
        raise UserError(f"{name}: no such file or folder (setting {setting}){f'; {hint}' if hint else ''}")
    if setting in ("motion_module", "motion_loras", "domain_adapter", "sparsectrl", "camera_control"):
        return fetched(name)
    raise UserError(f"{name}: no such file (setting {setting})")


def _tiny(name: str, setting: str, roots: Roots, fetched_model: FetchModel) -> str:
    """The tiny VAE of `tiny:NAME`, checked to be one where it is here. Raises UserError."""
    from animatediff.weights.base.tiny_vae import tiny_path, tiny_vae

    if setting != "vae":
        raise UserError(f"{name}: `{TINY}` stands before a tiny VAE (TAESD, `vae`); leave it out of `{setting}`")
    path = tiny_path(name, roots, lambda hub_id: fetched_model(hub_id, setting))
    if Path(path).exists():
        tiny_vae(path)
    return str(path)


def _with_sparsectrl(request: AnimateRequest, roots: Roots) -> AnimateRequest:
    """The request with an RGB encoder that lies in models/SparseCtrl, where its images can make use of one."""
    if not request.images or request.sparsectrl is not None or request.image_mode not in (None, AUTO, "sparsectrl"):
        return request
    if request.image_mode != "sparsectrl" and len(request.images) == 1 and _animates_images(request):
        return request  # the motion module shows it
    from animatediff.weights.sparsectrl import find_rgb_encoder

    model = str(bundled_path()) if request.model == BUNDLED else request.model or ""
    found = find_rgb_encoder(model, [*(models / "SparseCtrl" for models in roots.models), set_path()])
    if found is None:
        if request.image_mode == "sparsectrl":
            from animatediff.pipelines.conditions.routes import Loaded, choose_route

            choose_route("sparsectrl", Loaded())  # which says what is missing
        return request
    logger.info("%s: is an RGB encoder for this base model, so it is used (other routes: `image_mode`)", found)
    return request.model_copy(update={"sparsectrl": str(found)})


def _animates_images(request: AnimateRequest) -> bool:
    """Whether the motion module of a request takes an image (PIA, AnimateLCM-I2V), as far as it lies here."""
    from animatediff.weights.keys import CONV_IN_WEIGHT, ENCODER, motion_keys
    from animatediff.weights.motion import find_header
    from animatediff.weights.recognise import recognise_header

    module = Path(motion_module_of(request))
    if not module.exists():
        return False
    keys = motion_keys(recognise_header(find_header(module)).header.shapes)
    return CONV_IN_WEIGHT in keys or any(key.startswith(ENCODER) for key in keys)


def check_files(request: AnimateRequest) -> None:
    """Raise UserError for a file that its setting does not take, or that was made for another kind of base model.

    Headers are read, no weights. Files on the hub are left alone, nor are files of no known kind refused that their
    loader may know better.
    """
    from animatediff.weights.addons.controlnet import check_controlnet
    from animatediff.weights.addons.embeddings import check_embedding, embedding_file
    from animatediff.weights.addons.ip_adapter import adapter_file, check_ip_adapter
    from animatediff.weights.base.text_width import base_cross_attentions
    from animatediff.weights.lora.load import check_lora
    from animatediff.weights.lora.source import lora_header
    from animatediff.weights.recognise import check_setting, recognise, recognise_header

    bases = base_kinds(request.model)
    if not Path(request.model or "").is_file():
        for name in ("use_ema", "prediction_type"):
            if getattr(request, name) and not (name == "prediction_type" and states_sampling(request)):
                raise UserError(
                    f"`{name}` is a setting of single files, but the model is {request.model}; leave it out"
                )
    _check_motion_module(request, bases)
    adapter = () if request.domain_adapter is None else (request.domain_adapter,)
    loras = (("loras", request.loras), ("motion_loras", request.motion_loras), ("domain_adapter", adapter))
    for setting, refs in loras:
        for ref in refs:
            if not _is_to_come(ref.path):
                header = lora_header(ref.path)
                check_setting(recognise_header(header), setting, bases=bases)
                check_lora(header)
    for setting in ("vae", "text_encoder", "text_encoder_2"):
        file = getattr(request, setting)
        if file is not None and not Path(file).is_dir() and not _is_to_come(file):
            check_setting(recognise(file), setting, bases=bases)
    for embedding in request.embeddings:
        if _is_to_come(embedding.path):
            continue
        check_setting(recognise(embedding_file(embedding.path)), "embeddings", bases=bases)
        check_embedding(embedding.path, num_text_encoders=(1 + ("sdxl" in bases)) if bases else None)
    _check_sparsectrl(request, bases)
    if request.camera_control is not None and not _is_to_come(request.camera_control):
        check_setting(recognise(request.camera_control), "camera_control", bases=bases)
    model = bundled_path() if request.model == BUNDLED else Path(request.model or "")
    base = base_cross_attentions(model) if request.controlnet or request.ip_adapter else []
    for path in request.controlnet:
        if _is_to_come(path):
            continue
        if Path(path).is_file():
            check_setting(recognise(path), "controlnet", bases=bases)
        check_controlnet(path, text_width=base[0][1] if base else None)
    if request.ip_adapter is not None:
        check_setting(recognise(adapter_file(request.ip_adapter)), "ip_adapter", bases=bases)
        check_ip_adapter(request.ip_adapter, request.ip_adapter_encoder, base=base)


def _is_to_come(path: str) -> bool:
    """Whether a completed name has yet to be fetched."""
    return not Path(path).exists() and (path in KNOWN_FILES or (is_hub_id(path) and not os.path.lexists(path)))


def states_sampling(request: AnimateRequest) -> bool:
    """Whether weights of a request state that they were trained to another prediction, which a user may overrule."""
    from animatediff.weights.lora.source import lora_header
    from animatediff.weights.motion import find_header
    from animatediff.weights.trained_with import trained_with

    loras = [ref.path for ref in request.all_loras if Path(ref.path).exists()]
    others = [path for path in (request.motion_module, request.sparsectrl) if path is not None and Path(path).exists()]
    headers = [*map(find_header, others), *map(lora_header, loras)]
    return any(map(trained_with, headers))


def base_kinds(model: str | None) -> tuple[str, ...]:
    """The kinds of base model that a model which is here may be (`kinds.BASE_TITLES`); empty where nothing tells it.

    Raises UserError for a single file that is no base model.
    """
    from animatediff.weights.base.single_file import require_base
    from animatediff.weights.base.text_width import base_text_width
    from animatediff.weights.names import BY_WIDTH
    from animatediff.weights.storage.files import read_header

    path = Path(model or "")
    if path.is_file():
        return (require_base(read_header(path)),)
    if not (path / "unet").is_dir():
        return ()
    if (path / "text_encoder_2").is_dir():
        return ("sdxl",)
    base = BY_WIDTH.get(base_text_width(path) or 0)
    return ("sd1", "sd2") if base in (None, "sdxl") else (base,)


def _check_motion_module(request: AnimateRequest, bases: tuple[str, ...]) -> None:
    if request.motion_module is None or not os.path.lexists(request.motion_module):
        return
    from animatediff.weights.motion import check_family, find_header, other_base
    from animatediff.weights.recognise import recognise_header

    found = recognise_header(find_header(request.motion_module))
    check_family(found, request.family)
    if not bases or found.base is None or request.family is not None:
        return
    made_for, given = ("SDXL" if sdxl else "SD 1.x" for sdxl in (found.base == "sdxl", "sdxl" in bases))
    if made_for != given:
        raise other_base(found.header.path, made_for, given)


def _check_sparsectrl(request: AnimateRequest, bases: tuple[str, ...]) -> None:
    if request.sparsectrl is None or not os.path.lexists(request.sparsectrl):  # a hub id, or to be fetched
        return
    from animatediff.weights.motion import find_header
    from animatediff.weights.recognise import check_setting, recognise_header, wrong_kind

    found = recognise_header(find_header(request.sparsectrl))
    if found.kind == "unknown":
        raise wrong_kind(found, "sparsectrl")
    check_setting(found, "sparsectrl", bases=bases)
    if found.variant == "scribble" and not request.control_images:
        raise UserError(
            f"{request.sparsectrl}: takes sketches (scribble encoder), and none are given; add `control_images`. "
            "Images to be shown go by the RGB encoder, or by `image_mode` latents without one"
        )
    if found.variant == "rgb" and request.control_preprocess != "none":
        raise UserError(
            f"control_preprocess={request.control_preprocess!r} makes sketches, but {request.sparsectrl} takes "
            "images (RGB encoder); leave `control_preprocess` out, or give it the scribble encoder"
        )
