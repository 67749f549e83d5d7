"""`AnimateDiffPipeline`: an image pipeline of diffusers, motion modules inside its UNet, and one loop over frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.argument_types import bound, check_order
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.call_state import CallState
from animatediff.pipelines.clip import larger
from animatediff.pipelines.conditions import PreparedConditions, Setting, on_device, prepare_all
from animatediff.pipelines.extras import check_masks, loras_times, on_unet
from animatediff.pipelines.habits import Habits
from animatediff.pipelines.job import Job, schedule_of
from animatediff.pipelines.loading import Loading
from animatediff.pipelines.output import AnimateDiffOutput, Callbacks, gathered
from animatediff.pipelines.parts import guidance_width
from animatediff.pipelines.placement import next_place, vae_away
from animatediff.pipelines.plan import Plan, fit, next_decoding, plan_job
from animatediff.pipelines.prompts import encode_groups
from animatediff.pipelines.step_callback import StepCallback, check_tensor_inputs
from animatediff.pipelines.subjects import warn_of_no_effect
from animatediff.pipelines.turns import turn
from animatediff.pipelines.upscale import enlarged, tiling, warn_of_no_tiles
from animatediff.pipelines.vae import decode_images, wide_enough
from animatediff.sampling import ClipPredictor, GuidedClips, free_init, windowed
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.fast import FastSteps, counted
from animatediff.sampling.features import DeepFeatures
from animatediff.sampling.predict import Predict
from animatediff.sampling.repeat import repeated, stepping, until_it_fits
from animatediff.sampling.sample import ClipSampler
from animatediff.sampling.schedule import Schedule
from animatediff.sampling.schedulers import last_alpha_cumprod

P = ParamSpec("P")


def _takes(arguments: Callable[P, Arguments]) -> Callable[[Callable[..., Any]], Callable[Concatenate[Any, P], Any]]:
    """Let a method take the arguments of `Arguments`, written once there, and hand them over as one object."""

    def decorate(method: Callable[[Any, Arguments], Any]) -> Callable[Concatenate[Any, P], Any]:
        own = signature(arguments)

        @wraps(method)
        def call(self: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
            given = bound(own, args, kwargs)
            check_order(self, args)
            return method(self, arguments(**{**self.call_settings, **given}))  # pyright: ignore

        first = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)
        call.__signature__ = own.replace(parameters=[first, *own.parameters.values()])  # pyright: ignore
        return call

    return decorate


class AnimateDiffPipeline(CallState, Loading, Habits):
    """Text to animation with any Stable Diffusion 1.x, 2.x or SDXL model.

    `base` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    @_takes(Arguments)
    def __call__(self, call: Arguments) -> AnimateDiffOutput | tuple[Any]:
        """Render one clip a prompt. `Arguments` has the arguments, the first ones in the order of diffusers.

        A prompt is a text, a mapping of frames to texts (`{0: "spring", 12: "summer"}`) or a `PromptTravel`, which has
        more to set. With SparseCtrl loaded, the clip shows `conditioning_frames` at `controlnet_frame_indices`; loaded
        ControlNets follow `controlnet_inputs`, IP-Adapters see `ip_adapter_image`; a clip shows `images` at some of its
        frames by the route `image_mode`; `video` is where sampling begins.

        A call in another thread waits until this one is done, as do calls of other pipelines with the same UNet or VAE.
        Raises UserError for values out of range, Cancelled if cancelled.
        """
        callbacks, output_type = Callbacks(call.on_progress, call.cancel), call.output_type or "pil"
        with turn(self, call.cancel):
            job = self._job(call)
            frames: Any = self.sample(job, callbacks)
            if output_type != "latent":
                frames = gathered(self.decode(frames, job, callbacks), job.clip.num_clips, output_type)
            self.base.maybe_free_model_hooks()
        return AnimateDiffOutput(frames) if call.return_dict else (frames,)

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

    @_takes(Arguments)
    def dry_job(self, call: Arguments) -> Job:
        """The job of a call, without a word and without measures against too little memory."""
        return Job.of(call, self)

    def _job(self, call: Arguments) -> Job:
        job = Job.of(call, self)
        check_tensor_inputs(call.callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        warn_of_no_effect(job, self)
        fit(self, job)
        return job

    @_takes(Arguments)
    def plan(self, call: Arguments) -> Plan:
        """What a call needs in memory, and by which measures it fits; nothing is rendered, and no model is moved.

        Arguments as of the call; `vram` bounds what it may take. Raises UserError as the call does.
        """
        return plan_job(self, Job.of(call, self))

    @torch.no_grad()
    def sample(self, job: Job, callbacks: Callbacks | None = None) -> Tensor:
        """Sample a job: latents (b, c, f, h, w), larger ones where it asks for a second pass. Raises Cancelled."""
        callbacks = callbacks or Callbacks()
        with turn(self, callbacks.cancel):
            if job.call.upscale is not None:
                return self._sample_twice(job, callbacks)
            try:
                with loras_times(job.lora_factor, self._lora_models):
                    return self._sample(job, callbacks)
            finally:
                if self.attachment is not None:  # `base`, and others around the same UNet, draw images
                    self.attachment.frames.num_frames = 0

    def _sample(self, job: Job, callbacks: Callbacks) -> Tensor:
        device, call = self.base._execution_device, job.call
        init_latents = self._noiseless(job, device)
        noise = job.draw() if call.latents is None or init_latents is not None else call.latents
        scheduler: Any = self.base.scheduler
        steps_of = partial(job.free_init.steps, job.steps)
        schedule = schedule_of(call, scheduler, job.steps, job.strength, device, steps_of=steps_of)
        total_steps = schedule.total(job.free_init.iterations)
        self._begin(job, total_steps)
        groups = self._conditionings(job, device)
        notify = None
        if call.callback_on_step_end is not None:
            notify = StepCallback(
                pipe=self,
                function=call.callback_on_step_end,
                names=call.callback_on_step_end_tensor_inputs,
                groups=groups,
                num_frames=job.clip.num_frames,
            )

        def after_step(index: int, timestep: Tensor, latents: Tensor, estimate: Tensor) -> Tensor:
            latents = latents if notify is None else notify(index, timestep, latents)
            callbacks.step("denoise", index + 1, total_steps, estimate)
            return latents

        with on_device([network for condition in job.conditions for network in condition.networks()], device):
            setting = Setting(
                parts=self,
                clip=job.clip,
                schedule=schedule,
                noise=noise,
                guidance=job.guidance,
                device=device,
                callbacks=callbacks,
            )
            conditions = prepare_all(job.conditions, setting)
            vae_away(self)
            check_masks(job.attention, conditions.image_embeds)
            for group in groups:
                of_clips = [clip + job.clip.num_clips * row for row in range(1 + job.guidance) for clip in group.own]
                group.image_embeds = [part[of_clips] for part in conditions.image_embeds]
            sampler = ClipSampler(
                predict=self._predict(job, groups, conditions, schedule),
                schedule=schedule,
                step_arguments=self.base.prepare_extra_step_kwargs(job.generators, call.eta),
                device=device,
                init_latents=conditions.init_latents if init_latents is None else init_latents,
                as_given=call.latents is not None and job.strength < 1 and init_latents is None,
                keep=conditions.keep,
                after_step=after_step,
                stopped=lambda: self.interrupt,
            )
            latents = free_init(
                sampler,
                noise,
                settings=job.free_init,
                draw=job.draw,
                alpha_cumprod=last_alpha_cumprod(scheduler),
                stopped=lambda: self.interrupt,
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

    def _conditionings(self, job: Job, device: torch.device) -> list[Conditioning]:
        """Prompts of the clips as the UNet takes them, clips of one length together."""
        encoded = encode_groups(
            self.base,
            job.texts,
            job.call,
            num_frames=job.clip.num_frames,
            guidance=job.guidance,
            size=(job.clip.height, job.clip.width),
            device=device,
        )
        guidance = self._guidance_embeds(job)
        return [
            Conditioning(
                clips=clips * (1 + job.guidance),
                num_negative=len(clips) * job.guidance,
                embeddings=made.embeddings,
                pooled=made.pooled,
                time_ids=made.time_ids,
                guidance_embeds=None if guidance is None else guidance[clips],
            )
            for clips, made in encoded
        ]

    def _noiseless(self, job: Job, device: torch.device) -> Tensor | None:
        """Latents of the call that are to be noised to the first step, as in diffusers where all steps are made."""
        given = job.call.latents
        if given is None or job.strength == 1 or not job.call.enforce_inference_steps:
            return None
        return given.to(device, torch.float32)

    def _predict(
        self, job: Job, groups: list[Conditioning], conditions: PreparedConditions, schedule: Schedule
    ) -> Predict:
        """Compose the prediction of a step: the UNet on clips, with guidance, over context windows."""
        predict, fast = self._predict_parts(job, groups, conditions, schedule)
        predict = repeated(predict, stepping(job.saving, partial(next_place, self, job.saving)))
        return predict if fast is None else counted(predict, fast, schedule)

    def _predict_parts(
        self, job: Job, groups: list[Conditioning], conditions: PreparedConditions, schedule: Schedule
    ) -> tuple[Predict, FastSteps | None]:
        """The prediction of a step, and what fast mode keeps between steps."""
        assert self.attachment is not None, "checked when the job was made"
        fast = None if job.fast is None else FastSteps(job.fast, DeepFeatures(self.unet))
        predictor = ClipPredictor(
            unet=self.unet,
            frames=self.attachment.frames,
            controls=conditions.controls,
            windows=job.windows.in_motion,
            motion_scale=job.motion_scale,
            attention=on_unet(job.attention, self.unet),
            fast=fast,
            saving=job.saving,
        )
        guided = GuidedClips(
            predictor=predictor,
            groups=groups,
            scale=lambda: self._guidance_scale,
            rescale=job.call.guidance_rescale,
            inside=job.guidance_inside,
            pag=job.pag,
            fast=fast,
            apart=lambda: job.saving.measures.apart and predictor.separable,
        )
        return windowed(guided, job.windows.over_unet), fast

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
        warn_of_no_tiles(self.vae)
        first, factor = job.first_pass(), job.call.upscale or 1.0
        decoded = self.decode(self.sample(first, callbacks), first, callbacks)
        height, width = (larger(side, factor) for side in (job.clip.height, job.clip.width))
        frames = (image.float().cpu() for chunk in decoded for image in chunk)
        device, num_frames = self.base._execution_device, job.clip.num_clips * job.clip.num_frames
        latents = enlarged(self.vae, frames, num_frames, (height, width), device, callbacks)
        latents = latents.unflatten(0, (job.clip.num_clips, -1)).transpose(1, 2)
        second = Job.of(job.second_call(latents, height, width), self)
        return self.sample(replace(second, saving=job.saving), callbacks)

    @torch.no_grad()
    def decode(self, latents: Tensor, job: Job, callbacks: Callbacks | None = None) -> Iterator[Tensor]:
        """Decode latents (b, c, f, h, w) of a job, clip after clip, a few frames at a time: (n, 3, H, W) in 0..1.

        Raises Cancelled after a chunk.
        """
        callbacks = callbacks or Callbacks()
        flat, done = latents.transpose(1, 2).flatten(0, 1), 0

        def next_chunk() -> Tensor:
            measures = job.saving.measures
            chunk = flat[done : done + min(job.decode_chunk_size, measures.decode or job.decode_chunk_size)]
            tiles = measures.tiles or job.call.upscale is not None
            with turn(self, callbacks.cancel), wide_enough(self.vae), tiling(self.vae, tiles):
                return decode_images(self.vae, chunk)

        while done < len(flat):
            images = until_it_fits(next_chunk, partial(next_decoding, self, job), "decoding of these frames")
            done += len(images)
            callbacks.step("decode", done, len(flat))
            yield images
