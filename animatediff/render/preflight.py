"""Look into every weight file that a request names before the first one is loaded: headers alone, so it takes no time.

Of a configuration with many runs, the last one's mistake is told before the first one is rendered.
"""

from __future__ import annotations

from pathlib import Path

from animatediff.errors import UserError
from animatediff.render.request import AnimateRequest
from animatediff.weights.base.single_file import generation_of
from animatediff.weights.lora.load import lora_file
from animatediff.weights.motion import find_header, other_base
from animatediff.weights.recognise import Recognised, recognise, recognise_header, wrong_kind
from animatediff.weights.storage.files import read_header

LORAS = ("lora", "motion_lora", "domain_adapter")


def check_files(request: AnimateRequest) -> None:
    """Raise UserError for a file that is not what its setting wants, or a motion module for another kind of base model.

    What is on the hub is not looked at, nor are files of no known kind refused that their loader may know better.
    """
    sdxl = _is_sdxl(request.model)
    if not Path(request.model or "").is_file():
        for name in ("use_ema", "prediction_type"):
            if getattr(request, name):
                raise UserError(f"{name} is a setting of single files, but the model is {request.model}; leave it out")
    if request.motion_module is not None and Path(request.motion_module).exists():
        found = recognise_header(find_header(request.motion_module))
        if found.kind != "motion_module":
            raise wrong_kind(found, "motion_module")
        made_for = found.family.base if found.family is not None else None
        if sdxl is not None and made_for is not None and request.family is None and sdxl != (made_for == "sdxl"):
            raise other_base(
                found.header.path, "SDXL" if made_for == "sdxl" else "SD 1.x", "SDXL" if sdxl else "SD 1.x"
            )
    adapter = () if request.domain_adapter is None else (request.domain_adapter,)
    for setting, refs in (("lora", request.loras), ("motion_lora", request.motion_loras), ("domain_adapter", adapter)):
        for ref in refs:
            _check(recognise(lora_file(ref.path)), LORAS, setting)
    if request.vae is not None and not Path(request.vae).is_dir():
        _check(recognise(request.vae), ("vae", "base_model"), "vae")
    for encoder in (request.text_encoder, request.text_encoder_2):
        if encoder is not None and not Path(encoder).is_dir():
            read_header(encoder)
    for embedding in request.embeddings:
        read_header(embedding.path)


def _check(found: Recognised, kinds: tuple[str, ...], wanted: str) -> None:
    if found.kind not in (*kinds, "unknown"):
        raise wrong_kind(found, wanted)


def _is_sdxl(model: str | None) -> bool | None:
    """Whether a base model that is here is SDXL; None where that cannot be seen."""
    path = Path(model or "")
    if path.is_file():
        return generation_of(read_header(path)) == "sdxl"
    if (path / "unet").is_dir():
        return (path / "text_encoder_2").is_dir()
    return None
