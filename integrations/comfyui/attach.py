"""Motion modules in a MODEL of the host, for any of its samplers: the frames of a clip are the batch of the latents.

A MODEL is a patcher round a UNet that it shares with its clones. The host calls `inject` when it loads a patcher and
`eject` when it loads another one round the same UNet or frees it, so that a UNet has the motion modules of one patcher
at most. Between the calls of the UNet they rest (`FrameContext.num_frames` is 0), whatever ended a sampling before: an
error or an interrupt leaves nothing behind that acts.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.context_windows
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection, WrappersMP
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.frames import Curve, frame_curve
from animatediff.motion import MotionAdapter, attach_ldm, detach_ldm, layout_of_ldm
from animatediff.motion.attach import check_conv_in
from animatediff.motion.ldm import ldm_conv_in
from animatediff.weights.kinds import SHORT_TITLES
from animatediff.weights.motion import BY_LEVELS, other_base

from .conditions import Call
from .images import I2VImage, PIAImage
from .messages import in_host_words
from .motion import Motion
from .windows import CLIP_FRAMES, DEFAULTS, TRAVEL_FRAMES, current_frames, handler_of

logger = logging.getLogger(__name__)

KEY = "animatediff"
"""Under which a patcher has all that belongs to motion modules."""
NETWORKS = f"{KEY}_networks"
"""Under which it has the networks of what they see."""


def check_travels(conds: Mapping[str, Any], num_frames: int) -> None:
    """Raise UserError for a prompt travel of another length than the clip: the host would repeat or cut its rows."""
    for several in conds.values():
        for cond in several or ():
            rows = cond.get(TRAVEL_FRAMES, num_frames)
            if rows != num_frames:
                raise UserError(
                    f"AnimateDiff Prompt Travel has prompts for {rows} frames, and the clip has {num_frames}: connect "
                    "its latent, or set its num_frames"
                )


@dataclass(frozen=True, kw_only=True)
class MotionRun:
    """How the motion modules of one MODEL act; the wrappers of its patcher and of the patcher's clones."""

    motion: Motion
    scale: float = 1.0
    """Factor of the motion at every frame."""
    curve: Curve = 1.0
    """Further factors at frames, as `animatediff.frames.parse_curve` reads them."""
    start_percent: float = 0.0
    """Share of the sampling, by noise levels, from which on they act, as the host counts."""
    end_percent: float = 1.0
    """Share of the sampling up to which they act; outside the image model is alone."""

    def outer_sample(self, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Wrapper of a whole sampling: checks the clip, and lays windows over one that is too long for the module."""
        with in_host_words():
            check_travels(getattr(executor.class_obj, "conds", {}), len(noise))
            self._prepare(executor.class_obj.model_options, noise)
            if len(noise) > 1:
                self._begin(executor.class_obj.model_patcher.model, noise)
        try:
            return executor(noise, *args, **kwargs)
        finally:
            for condition in self.motion.conditions:
                condition.forget()

    def _prepare(self, model_options: dict[str, Any], noise: Tensor) -> None:
        if noise.ndim != 4:
            raise UserError(
                f"latents of shape {list(noise.shape)} are no clip of images: make them with Empty Latent Image, whose "
                "batch_size is the number of frames"
            )
        num_frames, known = len(noise), self.motion.family.numerics.max_positions
        handler = model_options.get("context_handler")
        length = getattr(handler, "context_length", None)
        if num_frames == 1:
            logger.info("a batch of 1 is an image: the motion modules rest")
        elif handler is None and num_frames > known:
            length = min(DEFAULTS.length, known)
            overlap = min(DEFAULTS.overlap, length - 1)
            model_options["context_handler"] = handler_of(length=length, overlap=overlap)
            logger.warning(
                "%d frames are more than the %d that %s knows: windows of %d frames, %d shared; "
                "AnimateDiff Context Windows sets others",
                *(num_frames, known, self.motion.path.name, length, overlap),
            )
        elif length is not None and num_frames > length > known:
            raise UserError(
                f"context windows of {length} frames, but {self.motion.path.name} knows {known} positions: "
                f"set context_length to {known} or less"
            )
        elif length is not None and length >= num_frames > known:
            raise UserError(
                f"{num_frames} frames fit into one context window of {length}, but {self.motion.path.name} knows "
                f"{known} positions: set context_length to {known} or less"
            )
        frame_curve(self.curve, num_frames, "motion_scale")  # names frames beyond the clip before anything is sampled
        model_options.setdefault("transformer_options", {})[CLIP_FRAMES] = num_frames

    def _begin(self, model: Any, noise: Tensor) -> None:
        """Check what the motion modules see for this clip, and encode images while no model is at work."""
        adapter, seen = self.motion.adapter, {condition.kind for condition in self.motion.conditions}
        for needed, kind in ((adapter.conv_in, PIAImage.kind), (adapter.img_encoder, I2VImage.kind)):
            if needed is not None and kind not in seen:
                logger.warning("%s animates an image and sees none: AnimateDiff %s gives it", self.motion, kind)
        for condition in self.motion.conditions:
            condition.check_clip(len(noise))
            condition.begin(model, *noise.shape[-2:])

    def apply_model(
        self,
        executor: Any,
        x: Tensor,
        t: Tensor,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Wrapper of each call of the model: tells the motion modules how the batch divides into clips."""
        options = {} if transformer_options is None else transformer_options
        num_frames = len(x) // max(1, len(options.get("cond_or_uncond", ())))
        alone = options.get(CLIP_FRAMES, num_frames) < 2
        if alone or not self._acts(executor.class_obj.model_sampling, options, t):
            return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        adapter = adapter_in(executor.class_obj.diffusion_model)
        frames, scale = adapter.frames, self._scale(options, num_frames, x)
        seen = self._seen(executor.class_obj, adapter, options, num_frames, x)
        try:
            with frames.during(num_frames, scale=scale, **seen):
                return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)
        finally:
            frames.num_frames = 0  # they rest until the next call

    def _seen(
        self, model: Any, adapter: MotionAdapter, options: dict[str, Any], num_frames: int, x: Tensor
    ) -> dict[str, Any]:
        """What the motion modules see in this call, as arguments of `FrameContext.during`."""
        call = Call(
            model=model,
            adapter=adapter,
            x=x,
            frames=current_frames(options, num_frames),
            num_frames=options.get(CLIP_FRAMES, num_frames),
        )
        found: dict[str, Any] = {}
        with in_host_words():
            for condition in self.motion.conditions:
                found |= condition.seen(call)
        return found

    def _acts(self, model_sampling: Any, options: dict[str, Any], t: Tensor) -> bool:
        """Whether the noise level is in the range in which the motion modules act."""
        sigma = float(options.get("sigmas", t).flatten()[0])
        start, end = (model_sampling.percent_to_sigma(percent) for percent in (self.start_percent, self.end_percent))
        return end <= sigma <= start

    def _scale(self, options: dict[str, Any], num_frames: int, x: Tensor) -> Tensor | None:
        """The factor at each frame of this call, (f,), or None where all are 1."""
        if self.scale == 1 and isinstance(self.curve, float | int) and self.curve == 1:
            return None
        frames = current_frames(options, num_frames)
        values = frame_curve(self.curve, options.get(CLIP_FRAMES, num_frames), "motion_scale")
        return torch.tensor([self.scale * values[frame] for frame in frames], device=x.device)


