"""How a pipeline is made: of files, of a hub's model, of objects of diffusers, of another pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.pipelines.adapters import Adapters
from animatediff.pipelines.keywords import OF_FILES, SMALL, Keywords
from animatediff.pipelines.loras import Loras
from animatediff.pipelines.parts import BASE_PARTS, LoadedParts, base_pipeline
from animatediff.pipelines.saving import MOTION, RECORD, restore, save
from animatediff.weights.silence import quiet_loading
from animatediff.weights.storage.folders import read_json
from animatediff.weights.storage.paths import expanded

if TYPE_CHECKING:
    from typing_extensions import Self

    from animatediff.pipelines.parts import BasePipeline

    Motion = str | Path | MotionAdapter | Any
    """Motion modules: a file, folder or hub id, ours in memory, or an object of diffusers."""

AUTO: Any = object()
"""The motion modules that lie in the folder of the model, if any do."""
NETWORKS = ("feature_extractor", "image_encoder", "controlnet")


class Loading(Adapters, Loras):
    """An image model with motion modules: made, copied and saved."""

    def __init__(
        self,
        base: BasePipeline | None = None,
        *,
        motion_adapter: Motion | None = None,
        controlnet: Any = None,
        family: str | None = None,
        pag_applied_layers: Any = None,
        **components: Any,
    ) -> None:
        """Animate `base`, a pipeline of diffusers; or the components of one, named as there.

        A scheduler among the components is kept as it is. `motion_adapter`: modules of ours, an object of diffusers
        (`MotionAdapter`), a file, a folder or a hub id; `controlnet`: one or several, or a SparseCtrl encoder. Raises
        UserError for components that do not make a Stable Diffusion.
        """
        scheduler = components.get("scheduler")
        if base is None:
            base, inside = _of_components({**components, "scheduler": deepcopy(scheduler)} if scheduler else components)
            motion_adapter = motion_adapter if inside is None else inside
        elif components:
            raise UserError(f"give a whole pipeline, or components by name; got both, and {', '.join(components)}")
        _check_whole(base)
        super().__init__(base)
        if motion_adapter is not None:
            self._plug_in(motion_adapter, family)
        if scheduler is not None:
            self.scheduler = scheduler
        self._add_controlnets(controlnet)
        if pag_applied_layers is not None:
            self._set_pag_layers(pag_applied_layers)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, *, motion_adapter: Motion | None = AUTO, **keywords: Any
    ) -> Self:
        """Load a model from a diffusers folder, a single file, "bundled/neon", or (needing the network) a hub id.

        A folder of a whole AnimateDiff pipeline, diffusers' or saved by `save_pretrained`, comes with its motion
        modules and ControlNets; `motion_adapter` takes their place, None leaves them out. `torch_dtype` (or `dtype`)
        None is that of a pipeline saved by us, else the best that the hardware has; it may be a mapping of parts to
        formats. Other keywords are those of diffusers, and `family`, `prediction_type`, `use_ema` (`keywords.py`).
        Raises UserError for anything that is not a complete Stable Diffusion model, and for keywords that cannot be
        followed.
        """
        from animatediff.bundled import named
        from animatediff.weights.base.single_file import load_base, located_base

        asked = Keywords.of(keywords)
        path = located_base(
            named(pretrained_model_name_or_path),
            dtype=asked.dtype,
            variant=asked.variant,
            subfolder=asked.subfolder,
            hub=asked.hub,
        )
        asked.check_format(path)
        index = read_json(path / "model_index.json") if (path / "model_index.json").is_file() else {}
        asked = asked.as_saved((index.get(RECORD) or {}).get("dtypes"))
        settings = dict(asked.settings)
        inside = _motion_in(settings.get("unet"))
        if inside is not None:
            settings["unet"] = _image_unet(settings["unet"])
        settings |= {"variant": asked.variant} if path.is_dir() else {}
        dtype = None if asked.dtypes else asked.dtype  # as in the file, until each part has its own
        if odd := [name for name in OF_FILES if name in settings and path.is_dir()]:
            raise UserError(f"{path}: `{odd[0]}` is about single files, and this is a folder; leave it out")
        if not path.is_dir():  # a file, or nothing, of which its reader says so
            if odd := [name for name in ("unet", "variant") if settings.get(name) is not None]:
                raise UserError(f"{path}: a single file, which takes no `{odd[0]}`; give a folder, or leave it out")
            parts = _of_file(path, dtype, settings)
        else:
            parts = load_base(path, dtype=dtype, **{**settings, "scheduler": deepcopy(settings.get("scheduler"))})
        _cast(parts, asked)
        pipe = cls(base_pipeline(parts))
        if settings.get("prediction_type") is not None:
            pipe.sampler.asked = {"prediction_type": settings["prediction_type"]}
        if motion_adapter is AUTO:
            motion_adapter = _motion_of_folder(path, index) if inside is None else inside
        if motion_adapter is not None:
            pipe._plug_in(motion_adapter, asked.family)
        if "controlnet" not in asked.later and path.is_dir():
            pipe._load_networks_of(path, index)
        restore(pipe, index, settings.get("scheduler"))
        return pipe._finished(asked)

    @classmethod
    def from_single_file(cls, path: str | Path, *, motion_adapter: Motion | None = None, **keywords: Any) -> Self:
        """Load a base model from one `.safetensors` or `.ckpt` file (SD 1.x, SD 2.x, SDXL), without network.

        Keywords as of `from_pretrained`. Raises UserError as `from_pretrained`.
        """
        path = expanded(path)
        if path.is_dir() or not path.exists():
            _of_file(path, None, {})  # which says what is the matter
        return cls.from_pretrained(path, motion_adapter=motion_adapter, **keywords)

    @classmethod
    def from_bundled(cls, *, torch_dtype: torch.dtype | str | None = "float32", **keywords: Any) -> Self:
        """The small model that ships with the package, with its motion module; needs no download and no GPU.

        Keywords as of `from_pretrained`, such as `vae`.
        """
        from animatediff.bundled import bundled_path, motion_module_path

        keywords = {"torch_dtype": torch_dtype, "motion_adapter": motion_module_path(), **keywords}
        return cls.from_pretrained(bundled_path(), **keywords)

    @classmethod
    def from_pipe(cls, pipeline: Any, **changed: Any) -> Self:
        """Make a pipeline of the parts of another: ours, or one of diffusers; the weights are shared.

        Parts by name take the place of the other's (`scheduler=...`, `motion_adapter=...`). Motion modules are in the
        UNet: pipelines around one UNet have the same. Raises UserError for pipelines of other models.
        """
        dtype = next((changed.pop(name) for name in ("dtype", "torch_dtype") if changed.get(name) is not None), None)
        family = changed.pop("family", None)
        components = dict(pipeline.base.components if isinstance(pipeline, LoadedParts) else pipeline.components)
        known = {*components, *BASE_PARTS, "motion_adapter", "controlnet"}
        if odd := [name for name in changed if name not in known]:
            raise UserError(f"from_pipe: a pipeline has no part {odd[0]!r}; its parts are {', '.join(sorted(known))}")
        motion = changed.pop("motion_adapter", components.pop("motion_adapter", None))
        networks = changed.pop("controlnet", components.pop("controlnet", None))
        if (inside := _motion_in(components.get("unet"))) is not None:
            motion = motion if "motion_adapter" in changed else inside
            components["unet"] = _image_unet(components["unet"])
        scheduler, own = changed.pop("scheduler", None), components.get("scheduler")
        components["scheduler"] = deepcopy(own)  # diffusers changes settings of the one it is given
        pipe = cls(base_pipeline(_of_base(components | changed, components.get("unet"))))
        if isinstance(pipeline, LoadedParts):
            pipe.sampler = replace(
                pipeline.sampler,
                few_steps=dict(pipeline.sampler.few_steps),
                trained_with=dict(pipeline.sampler.trained_with),
                disabled=set(pipeline.sampler.disabled),
                distilled=pipe.sampler.distilled,
            )
            pipe.sparsectrl, pipe.controlnets = pipeline.sparsectrl, list(pipeline.controlnets)
            pipe.camera_control = pipeline.camera_control
            pipe.embeddings = list(pipeline.embeddings)
            pipe.base.scheduler = components["scheduler"]
            pipe.call_settings = dict(pipeline.call_settings)
        elif inside is not None or motion is not None:
            scheduler = own if scheduler is None else scheduler  # of a pipeline that animates, it is a choice
        if motion is not None:
            pipe._plug_in(motion, family)
        pipe._add_controlnets(networks)
        if scheduler is not None:
            pipe.scheduler = scheduler
        return pipe if dtype is None else pipe.to(dtype=dtype)

    def save_pretrained(self, save_directory: str | Path, **settings: Any) -> None:
        """Write a folder that `from_pretrained` reads again to the same frames; diffusers reads it as its own pipeline.

        With motion modules and their family, sampler, ControlNets, CameraCtrl and words that were added; LoRAs and
        IP-Adapters are not in it, and said: `fuse_lora` makes a LoRA part of the weights. `settings`: diffusers'
        `safe_serialization`, `variant`, `max_shard_size`. Raises UserError where it cannot be written.
        """
        save(self, expanded(save_directory), settings)

    @classmethod
    def load_config(cls, path: str | Path, **settings: Any) -> dict[str, Any]:
        """The content of the `model_index.json` of a folder or hub id."""
        from diffusers import DiffusionPipeline

        from animatediff.weights.hub import first_line

        try:
            found: Any = DiffusionPipeline.load_config(str(path), **settings)
            return dict(found)
        except Exception as error:  # of the network, whose errors are of another library with each generation
            raise UserError(f"{path}: has no model_index.json ({first_line(error)})") from error

    @classmethod
    def from_config(cls, config: Any, **_: Any) -> Self:
        """Refuse: a configuration has no weights."""
        raise UserError("a configuration has no weights; load a model with `from_pretrained`, or give its components")

    @classmethod
    def download(cls, pretrained_model_name: str | Path, **keywords: Any) -> str:
        """Fetch a model of the hub; returns its local folder, which `from_pretrained` takes."""
        from animatediff.weights.base.single_file import located_base

        asked = Keywords.of(keywords)
        place = located_base(
            pretrained_model_name, dtype=asked.dtype, variant=asked.variant, subfolder=asked.subfolder, hub=asked.hub
        )
        return str(place)

    def _plug_in(self, motion: Motion, family: str | None = None) -> None:
        """Plug in motion modules of any form."""
        from animatediff.weights.diffusers_motion import header_of, origin_of

        if isinstance(motion, MotionAdapter):
            self.set_motion_adapter(motion)
        elif isinstance(motion, str | Path):
            self.load_motion_module(motion, family=family)
        elif (origin := origin_of(motion)) is not None and family is None:
            self.set_motion_adapter(*origin)
        elif hasattr(motion, "config") and hasattr(motion, "state_dict"):
            self.load_motion_module(header_of(motion), family=family)
        else:
            raise UserError(
                f"`motion_adapter` is a {type(motion).__name__}; give a file, a folder, a hub id, or a MotionAdapter"
            )

    def _set_pag_layers(self, layers: Any) -> None:
        if (method := getattr(self, "set_pag_applied_layers", None)) is None:
            raise UserError("`pag_applied_layers`: perturbed-attention guidance is not supported; leave it out")
        method(layers)

    def _finished(self, asked: Keywords) -> Self:
        for name, value in asked.later.items():
            if name == "controlnet":
                self._add_controlnets(value)
            elif name == "pag_applied_layers":
                self._set_pag_layers(value)
            elif name == "force_zeros_for_empty_prompt":
                self.base.register_to_config(force_zeros_for_empty_prompt=value)
            else:
                self.base.register_modules(**{name: value})
        return self if asked.device is None else self.to(asked.device)


def _of_components(components: Mapping[str, Any]) -> tuple[BasePipeline, Any]:
    """The base pipeline of components, and the motion modules in their UNet."""
    missing = [name for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler") if name not in components]
    if missing:
        raise UserError(
            f"a pipeline is made of a base pipeline, or of components by name; {', '.join(missing)} missing, got "
            f"{', '.join(components) or 'nothing'}; to load a model there is `from_pretrained`"
        )
    unet = components["unet"]
    inside = _motion_in(unet)
    parts = {**components, "unet": unet if inside is None else _image_unet(unet)}
    return base_pipeline(_of_base(parts, parts["unet"])), inside


def _of_base(components: Mapping[str, Any], unet: Any) -> dict[str, Any]:
    """The components that an image pipeline takes. Raises UserError for others, which would be dropped."""
    sdxl = components.get("text_encoder_2") is not None
    known = {*BASE_PARTS, "safety_checker", "requires_safety_checker", "force_zeros_for_empty_prompt"}
    known |= {"add_watermarker"}
    if odd := [name for name, value in components.items() if name not in known and value is not None]:
        raise UserError(f"a pipeline that animates has no {odd[0]}; its parts are {', '.join(sorted(BASE_PARTS))}")
    dropped = {"safety_checker", "requires_safety_checker", "add_watermarker"}
    if not sdxl:
        dropped |= {"tokenizer_2", "text_encoder_2", "force_zeros_for_empty_prompt"}
    return {name: value for name, value in components.items() if name not in dropped}


def _of_file(path: Path, dtype: torch.dtype | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Components of a single file; tokenizers that are given take the place of those that ship."""
    from animatediff.weights.base.single_file import load_base_single_file

    objects = {name: settings[name] for name in SMALL if settings.get(name) is not None}
    rest = {name: value for name, value in settings.items() if name not in (*SMALL, "variant")}
    parts = load_base_single_file(path, dtype=dtype, **rest)
    if odd := [name for name in objects if name not in parts]:
        raise UserError(f"{path}: this model has no {odd[0]}; leave it out")
    return parts | {name: value for name, value in objects.items() if name != "scheduler"}


