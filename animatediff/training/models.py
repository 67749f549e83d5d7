"""The base model of a run: loaded whole in float32, then its frozen parts cast to the precision of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from animatediff.errors import UserError

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.config import TrainConfig

logger = logging.getLogger(__name__)


def model_source(model: str) -> Path:
    """The file or folder that a model name means; a hub id is fetched (only that uses the network)."""
    from animatediff.bundled import bundled_path, named
    from animatediff.weights.base.folder import download_base
    from animatediff.weights.hub import is_hub_id

    path = Path(named(model)).expanduser()
    if model == "bundled":
        return bundled_path()
    return path if path.exists() or not is_hub_id(model) else download_base(model)


def tokenizer_of(config: TrainConfig) -> Any:
    """The tokenizer of the base model, where that is a folder here; None elsewhere, also where it cannot be read."""
    from transformers import CLIPTokenizer

    from animatediff.bundled import bundled_path, named

    try:
        folder = bundled_path() if config.model == "bundled" else Path(named(config.model)).expanduser()
        return CLIPTokenizer.from_pretrained(folder / "tokenizer") if (folder / "tokenizer").is_dir() else None
    except (UserError, OSError, ValueError, RuntimeError):  # which loading the model says
        return None


def load_pipeline(config: TrainConfig) -> AnimateDiffPipeline:
    """Load the base model of the configuration, without motion modules. Raises UserError where it is no such model."""
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import guidance_width
    from animatediff.weights.base.unet import load_unet

    supplied: dict[str, Any] = {} if config.vae is None else {"vae": config.vae}
    pipe = AnimateDiffPipeline.from_pretrained(model_source(config.model), torch_dtype=torch.float32, **supplied)
    if config.new_unet:
        pipe.unet = type(pipe.unet).from_config(pipe.unet.config)
    if config.unet is not None:
        load_unet(pipe.unet, config.unet)
    if guidance_width(pipe.unet) is not None:
        logger.warning("%s: distilled by LCM; it is trained without its guidance embedding", config.model)
    pipe.set_progress_bar_config(disable=True)
    check_size(config, pipe)
    return pipe


def check_size(config: TrainConfig, pipe: AnimateDiffPipeline) -> None:
    """Raise UserError for clips of a size that the VAE does not divide."""
    factor = base_pipeline(pipe).vae_scale_factor
    for name in ("height", "width"):
        if (size := getattr(config.data, name)) % factor:
            raise UserError(f"data.{name}={size}: must be a multiple of {factor}, as the VAE of the model divides it")


def base_pipeline(pipe: AnimateDiffPipeline) -> Any:
    """diffusers' pipeline of the base model, `StableDiffusionPipeline` or `StableDiffusionXLPipeline`."""
    return pipe.base


def text_encoders(pipe: AnimateDiffPipeline) -> list[nn.Module]:
    """The text encoders of the base model: one, or SDXL's two."""
    base = base_pipeline(pipe)
    encoders = (getattr(base, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [encoder for encoder in encoders if encoder is not None]


def cast_frozen(pipe: AnimateDiffPipeline, trained: Iterable[nn.Parameter], dtype: torch.dtype) -> None:
    """Convert every weight that does not train to `dtype`; a VAE that overflows in float16 stays as it is."""
    kept = {id(parameter) for parameter in trained}
    for parameter in pipe.unet.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
    overflows = dtype == torch.float16 and bool(pipe.vae.config.get("force_upcast"))
    parts: list[Any] = [*text_encoders(pipe), *([] if overflows else [pipe.vae])]
    for part in parts:
        if part.dtype != dtype:
            part.to(dtype)