def apply_motion(model: ModelPatcher, run: MotionRun) -> ModelPatcher:
    """A clone of a MODEL in which motion modules act; the MODEL itself stays as it is.

    Raises UserError for a MODEL that is no UNet of Stable Diffusion, one for which the modules were not made, and one
    that has motion modules already.
    """
    _check(model, run.motion)
    patched = model.clone()
    patched.set_additional_models(KEY, [run.motion.patcher.clone()])
    if networks := [one for condition in run.motion.conditions for one in condition.networks()]:
        patched.set_additional_models(NETWORKS, [one.clone() for one in networks])
    patched.set_injections(KEY, [PatcherInjection(inject=inject, eject=eject)])
    patched.set_attachments(KEY, run)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, run.outer_sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, run.apply_model)
    comfy.context_windows.create_prepare_sampling_wrapper(patched)  # counts the memory of one window, where there are
    return patched


def _check(model: ModelPatcher, motion: Motion) -> None:
    unet = unet_of(model)
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks", "out")):
        raise UserError(
            f"motion modules move Stable Diffusion 1.x, 2.x and SDXL, and this model is none of them "
            f"({type(model.model).__name__}): give another checkpoint (`model`)"
        )
    if (before := model.get_attachment(KEY)) is not None:
        raise UserError(
            f"this MODEL has motion modules already ({before.motion}): connect the MODEL of the checkpoint, and a "
            "second motion module to another AnimateDiff Apply beside this one"
        )
    layout = motion.adapter.layout
    wanted = layout_of_ldm(unet, mid_block=layout.mid is not None)
    if layout.stands_as(wanted):
        try:
            check_conv_in(motion.adapter, ldm_conv_in(unet))
        except ValueError as error:
            raise UserError(f"{motion.path}: {error}; give another checkpoint (`model`)") from None
        return
    made_for, given = (SHORT_TITLES.get(BY_LEVELS.get(len(side.down), ""), "another kind") for side in (layout, wanted))
    if made_for != given:
        raise other_base(motion.path, made_for, given)
    raise UserError(
        f"{motion.path}: does not fit this MODEL: its modules are ({layout}), the model's blocks ({wanted})"
    )


def unet_of(model: ModelPatcher) -> nn.Module:
    """The UNet that a patcher shares with its clones."""
    return model.model.diffusion_model


@dataclass(frozen=True)
class _Injected:
    adapter: MotionAdapter
    owner: weakref.ref[ModelPatcher]


_INJECTED: weakref.WeakKeyDictionary[nn.Module, _Injected] = weakref.WeakKeyDictionary()
"""UNet -> the motion modules that it calls, and the patcher that they belong to. Keeps neither alive."""


def inject(patcher: ModelPatcher) -> None:
    """Let the UNet call the motion modules of this patcher; those of another one, which the host has let go, leave."""
    unet = unet_of(patcher)
    if _INJECTED.pop(unet, None) is not None:
        detach_ldm(unet)
    (motion,) = patcher.get_additional_models_with_key(KEY)
    _INJECTED[unet] = _Injected(attach_ldm(unet, motion.model).adapter, weakref.ref(patcher))


def eject(patcher: ModelPatcher) -> None:
    """Take the motion modules of this patcher out of the UNet; those of another one stay.

    A clone of a loaded patcher counts as injected without ever having been loaded, and the host ejects it when it goes.
    """
    unet = unet_of(patcher)
    found = _INJECTED.get(unet)
    if found is not None and found.owner() in (patcher, None):
        del _INJECTED[unet]
        detach_ldm(unet)


def adapter_in(unet: nn.Module) -> MotionAdapter:
    """The motion modules that a UNet calls."""
    unet = getattr(unet, "_orig_mod", unet)  # compiled
    found = _INJECTED.get(unet)
    if found is None:
        raise RuntimeError(
            "the motion modules are not in the model, as if ComfyUI had not loaded it; sample with one of ComfyUI's "
            "samplers, or report this with the nodes that you use"
        )
    return found.adapter