def _check_whole(base: Any) -> None:
    if not hasattr(base, "unet") or not hasattr(base, "scheduler"):
        raise UserError(
            f"an animation needs a StableDiffusionPipeline or StableDiffusionXLPipeline, got {type(base).__name__}; "
            "name components (`vae`=..., `unet`=...), or load a model with `from_pretrained`"
        )


def _motion_in(unet: Any) -> Any:
    """A UNet of diffusers with motion modules in it, as the modules to take; None for others."""
    return unet if type(unet).__name__ == "UNetMotionModel" else None


def _image_unet(unet: Any) -> Any:
    from animatediff.weights.base.motion_unet import image_unet

    return image_unet(unet)


def _motion_of_folder(path: Path, index: Mapping[str, Any]) -> Path | None:
    """The motion modules in the folder of a whole pipeline: in its UNet if that has some, else beside it."""
    if not path.is_dir():
        return None
    stated = index.get("unet")
    if isinstance(stated, list) and stated[-1:] == ["UNetMotionModel"]:
        return path / "unet"
    return path / MOTION if RECORD in index or MOTION in index or (path / MOTION).is_dir() else None


def _cast(parts: Mapping[str, Any], asked: Keywords) -> None:
    with quiet_loading():
        for name, part in parts.items() if asked.dtypes else ():
            if isinstance(part, torch.nn.Module):
                part.to(asked.dtypes.get(name, asked.dtype))
