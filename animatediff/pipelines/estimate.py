"""What a job needs in memory, phase by phase: its own code, run on copies of its models without weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.memory.live import module_bytes, on_meta, peak_bytes
from animatediff.memory.measures import InUse, Measures
from animatediff.motion import IMAGE_CHANNELS, MotionModule
from animatediff.motion.attach import block_points, image_norms, mid_point, set_hooks
from animatediff.pipelines.conditions import Condition, PreparedConditions, prepare_all
from animatediff.pipelines.conditions.camera import CameraCondition
from animatediff.pipelines.conditions.controlnet import ControlNetCondition
from animatediff.pipelines.conditions.i2v import I2VCondition
from animatediff.pipelines.conditions.image import ImageCondition
from animatediff.pipelines.conditions.motion_from import MotionFromCondition
from animatediff.pipelines.conditions.pia import PIACondition
from animatediff.pipelines.conditions.sparsectrl import SparseCtrlCondition
from animatediff.pipelines.conditions.video import VideoCondition
from animatediff.pipelines.extras import pag_of, setting_of
from animatediff.pipelines.job import Job, schedule_of
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.vae import encode_images
from animatediff.sampling.camera import KEPT
from animatediff.sampling.fast import FastSteps
from animatediff.sampling.features import DeepFeatures
from animatediff.weights.lora.load import uncompiled
from animatediff.weights.silence import quiet_loading

logger = logging.getLogger(__name__)

META = torch.device("meta")
MODELS = ("text_encoder", "text_encoder_2", "image_encoder", "unet", "vae")
"""Parts of a base pipeline that have weights."""
KEPT_LATENTS = 6
"""Tensors of the clip's latents, float32, that are there between two steps: noise, latents, and outputs of steps before
that samplers of several steps keep."""


class Estimate:
    """Bytes that the phases of one job take on top of the weights; each is found when it is asked for."""

    def __init__(self, pipe: Any, job: Job, device: torch.device) -> None:
        """pipe: with weights or without, which are not touched; job: of that pipeline; device: it would run on."""
        self._blocks = device.type == "cpu"
        self._copies: dict[int, Any] = {}
        # a UNet refers to the image encoder of its motion modules, which is no layer of it
        self._others = [] if pipe.motion_image_encoder is None else [pipe.motion_image_encoder]
        with quiet_loading():
            self.pipe = self._without_weights(pipe)
        conditions = [self._on_copies(condition) for condition in job.conditions]
        self.job = replace(job, conditions=conditions, pag=pag_of(job.call, self.pipe), saving=InUse())
        self._steps: dict[tuple[Any, ...], int] = {}
        self._decoded: dict[tuple[Any, ...], int] = {}

    # -- phases --------------------------------------------------------------------------------------------------------

    @cached_property
    def encoding(self) -> int:
        """While texts and images are encoded."""
        made: list[Any] = []
        peak = self._peak(lambda: made.extend(self.pipe._conditionings(self.job, META)), self.pipe.text_encoders)
        self._groups = made
        encoded = VideoCondition | ImageCondition | MotionFromCondition
        shown = [c for c in self.job.conditions if isinstance(c, encoded)]
        rgb = [c for c in self.job.conditions if isinstance(c, SparseCtrlCondition) and c.encoder.kind == "rgb"]
        if shown or rgb:
            clip, vae = self.job.clip, self.pipe.vae
            image = torch.zeros(1, 3, clip.height, clip.width, device=META)
            peak = max(peak, self._peak(lambda: encode_images(vae, image, META), [vae]))
        return peak

    def denoising(self, measures: Measures) -> int:
        """While a step is made by these measures, with what is kept from step to step."""
        key = measures.of_denoising
        if key not in self._steps:
            self._steps[key] = self._step(measures)
        return self._steps[key]

    def decoding(self, measures: Measures) -> int:
        """While frames are decoded by these measures, with the latents of the clip."""
        key = (measures.decode, measures.tiles)
        if key not in self._decoded:
            clip, vae = self.job.clip, self.pipe.vae
            at_once = min(self.job.decode_chunk_size, clip.num_clips * clip.num_frames)
            # a CPU decodes one after the other, whatever is asked for (`decode_images`)
            self.job.saving.measures = replace(measures, decode=1) if self._blocks else measures
            latents = torch.zeros(self.job.at_once, device=META)
            frames = self.pipe.decode(latents, self.job)
            peak = self._peak(lambda: next(frames), [vae])
            if self._blocks:
                frame = 3 * clip.height * clip.width * vae.dtype.itemsize
                peak = max(peak + (at_once - 1) * frame, 2 * at_once * frame)
            self._decoded[key] = peak + _bytes([latents])
        return self._decoded[key]

    @property
    def frames(self) -> int:
        """Bytes of all decoded frames, 8 bits a value."""
        clip, factor = self.job.clip, self.job.call.upscale or 1.0
        return int(clip.num_clips * clip.num_frames * clip.height * clip.width * 3 * factor**2)

    # -- a step --------------------------------------------------------------------------------------------------------

    def _step(self, measures: Measures) -> int:
        _ = self.encoding  # makes the prompt embeddings
        pipe, job, clip = self.pipe, self.job, self.job.clip
        schedule = schedule_of(job.call, copy.deepcopy(pipe.base.scheduler), job.steps, job.strength, "cpu")
        schedule.begin()
        pipe._begin(job, len(schedule.timesteps))
        networks: list[Any] = [network for condition in job.conditions for network in condition.networks()]
        there = [pipe.unet, *networks]
        window, num_windows = self._window()
        latents = torch.zeros(*clip.latents[:2], len(window), *clip.latents[3:], device=META)
        whole = replace(job, windows=replace(job.windows, windows=job.windows.in_motion[:2]))
        whole.saving.measures = measures
        kept = (KEPT_LATENTS + 2 * (num_windows > 1)) * 4 * torch.Size(job.at_once).numel()
        features = 0

        def run() -> None:
            nonlocal features
            conditions = self._conditions(schedule)
            for group in self._groups:
                group.image_embeds = [
                    part.expand(len(group.clips), *part.shape[1:]) for part in conditions.image_embeds
                ]
                if any(isinstance(condition, PIACondition) for condition in job.conditions):
                    shape = (len(group.clips), IMAGE_CHANNELS, *clip.latents[2:])
                    group.image_channels = torch.zeros(shape, device=META)
            timesteps = list(schedule.timesteps)
            sources = [*conditions.controls, *filter(None, [conditions.motion])]
            acting = max(timesteps, key=lambda t: sum(float(t) in c.active for c in sources))  # pyright: ignore
            fast = None if job.fast is None else FastSteps(lambda num_steps: None, DeepFeatures(pipe.unet))
            predict = pipe._predict_once(whole, self._groups, conditions, fast)
            if measures.apart and job.pag is None and not any(getattr(c, "guess", False) for c in conditions.controls):
                pipe._guidance_scale = 1.0  # of two halves that take as much, one after the other, one is enough
            predict(latents, acting, window)
            if fast is not None:  # what is kept of two whole steps is there in the second
                fast.begin(1, len(timesteps))
                predict(latents, acting, window)
                features = _kept_features(fast) * (num_windows - 1)
            if conditions.camera is not None:
                features += conditions.camera.kept_bytes * (min(KEPT, num_windows) - 1)

        peak = self._peak(run, there, [latents, *_tensors(self._groups)])
        return peak + kept + features + _bytes(_tensors(self._groups))

    def _window(self) -> tuple[list[int], int]:
        """Frames that the UNet sees at once, of the window that takes most; and how many windows there are."""
        windows, frames = self.job.windows.over_unet, list(range(self.job.clip.num_frames))
        if self.job.windows.streams:
            return frames[: self.job.windows.length], 2
        if not windows:
            return frames, 1
        shown = {f for c in self.job.conditions if isinstance(c, SparseCtrlCondition) for f in c.frames}
        most = max(windows, key=lambda window: (bool(shown & set(window.frames)), len(window.frames)))
        return list(most.frames), len(windows)

    def _conditions(self, schedule: Any) -> PreparedConditions:
        """Contributions of the conditions that act in every step."""
        clip = self.job.clip
        noise = torch.zeros(self.job.at_once, device=META)
        setting = setting_of(self.pipe, self.job, schedule, noise, META, Callbacks())
        kinds = ControlNetCondition | SparseCtrlCondition | I2VCondition | CameraCondition
        acting = [c for c in self.job.conditions if isinstance(c, kinds)]
        prepared = prepare_all(acting, setting)
        prepared.image_embeds += self._image_embeds()
        moving = [c for c in self.job.conditions if isinstance(c, MotionFromCondition) and c.strength_of_motion]
        for condition in moving:  # its frames are encoded before, one at a time
            latents = torch.zeros(clip.latents, device=META)
            prepared.motion = condition.source(setting, latents)
        return prepared

    def _image_embeds(self) -> list[Tensor]:
        """Image embeddings of the loaded IP-Adapters, of one image each: (1, 1, ...)."""
        found = []
        projection: Any = getattr(self.pipe.unet, "encoder_hid_proj", None)
        for layer in getattr(projection, "image_projection_layers", ()):
            if hasattr(layer, "proj_in"):  # of patches
                found.append(
                    torch.zeros(1, 1, 1, 257, layer.proj_in.in_features, device=META, dtype=self.pipe.unet.dtype)
                )
            else:
                linear = next(part for part in layer.modules() if isinstance(part, nn.Linear))
                found.append(torch.zeros(1, 1, 1, linear.in_features, device=META, dtype=self.pipe.unet.dtype))
        return found

    # -- models without weights ----------------------------------------------------------------------------------------

    def _without_weights(self, pipe: Any) -> Any:
        """A pipeline of the same parts, their weights on the meta device."""
        new: Any = object.__new__(type(pipe))
        new.__dict__.update(pipe.__dict__)
        base: Any = copy.copy(pipe.base)
        base.__dict__ = dict(base.__dict__)
        for name in MODELS:
            part = getattr(pipe.base, name, None)
            if isinstance(part, nn.Module):
                base.__dict__[name] = self._copy(uncompiled(part))
        base._all_hooks = []
        new.__dict__["base"] = base
        for name in ("sparsectrl", "camera_control"):
            part = getattr(pipe, name)
            new.__dict__[name] = None if part is None else self._copy(part)
        new.__dict__["controlnets"] = [self._copy(network) for network in pipe.controlnets]
        _hook(new)
        _drop_stand_in(base.unet)
        return new

    def _copy(self, module: nn.Module) -> Any:
        if id(module) not in self._copies:
            self._copies[id(module)] = without_offloading(on_meta(module, others=self._others))
        return self._copies[id(module)]

    def _on_copies(self, condition: Condition) -> Condition:
        if isinstance(condition, ControlNetCondition):
            return replace(condition, controlnet=self._copy(condition.controlnet))
        if isinstance(condition, SparseCtrlCondition | I2VCondition):
            return replace(condition, encoder=self._copy(condition.encoder))
        if isinstance(condition, CameraCondition):
            return replace(condition, control=self._copy(condition.control))
        return condition

    def _peak(self, run: Callable[[], object], models: Iterable[nn.Module], tensors: Iterable[Tensor] = ()) -> int:
        there = [t for model in models for t in (*model.parameters(), *model.buffers())]
        return peak_bytes(run, [*there, *tensors], blocks=self._blocks)


def _hook(pipe: Any) -> None:
    """Let motion modules be called that are only noted, as in a dry run."""
    attachment, unet = pipe.attachment, pipe.unet
    if attachment is None:
        return
    hooks = [hook for layer in unet.modules() for hook in layer._forward_hooks.values()]
    if any(isinstance(getattr(hook, "__self__", None), MotionModule) for hook in hooks):
        return
    points = {}
    for name, _ in attachment.adapter.modules_by_block():
        block = unet.get_submodule(name)
        points[name] = mid_point(block) if name == "mid_block" else block_points(block)
    if attachment.adapter.conv_in is not None:
        unet.motion_conv_in = attachment.adapter.conv_in
    set_hooks(attachment.adapter, points, image_norms(unet), unet.conv_in)


def _drop_stand_in(unet: Any) -> None:
    """Forget an IP-Adapter that only stands for one (`render.dry_run`)."""
    layers = getattr(getattr(unet, "encoder_hid_proj", None), "image_projection_layers", ())
    if any(isinstance(layer, nn.Identity) for layer in layers):
        unet.encoder_hid_proj = None
        object.__setattr__(unet.config, "encoder_hid_dim_type", None)


def without_offloading(module: Any) -> Any:
    """A copy of a module as it is without the hooks of offloading, which would look for its weights."""
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(module, recurse=True)
    for layer in module.modules():
        registry = layer.__dict__.pop("_diffusers_hook", None)
        if registry is not None:
            layer.__dict__.pop("forward", None)
    return module


def _kept_features(fast: FastSteps) -> int:
    features = fast.features
    residuals = [part for parts in features._residuals.values() for part in parts]
    trends = [*features.kept.values(), *fast._differences.values()]
    values = [value for trend in trends for value in (trend.value, trend.slope) if value is not None]
    return _bytes([*values, *residuals])


def _tensors(groups: Iterable[Any]) -> list[Tensor]:
    """Embeddings of groups of clips."""
    found = []
    for group in groups:
        for value in (group.embeddings, group.pooled, group.time_ids, group.guidance_embeds):
            value = getattr(value, "states", value)
            found += [value] if isinstance(value, Tensor) else []
    return found


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def weights_of(pipe: Any) -> dict[str, int]:
    """Bytes of the weights of each part, motion modules and others by themselves."""
    base, adapter = pipe.base, pipe.attachment.adapter if pipe.attachment is not None else None
    found = {name: module_bytes(getattr(base, name, None)) for name in MODELS}
    found["motion"] = module_bytes(adapter)
    found["motion_image_encoder"] = 0 if adapter is None else module_bytes(adapter.img_encoder)
    found["motion"] -= found["motion_image_encoder"]
    found["unet"] -= found["motion"]
    found["sparsectrl"] = module_bytes(pipe.sparsectrl)
    found["camera_control"] = module_bytes(pipe.camera_control)
    found["controlnet"] = module_bytes(*pipe.controlnets)
    return {name: size for name, size in found.items() if size}
