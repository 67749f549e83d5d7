"""`AnimateDiffPipeline`: an image pipeline of diffusers, motion modules inside its UNet, and one loop over frames.

The image pipeline stays what it is, and does what it knows how to do: encode prompts, load IP-Adapters and textual
inversions, move to a device, offload. This class adds what concerns frames. diffusers itself is imported when the first
model is loaded, so that importing this module costs little more than importing torch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.motion import Attachment, MotionAdapter, attach, uniform_windows
from animatediff.pipelines.assemble import image_pipeline, is_sdxl
from animatediff.pipelines.checks import as_list, check_call, check_clip_skip, check_window
from animatediff.pipelines.clip_skip import skipped_states
from animatediff.pipelines.decode import decode
from animatediff.pipelines.output import AnimateDiffOutput, Defaults, Progress
from animatediff.pipelines.precision import as_dtype, default_device
from animatediff.sampling import (
    Cancelled,
    ClipPredictor,
    clip_noise,
    denoise,
    guided,
    make_scheduler,
    one_generator_each,
    scheduler_name,
    set_steps,
    windowed,
)

if TYPE_CHECKING:
    from animatediff.pipelines.assemble import ImagePipeline
    from animatediff.weights.families import Family

logger = logging.getLogger(__name__)

FPS = 8.0
DECODE_CHUNK_SIZE = 4
# Parts of the image pipeline that may be exchanged, as in diffusers: `pipe.scheduler = ...`.
_PARTS = ("unet", "vae", "scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


class AnimateDiffPipeline:
    """Text to animation with any Stable Diffusion 1.x, 2.x or SDXL model.

    `image` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    image: ImagePipeline
    attachment: Attachment | None
    family: Family | None

    def __init__(self, image: ImagePipeline) -> None:
        self.image = image
        self.attachment = None
        self.family = None
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
    ) -> AnimateDiffPipeline:
        """Load a base model from a diffusers folder, a single file, or (needing the network) a hub id.

        `torch_dtype` None is the best that the hardware has. `settings` go to `weights.base`: `vae`, `variant`, ....
        Raises UserError for anything that is not a complete Stable Diffusion model.
        """
        from animatediff.weights.base import load_base

        parts = load_base(pretrained_model_name_or_path, dtype=as_dtype(torch_dtype, default_device()), **settings)
        return cls(image_pipeline(parts))

    @classmethod
    def from_single_file(
        cls, path: str | Path, *, torch_dtype: torch.dtype | str | None = None, **settings: Any
    ) -> AnimateDiffPipeline:
        """Load a base model from one `.safetensors` or `.ckpt` file (SD 1.x, SD 2.x, SDXL), without network.

        `settings`: `vae` and others of `weights.base.load_base_single_file`. Raises UserError as `from_pretrained`.
        """
        from animatediff.weights.base import load_base_single_file

        parts = load_base_single_file(path, dtype=as_dtype(torch_dtype, default_device()), **settings)
        return cls(image_pipeline(parts))

    @classmethod
    def from_bundled(cls, *, torch_dtype: torch.dtype | str | None = "float32") -> AnimateDiffPipeline:
        """The small model that ships with the package, with its motion module; needs no download and no GPU."""
        from animatediff.bundled import bundled_path, motion_module_path

        pipe = cls.from_pretrained(bundled_path(), torch_dtype=torch_dtype)
        pipe.load_motion_module(motion_module_path())
        return pipe

    def load_motion_module(self, path: str | Path, *, family: str | None = None) -> Family:
        """Plug in motion weights of any family: a file, a diffusers folder, or a hub id. Returns what they are.

        The file's own keys and shapes say how it was trained; `family` overrides that. The noise schedule and, unless
        one was chosen, the sampler become those of the family. Motion modules that were there before are taken out.
        Raises UserError if it is another kind of file or made for another kind of base model.
        """
        from animatediff.weights.motion import load_motion_module

        adapter, found = load_motion_module(path, family=family, unet=self.unet, dtype=self.unet.dtype)
        self.set_motion_adapter(adapter, found)
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

        Several can be loaded; all act at their own strength until `set_adapters` says otherwise. Raises UserError for a
        file that is no LoRA or fits nothing in this model.
        """
        from animatediff.weights.lora import load_lora

        self._check_in_memory()
        encoders = self._text_encoders
        return load_lora(path, unet=self.unet, text_encoders=encoders, adapter_name=adapter_name, scale=scale).name

    def _check_in_memory(self) -> None:
        if self.unet.device.type == "meta":
            raise UserError("load motion modules and LoRAs before enable_sequential_cpu_offload hides the weights")

    def set_adapters(self, adapter_names: Sequence[str] | str, adapter_weights: Sequence[float] | float = 1.0) -> None:
        """Set the strengths of loaded LoRAs; those that are not named are switched off, as in diffusers."""
        from animatediff.weights.lora import lora_names, set_lora_scales

        names = as_list(adapter_names)
        weights = [adapter_weights] * len(names) if isinstance(adapter_weights, int | float) else list(adapter_weights)
        if len(names) != len(weights):
            raise UserError(f"{len(names)} adapters ({', '.join(names)}) want {len(names)} weights, got {len(weights)}")
        off = dict.fromkeys(lora_names(self._lora_models), 0.0)
        set_lora_scales(self._lora_models, off | dict(zip(names, weights, strict=True)))

    def unload_lora_weights(self, adapter_name: str | None = None) -> None:
        """Remove one LoRA, or all; what they were loaded into is exactly as it was before."""
        from animatediff.weights.lora import lora_names, remove_lora

        for name in [adapter_name] if adapter_name is not None else lora_names(self._lora_models):
            remove_lora(self._lora_models, name)

    def load_textual_inversion(self, path: str | Path, token: str | None = None) -> str:
        """Add the word of a textual inversion file (A1111 or diffusers); returns it, to be used in prompts.

        Raises UserError for another kind of file, another base model's, or a word that is known already.
        """
        from animatediff.weights.embeddings import load_embedding

        tokenizers = [t for n in ("tokenizer", "tokenizer_2") if (t := getattr(self.image, n, None)) is not None]
        return load_embedding(path, tokenizers=tokenizers, text_encoders=self._text_encoders, token=token).token

    # -- settings ----------------------------------------------------------------------------------------------------

    def set_scheduler(self, name: str) -> None:
        """Choose the sampler by a short name (`euler_a`, `dpmpp_2m_karras`) or a diffusers class name."""
        self._scheduler_name = scheduler_name(name)
        self._renew_scheduler()

    def _renew_scheduler(self) -> None:
        """The chosen sampler, or the family's, or the base model's own, on the schedule the motion was trained with."""
        betas = self.family.betas if self.family is not None else None
        recommended = self.family.recommended.scheduler if self.family is not None else None
        own = type(self._base_schedule).__name__
        self.image.scheduler = make_scheduler(
            self._scheduler_name or recommended or own, self._base_schedule.config, betas
        )

    @property
    def defaults(self) -> Defaults:
        """What a call takes where it is not told otherwise."""
        advice = self.family.recommended if self.family is not None else None
        native = int(self.unet.config["sample_size"]) * self.image.vae_scale_factor

        def advised(name: str, otherwise: Any) -> Any:
            value = getattr(advice, name, None)
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

    def to(self, *args: Any, **kwargs: Any) -> AnimateDiffPipeline:
        """Move to a device or dtype, as in diffusers; the motion modules go with the UNet."""
        self.image.to(*args, **kwargs)
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "image":  # not yet set: do not look for it in itself
            raise AttributeError(name)
        return getattr(self.image, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _PARTS:
            setattr(self.image, name, value)
            if name == "scheduler":
                self._base_schedule, self._scheduler_name = value, None
        else:
            super().__setattr__(name, value)

    @property
    def _text_encoders(self) -> list[torch.nn.Module]:
        encoders = (getattr(self.image, name, None) for name in ("text_encoder", "text_encoder_2"))
        return [encoder for encoder in encoders if encoder is not None]

    @property
    def _lora_models(self) -> list[torch.nn.Module]:
        return [self.unet, *self._text_encoders]

    # -- rendering ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        clip_skip: int | None = None,
        window: int | None = None,
        overlap: int | None = None,
        decode_chunk_size: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> AnimateDiffOutput:
        """Render one clip a prompt.

        None is what `defaults` says. `height` and `width` are pixels, multiples of 8. A `guidance_scale` of at most 1
        renders without negative prompts, at half the cost. `generator`: one, or one a clip; noise is drawn on its
        device. `latents`: (b, 4, f, h, w) noise to start from instead. `clip_skip`: how many of the text encoder's last
        layers to pass over. More frames than the motion module knows are rendered in windows of `window` frames that
        share `overlap` frames with the next. `callback_on_step_end(pipe, step, timestep, {"latents": ...})` may return
        changed latents; `cancel()` is asked after each step. Raises UserError for values out of range, Cancelled if
        cancelled.
        """
        motion = self.attachment
        if motion is None:
            raise UserError(
                "no motion module is loaded, so frames would not know of each other; call load_motion_module"
            )
        defaults = self.defaults
        prompts = as_list(prompt)
        negatives = None if negative_prompt is None else as_list(negative_prompt)
        num_frames = defaults.num_frames if num_frames is None else num_frames
        height = defaults.height if height is None else height
        width = defaults.width if width is None else width
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        chunk_size = DECODE_CHUNK_SIZE if decode_chunk_size is None else decode_chunk_size
        check_call(prompts, negatives, num_frames, height, width, steps, chunk_size, output_type)
        check_clip_skip(clip_skip, self._text_encoders, last=int(is_sdxl(self.image)))
        window, overlap = check_window(
            window, overlap, num_frames, defaults.window, motion.adapter.numerics.max_positions
        )
        if negatives is not None and len(negatives) == 1:
            negatives *= len(prompts)

        device = self.image._execution_device
        factor = self.image.vae_scale_factor
        shape = (len(prompts), self.unet.config["in_channels"], num_frames, height // factor, width // factor)
        generators = one_generator_each(generator, len(prompts))
        if latents is None:
            latents = clip_noise(shape, generators)
        elif latents.shape != shape:
            raise UserError(f"latents must be (b, c, f, h, w) = {shape} for this call, got {tuple(latents.shape)}")

        predict = windowed(
            self._predictor(prompts, negatives, scale, clip_skip, (height, width), device),
            uniform_windows(num_frames, window, overlap),
        )
        scheduler: Any = self.image.scheduler
        set_steps(scheduler, steps, device)
        total = len(scheduler.timesteps)

        def after_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, index, timestep, {"latents": latents}).get("latents", latents)
            _tell(on_progress, cancel, Progress("denoise", index + 1, total))
            return latents

        latents = denoise(
            latents.to(device, torch.float32) * scheduler.init_noise_sigma,
            predict=predict,
            scheduler=scheduler,
            timesteps=scheduler.timesteps,
            step_arguments=self.image.prepare_extra_step_kwargs(generators, eta),
            after_step=after_step,
        )
        if not latents.isfinite().all():
            raise UserError(
                f"the latents are not finite: {self.unet.dtype} is too narrow for this model; use float32 or bfloat16"
            )
        frames = (
            latents if output_type == "latent" else self._decode(latents, chunk_size, output_type, on_progress, cancel)
        )
        self.image.maybe_free_model_hooks()
        return AnimateDiffOutput(frames)

    def _predictor(
        self,
        prompts: list[str],
        negatives: list[str] | None,
        scale: float,
        clip_skip: int | None,
        size: tuple[int, int],
        device: torch.device,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The UNet with its prompts encoded, and guidance around it where `scale` asks for it."""
        guidance = scale > 1
        image: Any = self.image  # SD and SDXL differ in what they return
        texts: dict[str, Any] = {"prompt": prompts, "negative_prompt": negatives, "clip_skip": clip_skip or None}
        if clip_skip and not is_sdxl(image):
            texts = {"prompt": None, "prompt_embeds": skipped_states(image, prompts, clip_skip, device)}
            if guidance:
                empty = [""] * len(prompts)
                texts["negative_prompt_embeds"] = skipped_states(image, negatives or empty, clip_skip, device)
        encoded = image.encode_prompt(
            device=device, num_images_per_prompt=1, do_classifier_free_guidance=guidance, **texts
        )
        positive, negative = encoded[:2]
        pooled = time_ids = None
        if is_sdxl(image):
            pooled, negative_pooled = encoded[2:]
            time_ids = image._get_add_time_ids(
                size, (0, 0), size, positive.dtype, image.text_encoder_2.config.projection_dim
            ).to(device)
            time_ids = time_ids.repeat(len(prompts) * (2 if guidance else 1), 1)
            pooled = torch.cat([negative_pooled, pooled]) if guidance else pooled
        embeddings = torch.cat([negative, positive]) if guidance else positive
        assert self.attachment is not None
        predict = ClipPredictor(self.unet, self.attachment.frames, embeddings, pooled, time_ids)
        return guided(predict, scale) if guidance else predict

    def _decode(
        self,
        latents: Tensor,
        chunk_size: int,
        output_type: str,
        on_progress: Callable[[Progress], None] | None,
        cancel: Callable[[], bool] | None,
    ) -> Any:
        vae: Any = self.vae
        # SDXL's own VAE overflows in float16; its configuration says so.
        upcast = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
        if upcast:
            vae.to(torch.float32)
        try:
            return decode(
                vae,
                latents,
                chunk_size=chunk_size,
                output_type=output_type,
                after_chunk=lambda done, total: _tell(on_progress, cancel, Progress("decode", done, total)),
            )
        finally:
            if upcast:
                vae.to(torch.float16)


def _tell(
    on_progress: Callable[[Progress], None] | None, cancel: Callable[[], bool] | None, progress: Progress
) -> None:
    if on_progress is not None:
        on_progress(progress)
    if cancel is not None and cancel():
        raise Cancelled(f"cancelled after {progress.phase} {progress.step} of {progress.total}")
