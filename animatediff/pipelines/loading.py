"""What an AnimateDiff pipeline is made of, and how its parts are loaded, exchanged and set.

The image pipeline stays what it is, and does what it knows how to do: encode prompts, load IP-Adapters and textual
inversions, move to a device, offload. diffusers itself is imported when the first model is loaded, so that importing
this module costs little more than importing torch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError
from animatediff.motion import Attachment, MotionAdapter, attach
from animatediff.pipelines.assemble import image_pipeline
from animatediff.pipelines.checks import as_list
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.precision import as_dtype, default_device
from animatediff.sampling import make_scheduler, scheduler_name
from animatediff.weights.silence import quiet_loading

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from typing_extensions import Self

    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.pipelines.assemble import ImagePipeline
    from animatediff.weights.families import Family, Recommended

logger = logging.getLogger(__name__)

FPS = 8.0
# Parts of the image pipeline that may be exchanged, as in diffusers: `pipe.scheduler = ...`.
_PARTS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class LoadedPipeline:
    """An image model, motion modules, and what was loaded beside them.

    `image` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    image: ImagePipeline
    attachment: Attachment | None
    family: Family | None
    sparsectrl: SparseCtrl | None
    controlnets: list[ControlNetModel]

    def __init__(self, image: ImagePipeline) -> None:
        self.image = image
        self.attachment = None
        self.family = None
        self.sparsectrl = None
        self._few_steps: dict[str, Recommended] = {}
        """What LoRAs that were made for few steps want, by their names."""
        self._resting: set[str] = set()
        """Those of them that are switched off."""
        self._scheduler_given = False
        """Whether a scheduler was put in by hand (`pipe.scheduler = ...`), which LoRAs leave alone."""
        self.controlnets = []
        self._base_schedule = image.scheduler
        self._scheduler_name: str | None = None

    # -- loading -----------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        torch_dtype: torch.dtype | str | None = None,
        **settings: Any,
    ) -> Self:
        """Load a base model from a diffusers folder, a single file, "bundled/neon", or (needing the network) a hub id.

        `torch_dtype` None is the best that the hardware has. `settings` go to `weights.base`: `vae`, `variant`, ....
        Raises UserError for anything that is not a complete Stable Diffusion model.
        """
        from animatediff.bundled import named
        from animatediff.weights.base.single_file import load_base

        source = named(pretrained_model_name_or_path)
        parts = load_base(source, dtype=as_dtype(torch_dtype, default_device()), **settings)
        return cls(image_pipeline(parts))

    @classmethod
    def from_single_file(
        cls, path: str | Path, *, torch_dtype: torch.dtype | str | None = None, **settings: Any
    ) -> Self:
        """Load a base model from one `.safetensors` or `.ckpt` file (SD 1.x, SD 2.x, SDXL), without network.

        `settings`: `vae` and others of `weights.base.load_base_single_file`. Raises UserError as `from_pretrained`.
        """
        from animatediff.weights.base.single_file import load_base_single_file

        parts = load_base_single_file(path, dtype=as_dtype(torch_dtype, default_device()), **settings)
        return cls(image_pipeline(parts))

    @classmethod
    def from_bundled(cls, *, torch_dtype: torch.dtype | str | None = "float32") -> Self:
        """The small model that ships with the package, with its motion module; needs no download and no GPU."""
        from animatediff.bundled import bundled_path, motion_module_path

        pipe = cls.from_pretrained(bundled_path(), torch_dtype=torch_dtype)
        pipe.load_motion_module(motion_module_path())
        return pipe

    def load_motion_module(self, path: str | Path, *, family: str | None = None) -> Family:
        """Plug in motion weights of any family: a file, a diffusers folder, a hub id, "bundled". Returns what they are.

        The file's own keys and shapes say how it was trained; `family` overrides that. The noise schedule and, unless
        one was chosen, the sampler become those of the family. Motion modules that were there before are taken out.
        Raises UserError if it is another kind of file or made for another kind of base model.
        """
        from animatediff.bundled import motion_module_path
        from animatediff.weights.lora.few_steps import few_steps
        from animatediff.weights.motion import load_motion_module

        path = motion_module_path() if path == "bundled" else path
        adapter, found = load_motion_module(path, family=family, unet=self.unet, dtype=self.unet.dtype)
        self.set_motion_adapter(adapter, found)
        if (wanted := few_steps(found.recommended)) is not None:
            logger.info("%s: made for few steps: takes %s, unless told otherwise", found.title, wanted)
        return found

    def set_motion_adapter(self, adapter: MotionAdapter, family: Family | None = None) -> None:
        """Plug in motion modules that are already in memory, such as new ones to be trained."""
        self._check_in_memory()
        self.unload_motion_module()
        self.attachment = attach(self.unet, adapter.to(self.unet.device).eval().requires_grad_(False))
        self.family = family
        self._renew_scheduler()

    def unload_motion_module(self) -> None:
        """Take the motion modules out; the image model is as it was before."""
        if self.attachment is not None:
            self.attachment.detach()
        self.attachment = self.family = None

    def load_lora_weights(self, path: str | Path, *, adapter_name: str | None = None, scale: float = 1.0) -> str:
        """Add a MotionLoRA, a domain adapter, or a LoRA of the image model (kohya, diffusers); returns its name.

        `path` may be the short name of a MotionLoRA in models/MotionLoRA, such as "ZoomIn", or of the bundled set, such
        as "bundled/paper". Several can be loaded; all act at their own strength until `set_adapters` says otherwise.
        An LCM-LoRA brings its sampler, steps and guidance while it acts, unless others are chosen
        (`weights.few_steps` says how it is known). Raises UserError for a file that is no LoRA or fits nothing in this
        model.
        """
        from animatediff.bundled import named
        from animatediff.weights.hub import KNOWN_FILES, fetch, motion_lora_file
        from animatediff.weights.lora.few_steps import few_step_lora, few_steps
        from animatediff.weights.lora.load import load_lora, lora_file
        from animatediff.weights.storage.files import read_header

        self._check_in_memory()
        encoders = self._text_encoders
        if (path := motion_lora_file(named(path))) in KNOWN_FILES:
            path = fetch(path, download=False)
        name = load_lora(path, unet=self.unet, text_encoders=encoders, adapter_name=adapter_name, scale=scale).name
        if (few := few_step_lora(read_header(lora_file(path)))) is not None:
            self._few_steps[name] = few.recommended
            self._set_resting(self._resting | ({name} if scale == 0 else set()))
            logger.info(
                "%s: an %s (%s): takes %s, unless told otherwise",
                path,
                few.title,
                few.evidence,
                few_steps(few.recommended),
            )
        return name

    def _check_in_memory(self) -> None:
        if self.unet.device.type == "meta":
            raise UserError("load motion modules and LoRAs before enable_sequential_cpu_offload hides the weights")

    def set_adapters(self, adapter_names: Sequence[str] | str, adapter_weights: Sequence[float] | float = 1.0) -> None:
        """Set the strengths of loaded LoRAs; those that are not named are switched off, as in diffusers."""
        from animatediff.weights.lora.load import lora_names, set_lora_scales

        names = as_list(adapter_names)
        weights = [adapter_weights] * len(names) if isinstance(adapter_weights, int | float) else list(adapter_weights)
        if len(names) != len(weights):
            raise UserError(f"{len(names)} adapters ({', '.join(names)}) want {len(names)} weights, got {len(weights)}")
        off = dict.fromkeys(lora_names(self._lora_models), 0.0)
        scales = off | dict(zip(names, weights, strict=True))
        set_lora_scales(self._lora_models, scales)
        self._set_resting({name for name in self._few_steps if not scales[name]})

    def unload_lora_weights(self, adapter_name: str | None = None) -> None:
        """Remove one LoRA, or all; what they were loaded into is exactly as it was before."""
        from animatediff.weights.lora.load import lora_names, remove_lora

        for name in [adapter_name] if adapter_name is not None else lora_names(self._lora_models):
            remove_lora(self._lora_models, name)
            if self._few_steps.pop(name, None) is not None:
                self._set_resting(self._resting - {name})

    def load_sparsectrl(self, path: str | Path) -> str:
        """Load a SparseCtrl encoder: a file, a diffusers folder, or a hub id. Returns its kind, `rgb` or `scribble`.

        "bundled/sparsectrl_rgb" is that of the bundled set. One that was there before is let go. Raises UserError for
        another kind of file, or an encoder of another base.
        """
        from animatediff.bundled import named
        from animatediff.weights.sparsectrl import load_sparsectrl

        self.set_sparsectrl(load_sparsectrl(named(path), unet=self.unet, dtype=self.unet.dtype))
        assert self.sparsectrl is not None
        return self.sparsectrl.kind

    def set_sparsectrl(self, encoder: SparseCtrl | None) -> None:
        """Use an encoder that is already in memory, such as one in training; None for none."""
        self.sparsectrl = None if encoder is None else encoder.to(self.unet.device, self.unet.dtype)

    def load_controlnet(self, path: str | Path) -> ControlNetModel:
        """Add a ControlNet: a diffusers folder, or a file in diffusers' names or the original's.

        Each call may give each of them frames to follow.
        Raises UserError for anything else, and for one of another base model.
        """
        from animatediff.weights.addons.controlnet import load_controlnet

        net = load_controlnet(path, unet=self.unet, dtype=self.unet.dtype)
        self.controlnets.append(net.to(self.unet.device))
        return net

    def unload_controlnets(self) -> None:
        """Let all of them go."""
        self.controlnets.clear()

    def load_ip_adapter_file(self, path: str | Path, *, image_encoder: str | Path | None = None) -> None:
        """Load an IP-Adapter file by diffusers' own loader, with the image encoder that lies beside it unless named.

        Its strength is set by `set_ip_adapter_scale`; `unload_ip_adapter` takes it out. Raises UserError for another
        kind of file, another base model's, or a missing image encoder.
        """
        from animatediff.weights.addons.ip_adapter import load_ip_adapter

        self._check_in_memory()
        load_ip_adapter(self.image, path, self.unet, image_encoder)

    def load_textual_inversion(self, path: str | Path, token: str | None = None) -> str:
        """Add the word of a textual inversion file (A1111 or diffusers); returns it, to be used in prompts.

        Raises UserError for another kind of file, another base model's, or a word that is known already.
        """
        from animatediff.weights.addons.embeddings import load_embedding

        tokenizers = [t for n in ("tokenizer", "tokenizer_2") if (t := getattr(self.image, n, None)) is not None]
        return load_embedding(path, tokenizers=tokenizers, text_encoders=self._text_encoders, token=token).token

    # -- settings ----------------------------------------------------------------------------------------------------

    def set_scheduler(self, name: str) -> None:
        """Choose the sampler by a short name (`euler_a`, `dpmpp_2m_karras`) or a diffusers class name."""
        self._scheduler_name, self._scheduler_given = scheduler_name(name), False
        self._renew_scheduler()

    def _set_resting(self, names: set[str]) -> None:
        """Say which few-step LoRAs are switched off; the sampler follows."""
        self._resting = names
        if not self._scheduler_given:
            self._renew_scheduler()

    def _renew_scheduler(self) -> None:
        """The chosen sampler, or the family's, or the base model's own, on the schedule the motion was trained with."""
        betas = self.family.betas if self.family is not None else None
        recommended = self.advice.scheduler
        own = type(self._base_schedule).__name__
        self.image.scheduler = make_scheduler(
            self._scheduler_name or recommended or own, self._base_schedule.config, betas
        )

    @property
    def advice(self) -> Recommended:
        """What suits the motion module, and before it a few-step LoRA that acts; None where neither says anything."""
        from animatediff.weights.families import Recommended

        advice = self.family.recommended if self.family is not None else Recommended()
        for name, few in self._few_steps.items():
            if name not in self._resting:
                advice = replace(advice, **{key: value for key, value in vars(few).items() if value is not None})
        return advice

    @property
    def defaults(self) -> Defaults:
        """What a call takes where it is not told otherwise."""
        advice = self.advice
        native = int(self.unet.config["sample_size"]) * self.image.vae_scale_factor

        def advised(name: str, otherwise: Any) -> Any:
            value = getattr(advice, name)
            return otherwise if value is None else value

        num_frames = advised("num_frames", 16)
        return Defaults(
            num_frames=num_frames,
            num_inference_steps=advised("num_inference_steps", 25),
            guidance_scale=advised("guidance_scale", 7.5),
            height=advised("height", native),
            width=advised("width", native),
            fps=FPS,
            window=num_frames,
        )

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or dtype, as in diffusers; motion modules and SparseCtrl go with the UNet."""
        with quiet_loading():
            self.image.to(*args, **kwargs)
            self.set_sparsectrl(self.sparsectrl)
            for net in self.controlnets:
                net.to(self.unet.device, self.unet.dtype)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "image":  # not yet set: do not look for it in itself
            raise AttributeError(name)
        return getattr(self.image, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARTS:
            setattr(self.image, name, value)
            if name == "scheduler":
                self._base_schedule, self._scheduler_name, self._scheduler_given = value, None, True
        else:
            super().__setattr__(name, value)

    @property
    def _text_encoders(self) -> list[torch.nn.Module]:
        encoders = (getattr(self.image, name, None) for name in ("text_encoder", "text_encoder_2"))
        return [encoder for encoder in encoders if encoder is not None]

    @property
    def _lora_models(self) -> list[torch.nn.Module]:
        return [self.unet, *self._text_encoders]
