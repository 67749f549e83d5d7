"""Dry run: the model of a request without its weights, and the job of each clip, before anything is loaded.

All that a request is refused for is refused here, by the very code that loads and samples, with headers and
configurations alone. What is left for later is what only weights or pixels tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.bundled import bundled_path
from animatediff.errors import UserError
from animatediff.frames import frame_indices
from animatediff.render.defaults import call_arguments, check_travels, with_defaults, with_seeds
from animatediff.render.derived import warn_of_contradictions
from animatediff.render.events import silent
from animatediff.render.inputs import Inputs, images_within, input_arguments
from animatediff.render.models import (
    BUNDLED,
    ModelSpec,
    asked_sampling,
    base_settings,
    compare_configs,
    loading_dtype,
    module_settings,
    motion_module_of,
)
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline


class DryRuns:
    """Dry runs of the requests of one job; those of one model share it."""

    def __init__(self, loaded: Mapping[ModelSpec, Any], given: Any = None) -> None:
        """loaded: models in memory, which stand for themselves; given: a pipeline that is taken for every request."""
        self._models: dict[ModelSpec, Any] = dict(loaded)
        self._given = given

    def check(self, request: AnimateRequest, inputs: Inputs) -> None:
        """Raise UserError for a complete request that could not be rendered; warns of settings that disagree."""
        from animatediff.pipelines import AnimateDiffPipeline

        with silent():
            pipe = self._model(request)
            if isinstance(pipe, AnimateDiffPipeline):
                check_clips(pipe, request, inputs)
        warn_of_contradictions(request, inputs, pipe)

    def _model(self, request: AnimateRequest) -> Any:
        if self._given is not None:
            return self._given
        spec = ModelSpec.of(request)
        if spec not in self._models:
            self._models[spec] = dry_model(spec.settings)
        return self._models[spec]


def dry_model(settings: AnimateRequest) -> AnimateDiffPipeline | None:
    """The model of a complete request, parameters on the meta device; None where files are yet to be fetched.

    Raises UserError as `load_model` does for files that do not fit each other.
    """
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import base_pipeline
    from animatediff.weights.base.components import without_weights
    from animatediff.weights.base.single_file import load_base

    model = bundled_path() if settings.model == BUNDLED else Path(settings.model or "")
    module = motion_module_of(settings)
    if not all(Path(path).exists() for path in (model, module, *_files(settings))):
        return None
    parts = base_settings(settings, model)
    dtype = loading_dtype(settings)
    with without_weights():
        pipe = AnimateDiffPipeline(base_pipeline(load_base(model, dtype=dtype, **parts)))
        pipe.sampler.asked = asked_sampling(settings)
        if settings.scheduler is not None:
            pipe.set_scheduler(settings.scheduler)
        pipe.sampler.check()
        _put_motion_module(pipe, module, settings)
        _put_loras(pipe, settings)
        if settings.sparsectrl is not None:
            from animatediff.weights.sparsectrl import empty_sparsectrl

            pipe.sparsectrl, _ = empty_sparsectrl(settings.sparsectrl, unet=pipe.unet)
        if settings.camera_control is not None:
            from animatediff.weights.cameractrl import empty_cameractrl

            assert pipe.attachment is not None, "put there before"
            layout = pipe.attachment.adapter.layout
            pipe.camera_control, _ = empty_cameractrl(settings.camera_control, layout=layout)
        for path in settings.controlnet:
            pipe.load_controlnet(path)
        if settings.ip_adapter is not None:
            _stand_in_for_ip_adapter(pipe)
    compare_configs(settings, pipe)
    return pipe


def _files(settings: AnimateRequest) -> list[str]:
    """Files that a dry run looks into, besides image model and motion module."""
    one = [settings.vae, settings.text_encoder, settings.text_encoder_2, settings.sparsectrl]
    one += [settings.camera_control, *settings.controlnet]
    return [path for path in (*one, *(ref.path for ref in settings.all_loras)) if path is not None]


def _put_motion_module(pipe: AnimateDiffPipeline, module: str | Path, settings: AnimateRequest) -> None:
    from animatediff.weights.motion import empty_motion_module

    try:
        adapter, facts, _ = empty_motion_module(module, unet=pipe.unet, **module_settings(settings))
    except UserError as error:
        if settings.model == BUNDLED and settings.motion_module is not None:
            raise UserError(
                f"{error}; the image model is the small one that ships (`model` {BUNDLED}), which has its own motion "
                "module: leave `motion_module` out, or name the model that it was made for"
            ) from error
        raise
    pipe.note_motion_adapter(adapter, facts)
    for name, modules in adapter.modules_by_block():  # where LoRAs of motion look for their layers
        pipe.unet.get_submodule(name).motion_modules = modules


def _put_loras(pipe: AnimateDiffPipeline, settings: AnimateRequest) -> None:
    """Check that LoRAs fit the model, and take the sampler, steps and guidance that few-step ones bring."""
    from animatediff.weights.lora.few_steps import few_step_lora
    from animatediff.weights.lora.load import check_lora_fits
    from animatediff.weights.lora.source import lora_header
    from animatediff.weights.trained_with import trained_with

    for ref in settings.all_loras:
        check_lora_fits(ref.path, unet=pipe.unet, text_encoders=pipe.text_encoders)
    for ref in settings.all_loras:
        header = lora_header(ref.path)
        if ref.scale != 0 and (settings_of := trained_with(header)):
            pipe.sampler.trained_with[ref.path] = settings_of
    for ref in settings.loras:
        if ref.scale != 0 and (few := few_step_lora(lora_header(ref.path))) is not None:
            pipe.sampler.few_steps[ref.path] = few.recommended
    pipe.renew_scheduler()


def _stand_in_for_ip_adapter(pipe: AnimateDiffPipeline) -> None:
    """Let the UNet say that it has an IP-Adapter, as diffusers' loader does; the file was checked before."""
    from diffusers.models.embeddings import MultiIPAdapterImageProjection
    from torch import nn

    unet: Any = pipe.unet
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([nn.Identity()])
    unet.config.encoder_hid_dim_type = "ip_image_proj"


