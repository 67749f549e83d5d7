"""The check of a configuration's models before a run: every file that it names, by header, none of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.bundled import is_bundled, motion_module_path, named
from animatediff.errors import UserError
from animatediff.training.accelerator import check_machine
from animatediff.training.optimizer import check_optimizer
from animatediff.weights.hub import to_be_fetched

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.config import TrainConfig

LORA_KINDS = {"adapter": ("domain_adapter",), "motion_lora": ("motion_lora",), "image": ("lora",)}
"""Stage -> the kinds of LoRA that it goes on from."""


def check_models(config: TrainConfig) -> list[str]:
    """Look through all that a run needs but its data. Returns a message for each thing that it would be refused for.

    Models on the hub that the run will fetch are not asked for, and pass.
    """
    problems: list[str] = []

    @contextmanager
    def noted(setting: str = "") -> Iterator[None]:
        try:
            yield
        except UserError as error:
            text = str(error)
            value = getattr(config, setting, None) if setting else None
            path = getattr(value, "path", value)
            problems.append(f"{setting}={path}: {text.removeprefix(f'{path}: ')}" if path is not None else text)

    with noted():
        check_machine(config)
    with noted():
        check_optimizer(config)
    pipe: AnimateDiffPipeline | None = None
    with noted("model"):
        pipe = None if to_be_fetched(config.model) else _empty_base(config)
    if pipe is not None:
        from animatediff.training.models import check_size

        with noted():
            check_size(config, pipe)
    for setting, check in _checks(config, pipe):
        if not to_be_fetched(str(getattr(config, setting))):
            with noted(setting):
                check()
    return problems


def _empty_base(config: TrainConfig) -> AnimateDiffPipeline:
    """The base model on the meta device."""
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import base_pipeline
    from animatediff.weights.base.components import without_weights
    from animatediff.weights.base.single_file import load_base
    from animatediff.weights.hub import cached_folder, is_hub_id

    source = _base_path(config)
    if not source.exists():
        if not is_hub_id(config.model):
            raise UserError(f"{config.model}: no such file or folder in {Path.cwd()}")
        if (found := cached_folder(config.model)) is None:
            raise UserError(f"{config.model}: not here, and not in the hub's cache; `download` fetches it")
        source = found
    import torch

    vae = config.vae if config.vae is not None and Path(config.vae).exists() else None
    with without_weights():
        parts = load_base(source, dtype=torch.float32, **({} if vae is None else {"vae": vae}))
        return AnimateDiffPipeline(base_pipeline(parts))


def _base_path(config: TrainConfig) -> Path:
    from animatediff.bundled import bundled_path

    return bundled_path() if config.model == "bundled" else Path(named(config.model)).expanduser()


def _checks(config: TrainConfig, pipe: AnimateDiffPipeline | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(setting, its check) of every other file that the configuration names."""
    from animatediff.weights.lora.load import check_lora_fits
    from animatediff.weights.recognise import check_setting, recognise

    unet: Any = None if pipe is None else pipe.unet
    encoders = () if pipe is None else pipe.text_encoders
    if (vae := config.vae) is not None and not Path(vae).is_dir():
        yield "vae", lambda: check_setting(recognise(vae), "vae")
    if (file := config.unet) is not None:
        yield "unet", lambda: _check_unet(file)
    if config.stage in ("motion_lora", "sparsectrl", "camera"):
        yield "motion_module", lambda: _check_motion(config, config.motion_module, unet)
    if config.domain_adapter is not None and config.stage in ("motion", "motion_lora", "sparsectrl", "camera"):
        path = config.domain_adapter.path

        def check_adapter() -> None:
            check_setting(recognise(path), "domain_adapter")
            if unet is not None:
                check_lora_fits(path, unet=unet)

        yield "domain_adapter", check_adapter
    if config.start_from is not None:
        yield "start_from", lambda: _check_start(config, unet, encoders)


def _check_unet(file: str) -> None:
    from animatediff.weights.recognise import recognise, wrong_kind

    found = recognise(file)
    if found.kind not in ("unet", "base_model", "motion_module", "unknown"):
        raise wrong_kind(found, "unet")


def _check_motion(config: TrainConfig, source: str | None, unet: Any) -> None:
    from animatediff.training.stages.motion import check_positions, missing_motion_module
    from animatediff.weights.motion import empty_motion_module

    if source is None and not is_bundled(config.model):
        raise missing_motion_module(config)
    path = motion_module_path() if source in (None, "bundled") else source
    _, family, _ = empty_motion_module(path, unet=unet)
    check_positions(config, family, "it")


def _check_start(config: TrainConfig, unet: Any, encoders: Any) -> None:
    from animatediff.training.stages.lora_weights import check_kind
    from animatediff.weights.cameractrl import empty_cameractrl
    from animatediff.weights.lora.load import check_lora_fits
    from animatediff.weights.recognise import recognise
    from animatediff.weights.sparsectrl import empty_sparsectrl

    assert config.start_from is not None
    start = named(config.start_from)
    if config.stage == "motion":
        _check_motion(config, config.start_from, unet)
    elif config.stage == "sparsectrl":
        empty_sparsectrl(start, unet=unet)
    elif config.stage == "camera":
        empty_cameractrl(start)
    elif config.stage == "image" and config.image_layers == "full":
        recognise(start)
    else:
        check_kind(start, LORA_KINDS[config.stage])
        if unet is not None and config.stage != "motion_lora":  # whose layers are the motion module's
            check_lora_fits(start, unet=unet, text_encoders=encoders)
