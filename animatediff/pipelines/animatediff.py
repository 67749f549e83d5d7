"""`AnimateDiffPipeline`: an image pipeline of diffusers, motion modules inside its UNet, and one loop over frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from animatediff.pipelines.conditions import PreparedConditions
from animatediff.pipelines.conditions.image import color_match
from animatediff.pipelines.extras import loras_times, on_unet, prepare_for
from animatediff.pipelines.habits import Habits
from animatediff.pipelines.job import Job, schedule_of
from animatediff.pipelines.loading import Loading
from animatediff.pipelines.output import AnimateDiffOutput, Callbacks, gathered
from animatediff.pipelines.parts import guidance_width
from animatediff.pipelines.placement import next_place
from animatediff.pipelines.plan import Plan, fit, next_decoding, plan_job
from animatediff.pipelines.precision import check_finite
from animatediff.pipelines.prompts import encode_groups
from animatediff.pipelines.resume import saving
from animatediff.pipelines.saved_frames import SavedFrames
from animatediff.pipelines.setting import networks_at_work, setting_of, step_arguments
from animatediff.pipelines.step_callback import StepCallback, check_tensor_inputs
from animatediff.pipelines.stream import stream_latents, stream_output
from animatediff.pipelines.subjects import warn_of_no_effect
from animatediff.pipelines.turns import turn
from animatediff.pipelines.upscale import enlarged, tiling, warn_of_no_tiles
from animatediff.pipelines.vae import decode_images, wide_enough
from animatediff.sampling import ClipPredictor, GuidedClips, free_init, windowed
from animatediff.sampling.conditions import Conditioning
from animatediff.sampling.fast import FastSteps
from animatediff.sampling.features import DeepFeatures
from animatediff.sampling.predict import Predict
from animatediff.sampling.repeat import repeated, stepping, until_it_fits
from animatediff.sampling.resume import ResumedSampling
from animatediff.sampling.sample import ClipSampler
from animatediff.sampling.schedulers import last_alpha_cumprod
from animatediff.sampling.state import BadState, generator_states, restore_generators, tensor_of

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
        output_type = call.output_type or "pil"
        with turn(self, call.cancel):
            job = self._job(call)
            with saving(job, self) as saves:
                callbacks = Callbacks(call.on_progress, call.cancel, saves)
                frames: Any = self.sample(job, callbacks)
                if output_type != "latent":
                    frames = gathered(self.decode(frames, job, callbacks), job.clip.num_clips, output_type)
            self.base.maybe_free_model_hooks()
        return AnimateDiffOutput(frames) if call.return_dict else (frames,)

    @_takes(Arguments)
    def stream(self, call: Arguments) -> Iterator[Any]:
        """Render one clip frame by frame, without end where `num_frames` is None, in memory that does not grow.

        Arguments as of the call, with `long_mode` fifo. Each frame is made when it is asked for, as `output_type` says:
        a PIL image, an array (h, w, 3) or a tensor (3, h, w) in 0..1, or latents (c, h, w). Between two frames the
        pipeline is free for other calls. Raises UserError as the call does, before the first frame; Cancelled.
        """
        job = self._job(replace(call, long_mode="fifo"), endless=call.num_frames is None)
        if job.clip.num_clips > 1:
            raise UserError(f"a stream is of one clip, and this call has {job.clip.num_clips}; make a stream of each")
        return stream_output(self, job, Callbacks(call.on_progress, call.cancel), call.output_type or "pil")

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

    def _job(self, call: Arguments, *, endless: bool = False) -> Job:
        job = Job.of(call, self, endless=endless)
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
        saves = callbacks.saves
        with turn(self, callbacks.cancel):
            if saves is None or saves.found is None:
                return self._sampled(job, callbacks)
            before = generator_states(job.generators)
            try:
                return self._sampled(job, callbacks)
            except BadState as error:
                saves.damaged(str(error))
                saves.found = None
                restore_generators(job.generators, before)
                return self._sampled(job, callbacks)

    def _sampled(self, job: Job, callbacks: Callbacks) -> Tensor:
        with turn(self, callbacks.cancel):
            if callbacks.saves is not None and (state := callbacks.saves.at("decode")) is not None:
                return self._saved_latents(state, job)
            if job.call.upscale is not None:
                return self._sample_twice(job, callbacks)
            if job.windows.streams:
                return torch.cat(list(stream_latents(self, job, callbacks)), dim=2)
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

        with networks_at_work(self, job, device):
            setting = setting_of(self, job, schedule, noise, device, callbacks)
            conditions = prepare_for(groups, job.conditions, setting, job.attention)
            fast = None if job.fast is None else FastSteps(job.fast, DeepFeatures(self.unet))
            resumed = self._resumed(job, callbacks, fast)
            sampler = ClipSampler(
                predict=self._predict(job, groups, conditions, fast, resumed),
                schedule=schedule,
                step_arguments=step_arguments(self, job),
                device=device,
                init_latents=conditions.init_latents if init_latents is None else init_latents,
                as_given=call.latents is not None and job.strength < 1 and init_latents is None,
                keep=conditions.keep,
                after_step=after_step,
                stopped=lambda: self.interrupt,
                resumed=resumed,
                before_step=None if fast is None else fast.begin,
            )
            latents = free_init(
                sampler,
                noise,
                settings=job.free_init,
                draw=job.draw,
                alpha_cumprod=last_alpha_cumprod(scheduler),
                stopped=lambda: self.interrupt,
                first=None if resumed is None else resumed.first(noise),
            )
        check_finite(latents, self.unet.dtype)
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

    def _resumed(self, job: Job, callbacks: Callbacks, fast: FastSteps | None) -> ResumedSampling | None:
        """What saves the steps of sampling, and knows where to go on."""
        if (saves := callbacks.saves) is None:
            return None
        return ResumedSampling(
            due=saves.due,
            save=saves.inside("denoise").save,
            found=saves.inside("denoise").found,
            scheduler=self.base.scheduler,
            generators=job.generators,
            num_windows=max(1, len(job.windows.over_unet)),
            iterations=job.free_init.iterations,
            within_steps=fast is None,
            say=saves.say,
            **({} if fast is None else {"may_begin": fast.may_begin, "kept": fast.kept, "restore": fast.restore}),
        )

    def _predict(
        self,
        job: Job,
        groups: list[Conditioning],
        conditions: PreparedConditions,
        fast: FastSteps | None,
        resumed: ResumedSampling | None,
    ) -> Predict:
        """Compose the prediction of a step, which is made again by the next measure where memory runs out."""
        predict = self._predict_once(job, groups, conditions, fast, resumed)
        return repeated(predict, stepping(job.saving, partial(next_place, self, job.saving)))

    def _predict_once(
        self,
        job: Job,
        groups: list[Conditioning],
        conditions: PreparedConditions,
        fast: FastSteps | None = None,
        resumed: ResumedSampling | None = None,
    ) -> Predict:
        """Compose the prediction of a step: the UNet on clips, with guidance, over context windows."""
        assert self.attachment is not None, "checked when the job was made"
        predictor = ClipPredictor(
            unet=self.unet,
            frames=self.attachment.frames,
            controls=conditions.controls,
            features=conditions.features,
            windows=job.windows.in_motion,
            motion_scale=job.motion_scale,
            attention=on_unet(job.attention, self.unet),
            fast=fast,
            saving=job.saving,
            camera=conditions.camera,
            motion=conditions.motion,
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
        return windowed(guided, job.windows.over_unet, resumed)

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
        height, width = (larger(side, factor) for side in (job.clip.height, job.clip.width))
        saves = callbacks.saves
        state = None if saves is None else saves.at("enlarge", "second")
        if state is not None and state["phase"] == "second":
            latents = tensor_of(state, "enlarged", job.clip.enlarged(height, width))
        else:
            latents = self._enlarged(first, (height, width), callbacks, state)
        if state is not None:
            restore_generators(job.generators, state.get("generators"))
        second = callbacks.inside("second", enlarged=latents, generators=generator_states(job.generators))
        following = Job.of(job.second_call(latents, height, width), self)
        return self.sample(replace(following, saving=job.saving), second)

    def _enlarged(
        self, first: Job, size: tuple[int, int], callbacks: Callbacks, state: Mapping[str, Any] | None
    ) -> Tensor:
        """Latents (b, c, f, h, w) of the first pass, enlarged to `size` (height, width) in pixels."""
        device, clip, found, begun = self.base._execution_device, first.clip, list[Tensor](), 0
        num_frames = clip.num_clips * clip.num_frames
        if state is None:
            latents = self.sample(first, callbacks.inside("first"))
        else:
            latents = tensor_of(state, "latents", clip.latents)
            done = state.get("found")
            found = [] if not isinstance(done, Tensor) else list(done.split(1))
            begun = len(found) // first.decode_chunk_size
            found = found[: begun * first.decode_chunk_size]
        saves, alone = callbacks.saves, replace(callbacks, saves=None)
        generators = generator_states(first.generators) if state is None else state.get("generators")

        def save() -> None:
            if saves is not None and saves.due():
                encoded = torch.cat(found) if found else None
                saves.save({"phase": "enlarge", "latents": latents, "found": encoded, "generators": generators})

        def frames() -> Iterator[Tensor]:
            for chunk in self.decode(latents, first, alone, begun=begun):
                for image in chunk:
                    yield image.float().cpu()
                save()

        if state is None:
            save()
        large = enlarged(self.vae, frames(), num_frames, size, device, callbacks, found)
        return large.unflatten(0, (clip.num_clips, -1)).transpose(1, 2)

    def _saved_latents(self, state: Mapping[str, Any], job: Job) -> Tensor:
        """Latents of a job whose frames were being decoded when its state was saved."""
        shape, call = job.clip.latents, job.call
        if call.upscale is not None:
            shape = job.clip.enlarged(*(larger(side, call.upscale) for side in (job.clip.height, job.clip.width)))
        latents = tensor_of(state, "latents", shape)
        if not latents.isfinite().all():
            raise BadState("latents that are not finite")
        return latents

    @torch.no_grad()
    def decode(
        self, latents: Tensor, job: Job, callbacks: Callbacks | None = None, *, begun: int = 0
    ) -> Iterator[Tensor]:
        """Decode latents (b, c, f, h, w) of a job, clip after clip, a few frames at a time: (n, 3, H, W) in 0..1.

        begun: chunks that are passed over. Raises Cancelled after a chunk.
        """
        callbacks = callbacks or Callbacks()
        chunks = latents.transpose(1, 2).flatten(0, 1).split(job.decode_chunk_size)
        kept = None if callbacks.saves is None else SavedFrames.of(callbacks.saves, latents)
        finish = color_match(job.call, job.conditions)
        done, total, grow = begun * job.decode_chunk_size, latents.shape[0] * latents.shape[2], job.clip.factor
        for index, chunk in enumerate(chunks[begun:], start=begun):
            n, _, h, w = chunk.shape
            images = None if kept is None else kept.get(index, (n, 3, h * grow, w * grow))
            if images is None:
                images = self._decoded(chunk, job, callbacks)
                if kept is not None:
                    kept.add(images)
            done += len(images)
            callbacks.step("decode", done, total)
            yield images if finish is None else finish(images)

    def _decoded(self, chunk: Tensor, job: Job, callbacks: Callbacks) -> Tensor:
        """Frames (n, 3, H, W) of latents (n, c, h, w), fewer at once or in tiles where memory is short."""
        found: list[Tensor] = []

        def next_part() -> Tensor:
            measures, done = job.saving.measures, sum(map(len, found))
            tiles = measures.tiles or job.call.upscale is not None
            with turn(self, callbacks.cancel), wide_enough(self.vae), tiling(self.vae, tiles):
                return decode_images(self.vae, chunk[done : done + (measures.decode or len(chunk))])

        while sum(map(len, found)) < len(chunk):
            found.append(until_it_fits(next_part, partial(next_decoding, self, job), "decoding of these frames"))
        return torch.cat(found) if len(found) > 1 else found[0]