def check_clips(pipe: AnimateDiffPipeline, request: AnimateRequest, inputs: Inputs) -> None:
    """Make the job of each clip of a request. Raises UserError for what does not fit the model or the clip."""
    full = with_seeds(with_defaults(request, inputs, pipe))
    check_travels(full)
    assert full.num_frames and full.width and full.height, "filled in"
    frame_indices([frame for frame, _ in full.images], len(full.images), full.num_frames)
    for given in inputs.controlnet_videos:
        if isinstance(given, Mapping):
            images_within(given, full.num_frames)
    read = replace(inputs, video=None, controlnet_videos=[], motion_from=None)
    if inputs.camera_video is not None:
        from animatediff.camera import camera_path

        read.camera = camera_path("still", full.num_frames)  # stands for that of the video
    own, _ = input_arguments(full, read, pipe.sparsectrl_kind)
    if inputs.video is not None:
        own |= {"video": _latents(pipe, full), "strength": full.strength}
    if inputs.motion_from is not None:
        own["motion_from"] = _latents(pipe, full)
    for index in range(full.num_clips):
        pipe.check(**(call_arguments(full.clip(index)) | own))


def _latents(pipe: AnimateDiffPipeline, request: AnimateRequest) -> Any:
    """Stands for the frames of a video, none of which is read: zeros (1, c, f, h, w)."""
    import torch

    factor = pipe.base.vae_scale_factor
    assert request.width and request.height
    channels = int(pipe.unet.config["in_channels"])
    return torch.zeros(1, channels, request.num_frames or 1, request.height // factor, request.width // factor)
