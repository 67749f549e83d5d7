"""`AnimateDiffPipeline`: an image pipeline of diffusers, motion modules inside its UNet, and one loop over frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter, signature
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import larger
from animatediff.pipelines.conditions import PreparedConditions, Setting, on_device, prepare_all
from animatediff.pipelines.habits import Habits
from animatediff.pipelines.job import Job
from animatediff.pipelines.loading import Loading
from animatediff.pipelines.output import AnimateDiffOutput, Callbacks, gathered
from animatediff.pipelines.parts import guidance_width
from animatediff.pipelines.prompts import PromptEmbeds, encode_prompts
from animatediff.pipelines.subjects import warn_of_no_effect
from animatediff.pipelines.upscale import enlarged, tiling
from animatediff.pipelines.vae import decode_images, wide_enough
from animatediff.sampling import ClipPredictor, begin_at, free_init, guided, set_steps, windowed
from animatediff.sampling.predict import Predict
from animatediff.sampling.sample import ClipSampler
from animatediff.sampling.schedulers import last_alpha_cumprod

P = ParamSpec("P")


def _takes(arguments: Callable[P, Arguments]) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], Any]]:
    """Let a method take the arguments of `Arguments`, written once there, and hand them over as one object."""

    def decorate(method: Callable[[Any, Arguments], Any]) -> Callable[Concatenate[Any, P], Any]:
        @wraps(method)
        def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            return method(self, arguments(*args, **{**self.call_settings, **kwargs}))

        own = signature(arguments)
        first = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        call.__signature__ = own.replace(parameters=[first, *own.parameters.values()])  # pyright: ignore
        return call

    return decorate


class AnimateDiffPipeline(Loading, Habits):
    """Text to animation with any Stable Diffusion 1.x, 2.x or SDXL model.

    `base` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    @_takes(Arguments)
    def __call__(self, call: Arguments) -> AnimateDiffOutput:
        """Render one clip a prompt. `Arguments` has the arguments; all but `prompt` are given by name.

        A prompt is a text, a mapping of frames to texts (`{0: "spring", 12: "summer"}`) or a `PromptTravel`, which has
        more to set. With SparseCtrl loaded, the clip shows `conditioning_frames` at `controlnet_frame_indices`; loaded
        ControlNets follow `controlnet_inputs`, IP-Adapters see `ip_adapter_image`; a clip shows `images` at some of its
        frames by the route `image_mode`; `video` is where sampling begins.

        Raises UserError for values out of range, Cancelled if cancelled.
        """
        job = self._job(call)
        callbacks = Callbacks(call.on_progress, call.cancel)
        latents = self.sample(job, callbacks)
        if call.output_type == "latent":
            frames: Any = latents
        else:
            frames = gathered(self.decode(latents, job, callbacks), job.clip.num_clips, call.output_type)
        self.base.maybe_free_model_hooks()
        return AnimateDiffOutput(frames)

    @_takes(Arguments)
    def job(self, call: Arguments) -> Job:
        """Complete and check the arguments of a call; nothing is computed. Raises UserError as the call does.

        Warns of arguments that have no effect (`pipelines.subjects`).
        """
        return self._job(call)

    @_takes(Arguments)
    def check(self, call: Arguments) -> None:
        """Check the arguments of a call as `job` does, without a word. Raises UserError as the call does."""
        Job.of(call, self)

    def _job(self, call: Arguments) -> Job:
        job = Job.of(call, self)
        warn_of_no_effect(job, self)
        return job

    @torch.no_grad()
    def sample(self, job: Job, callbacks: Callbacks | None = None) -> Tensor:
        """Sample a job: latents (b, c, f, h, w), larger ones where it asks for a second pass. Raises Cancelled."""
        callbacks = callbacks or Callbacks()
        if job.call.upscale is not None:
            return self._sample_twice(job, callbacks)
        device, call = self.base._execution_device, job.call
        noise = job.draw() if call.latents is None else call.latents
        prompts = encode_prompts(
            self.base,
            job.prompts,
            job.negatives,
            num_frames=job.clip.num_frames,
            guidance=job.guidance,
            clip_skip=call.clip_skip,
            plain=call.plain_prompts,
            size=(job.clip.height, job.clip.width),
            device=device,
        )
        scheduler: Any = self.base.scheduler
        set_steps(scheduler, job.steps, device)
        timesteps = begin_at(scheduler, job.steps, job.strength) if job.strength < 1 else scheduler.timesteps
        total_steps = len(timesteps) * job.free_init.iterations

        def after_step(index: int, timestep: Tensor, latents: Tensor, estimate: Tensor) -> Tensor:
            if call.callback_on_step_end is not None:
                changed = call.callback_on_step_end(self, index, timestep, {"latents": latents})
                latents = changed.get("latents", latents)
            callbacks.step("denoise", index + 1, total_steps, estimate)
            return latents

        with on_device([network for condition in job.conditions for network in condition.networks()], device):
            setting = Setting(
                parts=self,
                clip=job.clip,
                timesteps=timesteps,
                noise=noise,
                guidance=job.guidance,
                device=device,
                callbacks=callbacks,
            )
            conditions = prepare_all(job.conditions, setting)
            sampler = ClipSampler(
                predict=self._predict(job, prompts, conditions),
                scheduler=scheduler,
                num_steps=job.steps,
                timesteps=timesteps,
                step_arguments=self.base.prepare_extra_step_kwargs(job.generators, call.eta),
                device=device,
                init_latents=conditions.init_latents,
                keep=conditions.keep,
                after_step=after_step,
            )
            latents = free_init(
                sampler,
                noise,
                settings=job.free_init,
                draw=job.draw,
                alpha_cumprod=last_alpha_cumprod(scheduler),
            )
        if not latents.isfinite().all():
            reason = (
                f"{self.unet.dtype} is too narrow for this model; use float32 or bfloat16"
                if self.unet.dtype == torch.float16
                else "weights of the model or of what is added to it are not finite, or act too strongly; leave out "
                "LoRAs and other additions one by one"
            )
            raise UserError(f"the latents are not finite: {reason}")
        return latents

    def _predict(self, job: Job, prompts: PromptEmbeds, conditions: PreparedConditions) -> Predict:
        """Compose the prediction of a step: the UNet on clips, with guidance, over context windows."""
        assert self.attachment is not None, "checked when the job was made"
        predict: Predict = ClipPredictor(
            self.unet,
            self.attachment.frames,
            prompts.embeddings,
            prompts.pooled,
            prompts.time_ids,
            conditions.controls,
            windows=job.windows.in_motion,
            motion_scale=job.motion_scale,
            guidance_embeds=self._guidance_embeds(job),
            image_embeds=conditions.image_embeds,
        )
        if job.guidance:
            predict = guided(predict, job.guidance_scale, job.call.guidance_rescale)
        return windowed(predict, job.windows.over_unet)

    def _guidance_embeds(self, job: Job) -> Tensor | None:
        """The guidance scale, embedded (b, d) for a UNet that takes it so; None for others."""
        width = guidance_width(self.unet)
        if width is None:
            return None
        scales = torch.tensor(job.guidance_scale - 1).repeat(job.clip.num_clips)
        embeds = self.base.get_guidance_scale_embedding(scales, embedding_dim=width)
        return embeds.to(self.base._execution_device, self.unet.dtype)

    def _sample_twice(self, job: Job, callbacks: Callbacks) -> Tensor:
        """Sample a job, enlarge its frames, and sample again from those."""
        first, factor = job.first_pass(), job.call.upscale or 1.0
        decoded = self.decode(self.sample(first, callbacks), first, callbacks)
        height, width = (larger(side, factor) for side in (job.clip.height, job.clip.width))
        frames = (image.float().cpu() for chunk in decoded for image in chunk)
        device, num_frames = self.base._execution_device, job.clip.num_clips * job.clip.num_frames
        latents = enlarged(self.vae, frames, num_frames, (height, width), device, callbacks)
        latents = latents.unflatten(0, (job.clip.num_clips, -1)).transpose(1, 2)
        return self.sample(Job.of(job.second_call(latents, height, width), self), callbacks)

    @torch.no_grad()
    def decode(self, latents: Tensor, job: Job, callbacks: Callbacks | None = None) -> Iterator[Tensor]:
        """Decode latents (b, c, f, h, w) of a job, clip after clip, a few frames at a time: (n, 3, H, W) in 0..1.

        Raises Cancelled after a chunk.
        """
        callbacks = callbacks or Callbacks()
        flat, done = latents.transpose(1, 2).flatten(0, 1), 0
        with wide_enough(self.vae), tiling(self.vae, job.call.upscale is not None):
            for chunk in flat.split(job.decode_chunk_size):
                images = decode_images(self.vae, chunk)
                done += len(images)
                callbacks.step("decode", done, len(flat))
                yield images
