"""Parts of an AnimateDiff pipeline: how they are loaded, exchanged and set.

The base pipeline of diffusers is not changed, and does its own work: encode prompts, load IP-Adapters and textual
inversions, move to a device, offload. diffusers itself is imported when the first model is loaded, so that importing
this module costs little more than importing torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError, unknown
from animatediff.motion import Attachment, MotionAdapter, attach, attachment_of, remember
from animatediff.moved import warn_once
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.placement import forget_place
from animatediff.pipelines.precision import as_dtype
from animatediff.pipelines.scheduler import SamplerChoice
from animatediff.pipelines.supported import check_unet, check_vae
from animatediff.prompts.words import spell_out
from animatediff.weights.lora.load import uncompiled
from animatediff.weights.silence import quiet_loading
from animatediff.weights.trained_with import told

if TYPE_CHECKING:
    from diffusers import ControlNetModel, StableDiffusionPipeline, StableDiffusionXLPipeline
    from typing_extensions import Self

    from animatediff.models.camera import CameraCtrl
    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.motion.image_encoder import ImageEncoder
    from animatediff.weights.addons.embeddings import LoadedEmbedding
    from animatediff.weights.families import Family, Recommended

    BasePipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

logger = logging.getLogger(__name__)

FPS = 8.0
# Parts of the image pipeline that may be exchanged, as in diffusers: `pipe.scheduler = ...`.
_PARTS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
BASE_PARTS = (*_PARTS, "feature_extractor", "image_encoder")
"""Parts of the image pipelines that are animated, less those that only stills have."""
_FAMILY = "family"
"""Attribute of motion modules in a pipeline: their family."""


class LoadedParts:
    """An image model, motion modules, and the networks loaded beside them.

    `base` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    base: BasePipeline
    sparsectrl: SparseCtrl | None
    camera_control: CameraCtrl | None
    controlnets: list[ControlNetModel]
    embeddings: list[LoadedEmbedding]
    sampler: SamplerChoice
    call_settings: dict[str, Any]
    """Arguments of calls that were set once for all, as by `enable_free_init`."""
    compile_settings: dict[str, Any] | None
    """Of torch.compile, by which blocks of the UNet are compiled (`enable_compile`); None leaves them as they are."""
    pag_applied_layers: list[str] | None
    """Layers of perturbed-attention guidance (`set_pag_applied_layers`)."""

    def __init__(self, base: BasePipeline) -> None:
        self.base = base
        self.sparsectrl = None
        self.camera_control = None
        self.controlnets = []
        self.embeddings = []
        self.call_settings = {}
        self.pag_applied_layers = None
        self.compile_settings = None
        if hasattr(base, "maybe_convert_prompt"):
            base.maybe_convert_prompt = spell_out
        self.sampler = SamplerChoice(base.scheduler, distilled=guidance_width(base.unet) is not None)

    @property
    def attachment(self) -> Attachment | None:
        """The motion modules in the UNet, which all pipelines around that UNet share; None where there are none."""
        unet: Any = uncompiled(self.unet)
        return attachment_of(unet)

    @property
    def family(self) -> Family | None:
        """The family of the motion modules; None where there are none, or they have none."""
        return None if self.attachment is None else getattr(self.attachment.adapter, _FAMILY, None)

    @property
    def motion_image_encoder(self) -> ImageEncoder | None:
        """The image encoder that came with the motion modules (AnimateLCM-I2V); None where there is none."""
        return None if self.attachment is None else self.attachment.adapter.img_encoder

    def set_motion_adapter(self, adapter: MotionAdapter, family: Family | None = None) -> None:
        """Plug in motion modules that are already in memory, such as new ones to be trained.

        Other pipelines around the same UNet animate by them as well. Raises UserError if they do not fit the UNet.
        """
        self._check_in_memory()
        self.unload_motion_module()
        unet: Any = uncompiled(self.unet)
        try:
            attach(unet, adapter.to(self.unet.device).eval().requires_grad_(False))
        except ValueError as error:
            raise UserError(str(error)) from error
        self._settle(adapter, family)

    def note_motion_adapter(self, adapter: MotionAdapter, family: Family | None) -> None:
        """Count motion modules as plugged in, for checks before weights are loaded; nothing calls them."""
        unet: Any = self.unet
        remember(unet, adapter)
        self._settle(adapter, family)

    def _settle(self, adapter: MotionAdapter, family: Family | None) -> None:
        setattr(adapter, _FAMILY, family)
        self.renew_scheduler()

    def unload_motion_module(self) -> None:
        """Take the motion modules out; the image model is as it was before."""
        if self.attachment is not None:
            self.attachment.detach()

    @property
    def motion_adapter(self) -> Any:
        """The motion modules as diffusers' `MotionAdapter`, sharing their weights; None where there are none.

        Assigning a file, a folder, a hub id, or an object of diffusers or ours, plugs those in.
        """
        from animatediff.weights.diffusers_motion import as_diffusers

        return None if self.attachment is None else as_diffusers(self.attachment.adapter, self.family)

    @property
    def components(self) -> dict[str, Any]:
        """Parts of the pipeline by their names in diffusers, whose AnimateDiff pipelines are made of the same."""
        found = {name: part for name, part in self.base.components.items() if name != "safety_checker"}
        found["motion_adapter"] = self.motion_adapter
        if networks := [*self.controlnets, *([] if self.sparsectrl is None else [self.sparsectrl])]:
            found["controlnet"] = networks[0] if len(networks) == 1 else networks
        return found

    def register_modules(self, **parts: Any) -> None:
        """Exchange parts by name, as `pipe.vae = ...` does."""
        for name, part in parts.items():
            setattr(self, name, part)

    def _check_in_memory(self) -> None:
        if self.unet is None:
            raise UserError(
                "this pipeline has no UNet, so that it can encode prompts alone; make it with all its parts"
            )
        if self.unet.device.type == "meta":
            raise UserError("load motion modules and LoRAs before enable_sequential_cpu_offload hides the weights")

    def set_sparsectrl(self, encoder: SparseCtrl | None) -> None:
        """Use an encoder that is already in memory, such as one in training; None for none."""
        if encoder is not self.sparsectrl:
            self._trained_with("sparsectrl", {})
        self.sparsectrl = None if encoder is None else encoder.to(self.unet.device, self.unet.dtype)

    def set_camera_control(self, control: CameraCtrl | None) -> None:
        """Use a CameraCtrl model that is already in memory, such as one in training; None for none.

        Raises UserError where the loaded motion modules are not those that it merges poses into.
        """
        if control is not None:
            if self.attachment is None:
                raise UserError(
                    "camera poses act on motion modules, and none are loaded; call load_motion_module first"
                )
            try:
                control.check_fits(self.attachment.adapter.layout)
            except ValueError as error:
                raise UserError(f"this CameraCtrl model does not fit: {error}") from None
            control = control.to(self.unet.device, self.unet.dtype)
        if control is not self.camera_control:
            self._trained_with("camera_control", {})
        self.camera_control = control

    # -- settings ----------------------------------------------------------------------------------------------------

    def set_scheduler(self, name: str) -> None:
        """Choose the sampler by a short name (`euler_a`, `dpmpp_2m_karras`) or a diffusers class name.

        Raises UserError for an unknown one, and for one that cannot sample this base model.
        """
        before = self.sampler.name, self.sampler.by_hand
        self.sampler.choose(name)
        try:
            self.renew_scheduler()
        except UserError:
            self.sampler.name, self.sampler.by_hand = before
            raise

    def _disable(self, names: set[str]) -> None:
        """Switch few-step LoRAs off; the sampler follows."""
        self.sampler.disabled = names
        if not self.sampler.by_hand:
            self.renew_scheduler()

    def _trained_with(self, name: str, settings: Mapping[str, Any]) -> None:
        """Note the settings that an adapter was trained with in place of the base model's; the sampler follows."""
        before = self.sampler.trained_with.pop(name, {})
        if settings:
            self.sampler.trained_with[name] = settings
            logger.info("%s: trained with %s, which is used", name, told(settings))
        if (before or settings) and not self.sampler.by_hand:
            self.renew_scheduler()
        elif settings:
            self.sampler.say_contradictions(self.family)

    def renew_scheduler(self) -> None:
        """Make the scheduler anew: the chosen sampler, or the family's, or the base model's own."""
        self.base.scheduler = self.sampler.scheduler(self.family)

    @property
    def recommended(self) -> Recommended:
        """Settings that suit the loaded motion module and few-step LoRAs; None where neither has any."""
        return self.sampler.recommended(self.family)

    @property
    def defaults(self) -> Defaults:
        """Defaults of a call, by the loaded models."""
        recommended = self.recommended
        native = int(self.unet.config["sample_size"]) * self.base.vae_scale_factor

        def setting(name: str, otherwise: Any) -> Any:
            value = getattr(recommended, name)
            return otherwise if value is None else value

        num_frames = setting("num_frames", 16)
        return Defaults(
            num_frames=num_frames,
            num_inference_steps=setting("num_inference_steps", 25),
            guidance_scale=setting("guidance_scale", 7.5),
            height=setting("height", native),
            width=setting("width", native),
            fps=FPS,
            window=num_frames,
        )

    def _plug_in(self, motion: Any, family: str | None = None) -> None:
        raise NotImplementedError

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or dtype, as in diffusers; motion modules, SparseCtrl and CameraCtrl go with the UNet.

        Without a dtype each keeps its own: an encoder in training is float32 beside a frozen UNet in bfloat16.

        The device is also taken as `torch_device`, the dtype as `torch_dtype`. Raises UserError for anything else.
        """
        for name in ("device", "dtype"):
            if f"torch_{name}" in kwargs:
                kwargs[name] = kwargs.pop(f"torch_{name}")
        if odd := set(kwargs) - {"device", "dtype", "silence_dtype_warnings"}:
            raise unknown("argument of `to`", min(odd), ("device", "dtype"))
        if isinstance(kwargs.get("dtype"), str):
            kwargs["dtype"] = as_dtype(kwargs["dtype"], self.unet.device)
        forget_place(self)
        with quiet_loading():
            self.base.to(*args, **kwargs)
            typed = kwargs.get("dtype") is not None or any(isinstance(arg, torch.dtype) for arg in args)
            beside = (self.sparsectrl, self.motion_image_encoder, self.camera_control)
            for network in (*self.controlnets, *(each for each in beside if each is not None)):
                network.to(self.unet.device, self.unet.dtype if typed else None)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "base" or (name.startswith("__") and name.endswith("__")):  # not yet set, or of Python's own
            raise AttributeError(name)
        return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARTS:
            setattr(self.base, name, value)
            if name == "scheduler":
                self.sampler.give(value)
                self.sampler.say_contradictions(self.family)
            elif name == "unet":
                self.sampler.distilled = guidance_width(value) is not None
        elif name in ("feature_extractor", "image_encoder"):
            self.base.register_modules(**{name: value})
        elif name == "motion_adapter":
            self.unload_motion_module() if value is None else self._plug_in(value)
        else:
            super().__setattr__(name, value)

    @property
    def image(self) -> BasePipeline:
        """Former name of `base`."""
        warn_once("pipe.image", "pipe.base")
        return self.base

    @property
    def sparsectrl_kind(self) -> str | None:
        """`rgb` or `scribble`; None where no SparseCtrl encoder is loaded."""
        return None if self.sparsectrl is None else self.sparsectrl.kind

    @property
    def text_encoders(self) -> list[torch.nn.Module]:
        """Text encoders of the base model: one, of SDXL two."""
        encoders = (getattr(self.base, name, None) for name in ("text_encoder", "text_encoder_2"))
        return [encoder for encoder in encoders if encoder is not None]

    @property
    def _tokenizers(self) -> list[Any]:
        names = ("tokenizer", "tokenizer_2")
        return [tokenizer for name in names if (tokenizer := getattr(self.base, name, None)) is not None]

    @property
    def _lora_models(self) -> list[torch.nn.Module]:
        return [self.unet, *self.text_encoders]


def base_pipeline(components: Mapping[str, Any]) -> BasePipeline:
    """Make diffusers' own image pipeline of `components` (named as there); SDXL if there is a second text encoder."""
    import diffusers

    parts: dict[str, Any] = dict(components)
    check_parts(parts.get("unet"), parts.get("vae"), parts.get("text_encoder_2"))
    sdxl = parts.get("tokenizer_2") is not None or parts.get("text_encoder_2") is not None
    with quiet_loading():  # diffusers imports a pipeline, and what that needs, when it is named
        kind: Any = diffusers.StableDiffusionXLPipeline if sdxl else diffusers.StableDiffusionPipeline
    if sdxl:
        return kind(**parts, add_watermarker=False)
    parts = {"safety_checker": None, "feature_extractor": None, **parts}
    scheduler: Any = parts.get("scheduler")
    stated = getattr(scheduler, "_internal_dict", None)
    made = kind(**parts, requires_safety_checker=False)
    if stated is not None:
        scheduler._internal_dict = stated  # diffusers changes steps_offset and clip_sample, whatever is given
    return made


def check_parts(unet: Any, vae: Any, text_encoder_2: Any, *, ip_adapter: bool = False) -> None:
    """Raise UserError where UNet or VAE are of another kind of model than Stable Diffusion."""
    pooled = None if text_encoder_2 is None else int(text_encoder_2.config.projection_dim)
    if unet is not None:
        check_unet(unet, pooled=pooled, ip_adapter=ip_adapter)
    if vae is not None:
        check_vae(vae, sdxl=text_encoder_2 is not None)


def guidance_width(unet: Any) -> int | None:
    """Width of the guidance embedding that a UNet takes, as models distilled by LCM do; None for others."""
    return getattr(getattr(unet, "config", None), "time_cond_proj_dim", None)


def is_sdxl(base: BasePipeline) -> bool:
    """Whether the base model takes SDXL's second text encoder and size conditions."""
    return getattr(base, "text_encoder_2", None) is not None
