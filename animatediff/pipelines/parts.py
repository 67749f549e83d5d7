"""Parts of an AnimateDiff pipeline: how they are loaded, exchanged and set.

The base pipeline of diffusers is not changed, and does its own work: encode prompts, load IP-Adapters and textual
inversions, move to a device, offload. diffusers itself is imported when the first model is loaded, so that importing
this module costs little more than importing torch.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError
from animatediff.motion import Attachment, MotionAdapter, attach
from animatediff.moved import warn_once
from animatediff.pipelines.output import Defaults
from animatediff.pipelines.precision import as_dtype, default_device
from animatediff.pipelines.scheduler import SamplerChoice
from animatediff.pipelines.supported import check_unet, check_vae
from animatediff.prompts.words import spell_out
from animatediff.weights.silence import quiet_loading

if TYPE_CHECKING:
    from diffusers import ControlNetModel, StableDiffusionPipeline, StableDiffusionXLPipeline
    from typing_extensions import Self

    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.weights.addons.embeddings import LoadedEmbedding
    from animatediff.weights.families import Family, Recommended

    BasePipeline = StableDiffusionPipeline | StableDiffusionXLPipeline

logger = logging.getLogger(__name__)

FPS = 8.0
# Parts of the image pipeline that may be exchanged, as in diffusers: `pipe.scheduler = ...`.
_PARTS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class LoadedParts:
    """An image model, motion modules, and the networks loaded beside them.

    `base` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    base: BasePipeline
    attachment: Attachment | None
    family: Family | None
    sparsectrl: SparseCtrl | None
    controlnets: list[ControlNetModel]
    embeddings: list[LoadedEmbedding]
    sampler: SamplerChoice
    call_settings: dict[str, Any]
    """Arguments of calls that do not give them, such as those that `enable_free_init` sets."""
    pag_applied_layers: list[str] | None
    """Layers of perturbed-attention guidance (`set_pag_applied_layers`)."""

    def __init__(self, base: BasePipeline) -> None:
        self.base = base
        self.attachment = None
        self.family = None
        self.sparsectrl = None
        self.controlnets = []
        self.embeddings = []
        self.call_settings = {}
        self.pag_applied_layers = None
        if hasattr(base, "maybe_convert_prompt"):
            base.maybe_convert_prompt = spell_out
        self.sampler = SamplerChoice(base.scheduler, distilled=guidance_width(base.unet) is not None)

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
        return cls(base_pipeline(parts))

    @classmethod
    def from_single_file(
        cls, path: str | Path, *, torch_dtype: torch.dtype | str | None = None, **settings: Any
    ) -> Self:
        """Load a base model from one `.safetensors` or `.ckpt` file (SD 1.x, SD 2.x, SDXL), without network.

        `settings`: `vae` and others of `weights.base.load_base_single_file`. Raises UserError as `from_pretrained`.
        """
        from animatediff.weights.base.single_file import load_base_single_file

        parts = load_base_single_file(path, dtype=as_dtype(torch_dtype, default_device()), **settings)
        return cls(base_pipeline(parts))

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
        self.renew_scheduler()

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
        (`weights.few_steps` says how it is known); embeddings that come in the file become words of the prompt, and
        stay. Raises UserError for a file that is no LoRA or fits nothing in this model.
        """
        from animatediff.bundled import named
        from animatediff.weights.hub import KNOWN_FILES, fetch, motion_lora_file
        from animatediff.weights.lora.bundled_words import load_bundled_words
        from animatediff.weights.lora.few_steps import few_step_lora, few_steps
        from animatediff.weights.lora.load import load_lora
        from animatediff.weights.lora.source import lora_header

        self._check_in_memory()
        encoders = self.text_encoders
        if (path := motion_lora_file(named(path))) in KNOWN_FILES:
            path = fetch(path, download=False)
        loaded = load_lora(path, unet=self.unet, text_encoders=encoders, adapter_name=adapter_name, scale=scale)
        name = loaded.name
        if loaded.embeddings:
            self.embeddings += load_bundled_words(path, tokenizers=self._tokenizers, text_encoders=encoders)
        if (few := few_step_lora(lora_header(path))) is not None:
            self.sampler.few_steps[name] = few.recommended
            self._disable(self.sampler.disabled | ({name} if scale == 0 else set()))
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

        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        weights = [adapter_weights] * len(names) if isinstance(adapter_weights, int | float) else list(adapter_weights)
        if len(names) != len(weights):
            raise UserError(f"{len(names)} adapters ({', '.join(names)}) want {len(names)} weights, got {len(weights)}")
        off = dict.fromkeys(lora_names(self._lora_models), 0.0)
        scales = off | dict(zip(names, weights, strict=True))
        set_lora_scales(self._lora_models, scales)
        self._disable({name for name in self.sampler.few_steps if not scales[name]})

    def unload_lora_weights(self, adapter_name: str | None = None) -> None:
        """Remove one LoRA, or all; the models are exactly as they were before."""
        from animatediff.weights.lora.load import lora_names, remove_lora

        for name in [adapter_name] if adapter_name is not None else lora_names(self._lora_models):
            remove_lora(self._lora_models, name)
            if self.sampler.few_steps.pop(name, None) is not None:
                self._disable(self.sampler.disabled - {name})

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

        controlnet = load_controlnet(path, unet=self.unet, dtype=self.unet.dtype)
        self.controlnets.append(controlnet.to(self.unet.device))
        return controlnet

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
        load_ip_adapter(self.base, path, self.unet, image_encoder)

    def load_textual_inversion(
        self, path: str | Path | Mapping[str, torch.Tensor], token: str | None = None, *, name: str | None = None
    ) -> str:
        """Add the word of a textual inversion (A1111 or diffusers); returns it, to be used in prompts.

        `path`: a file, a folder of the hub, or tensors with their `name`. The name of a file is accepted as its word
        too; several words of one file are returned with spaces between. Raises UserError for another kind of file,
        another base model's, or a word that is known already.
        """
        from animatediff.weights.addons.embeddings import load_embedding

        encoders = self.text_encoders
        loaded = load_embedding(path, tokenizers=self._tokenizers, text_encoders=encoders, token=token, name=name)
        self.embeddings.extend(loaded.all)
        return " ".join(embedding.token for embedding in loaded.all)

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

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device or dtype, as in diffusers; motion modules and SparseCtrl go with the UNet."""
        with quiet_loading():
            self.base.to(*args, **kwargs)
            self.set_sparsectrl(self.sparsectrl)
            for controlnet in self.controlnets:
                controlnet.to(self.unet.device, self.unet.dtype)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "base":  # not yet set: do not look for it in itself
            raise AttributeError(name)
        return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARTS:
            setattr(self.base, name, value)
            if name == "scheduler":
                self.sampler.give(value)
            elif name == "unet":
                self.sampler.distilled = guidance_width(value) is not None
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
    if parts.get("tokenizer_2") is not None or parts.get("text_encoder_2") is not None:
        return diffusers.StableDiffusionXLPipeline(**parts, add_watermarker=False)
    parts = {"safety_checker": None, "feature_extractor": None, **parts}
    scheduler: Any = parts.get("scheduler")
    stated = getattr(scheduler, "_internal_dict", None)
    made = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    if stated is not None:
        scheduler._internal_dict = (
            stated  # diffusers sets steps_offset to 1 and clip_sample to False, whatever is given
        )
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
    return getattr(unet.config, "time_cond_proj_dim", None)


def is_sdxl(base: BasePipeline) -> bool:
    """Whether the base model takes SDXL's second text encoder and size conditions."""
    return getattr(base, "text_encoder_2", None) is not None
