"""`AnimateDiffPipeline`: an image pipeline of diffusers, motion modules inside its UNet, and one loop over frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.frames import Curve, frame_curve
from animatediff.pipelines.assemble import is_sdxl
from animatediff.pipelines.checks import as_list, check_call, check_clip_skip, travelling
from animatediff.pipelines.controlnets import net_controls, net_inputs
from animatediff.pipelines.image_to_video import adapter_states, moving_pictures
from animatediff.pipelines.init_latents import clip_size, video_latents, video_size, video_strength, video_tensor
from animatediff.pipelines.keyframes import at_work, keyframes
from animatediff.pipelines.loading import LoadedPipeline
from animatediff.pipelines.long_clips import long_clip
from animatediff.pipelines.output import AnimateDiffOutput, Listener, Progress
from animatediff.pipelines.prompts import encode_texts
from animatediff.pipelines.upscale import UPSCALE_STRENGTH, in_two_passes
from animatediff.pipelines.vae import decode
from animatediff.prompts import PromptTravel
from animatediff.sampling import (
    ClipPredictor,
    Control,
    FreeInit,
    begin_at,
    draw_noise,
    free_init,
    guided,
    one_generator_each,
    set_steps,
    windowed,
)
from animatediff.sampling.controlnet import ControlNetInput
from animatediff.sampling.predict import Predict
from animatediff.sampling.sample import ClipSampler

DECODE_CHUNK_SIZE = 4

Prompt = str | Mapping[int, str] | PromptTravel
"""What one clip shows."""


class AnimateDiffPipeline(LoadedPipeline):
    """Text to animation with any Stable Diffusion 1.x, 2.x or SDXL model.

    `image` is the `StableDiffusionPipeline` or `StableDiffusionXLPipeline` that is animated; its other methods
    (`load_ip_adapter`, `load_textual_inversion`, `enable_vae_slicing`, ...) can be called on this object as well.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompt | Sequence[Prompt],
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
        plain_prompts: bool = False,
        window: int | None = None,
        overlap: int | None = None,
        stride: int = 1,
        blend: str = "pyramid",
        closed_loop: bool = False,
        long_mode: str = "unet",
        motion_scale: Curve = 1.0,
        noise: str = "default",
        freeinit: int = 1,
        freeinit_filter: str = "butterworth",
        freeinit_ds: float = 0.25,
        freeinit_dt: float = 0.25,
        decode_chunk_size: int | None = None,
        eta: float = 0.0,
        conditioning_frames: Any = None,
        controlnet_frame_indices: Sequence[int] = (0,),
        controlnet_conditioning_scale: float = 1.0,
        control_start: float = 0.0,
        control_end: float = 1.0,
        video: Any = None,
        strength: float | None = None,
        images: Any = None,
        image_mode: str | None = None,
        ip_adapter_image: Any = None,
        controlnet_inputs: Sequence[ControlNetInput] | None = None,
        upscale: float | None = None,
        upscale_strength: float = UPSCALE_STRENGTH,
        upscale_steps: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> AnimateDiffOutput:
        """Render one clip a prompt.

        A prompt is a text, a mapping of frames to texts (`{0: "spring", 12: "summer"}`) or a `PromptTravel`, which has
        more to set. `(word:1.2)` and `[word]` weigh words and prompts may be of any length, unless `plain_prompts`.

        None is what `defaults` says. `height` and `width` are pixels, multiples of 8. A `guidance_scale` of at most 1
        renders without negative prompts, at half the cost. `generator`: one, or one a clip; noise is drawn on its
        device. `latents`: (b, 4, f, h, w) noise to start from instead. `clip_skip`: how many of the text encoder's last
        layers to pass over. `callback_on_step_end(pipe, step, timestep, {"latents": ...})` may return
        changed latents; `cancel()` is asked after each step.

        More frames than the motion module knows are rendered in windows of `window` frames that share `overlap` frames
        with the next and blend as `blend` says (`pyramid`, `flat`, `overlap-linear`, `gauss`). `stride` 2 adds windows
        of every second frame, 3 also of every fourth. With `closed_loop` the first frame follows the last. `long_mode`
        "unet" predicts window after window, at the memory of one; "motion" has windows in the motion modules alone, so
        that the image layers see each frame once a step, at the memory of the whole clip's feature maps.

        `noise` "freenoise" shuffles the noise of the first window for the frames behind it. `freeinit`: how often the
        clip is sampled, each time from noise that has its low frequencies from the time before; `freeinit_filter`
        (`butterworth`, `gaussian`, `ideal`, `box`), `freeinit_ds` and `freeinit_dt` say which are low, over space and
        over frames.

        `motion_scale`: how much of what the motion modules say is added to each frame, 1 as trained, 0 the image model
        alone: a number, `{0: 1.0, 15: 0.3}` with straight lines between frames, or one number a frame.

        With SparseCtrl loaded, `conditioning_frames` are pictures (PIL, arrays, tensors in 0..1; a tensor of 4 channels
        is latents) that the clip shows at `controlnet_frame_indices`, one index a picture, negatives counted from the
        end; `control_start` and `control_end` are the share of the steps that they steer.

        `video`: frames to begin with (PIL, arrays, a tensor in 0..1, or latents), changed by the last `strength` of the
        steps, more than 0 and at most 1, where nothing of them is left. The clip takes their number and shape.

        `images`: a picture for frame 0, or {frame: picture}, negatives counted from the end, by the route `image_mode`:
        `sparsectrl`, `ip-adapter` or `latents`; None is the first of these that has its weights loaded.
        `ip_adapter_image`: what a loaded IP-Adapter sees; None is `images`. `controlnet_inputs`: what the loaded
        ControlNets follow, one each.

        `upscale`: render again, so many times as large, the last `upscale_strength` of `upscale_steps` steps from what
        the first pass made.

        Raises UserError for values out of range, Cancelled if cancelled.
        """
        if upscale is not None:
            call = dict(locals())
            return in_two_passes(call.pop("self"), **call)
        motion = self.attachment
        if motion is None:
            raise UserError(
                "no motion module is loaded, so frames would not know of each other; call load_motion_module"
            )
        defaults, listener = self.defaults, Listener(on_progress, cancel)
        prompts = travelling(prompt)
        negatives = None if negative_prompt is None else as_list(negative_prompt)
        shown = moving_pictures(images, image_mode, self)
        num_frames, height, width = clip_size(
            defaults,
            num_frames,
            height,
            width,
            picture=None if shown is None else shown.size,
            video=None if video is None else video_size(video, self.image.vae_scale_factor),
        )
        steps = defaults.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
        chunk_size = DECODE_CHUNK_SIZE if decode_chunk_size is None else decode_chunk_size
        check_call(prompts, negatives, num_frames, height, width, steps, chunk_size, output_type)
        check_clip_skip(clip_skip, self._text_encoders, last=int(is_sdxl(self.image)))
        if shown is not None:
            shown.at_frames(num_frames)
            conditioning_frames, controlnet_frame_indices = shown.joined(conditioning_frames, controlnet_frame_indices)
        max_positions = motion.adapter.numerics.max_positions
        if conditioning_frames is not None and self.sparsectrl is not None:
            max_positions = min(max_positions, self.sparsectrl.sparse_config.max_positions)
        long = long_clip(
            num_frames,
            window=window,
            overlap=overlap,
            stride=stride,
            blend=blend,
            closed_loop=closed_loop,
            mode=long_mode,
            noise=noise,
            default_window=defaults.window,
            max_positions=max_positions,
        )
        again = FreeInit(
            iterations=freeinit, filter=freeinit_filter, spatial_stop=freeinit_ds, temporal_stop=freeinit_dt
        )
        strengths = torch.tensor(frame_curve(motion_scale, num_frames, "motion_scale"))
        if negatives is not None and len(negatives) == 1:
            negatives *= len(prompts)

        device = self.image._execution_device
        factor = self.image.vae_scale_factor
        shape = (len(prompts), self.unet.config["in_channels"], num_frames, height // factor, width // factor)
        given = keyframes(
            self.sparsectrl,
            conditioning_frames,
            controlnet_frame_indices,
            shape=shape,
            size=(height, width),
            scale=controlnet_conditioning_scale,
            start=control_start,
            end=control_end,
        )
        strength = video_strength(video, strength, freeinit=again.iterations)
        known = video_tensor(video, shape, (height, width)) if video is not None and strength < 1 else None
        nets = net_inputs(self.controlnets, controlnet_inputs, shape, loop=closed_loop)
        generators = one_generator_each(generator, len(prompts))
        draw = partial(draw_noise, shape, generators, kind=noise, window=long.length, overlap=long.overlap)
        if latents is None:
            latents = draw()
        elif noise != "default":
            raise UserError(f"latents are given, and noise={noise!r} says how to draw them; give one of the two")
        elif latents.shape != shape:
            raise UserError(f"latents must be (b, c, f, h, w) = {shape} for this call, got {tuple(latents.shape)}")

        guidance = scale > 1
        texts = encode_texts(
            self.image,
            prompts,
            negatives,
            num_frames=num_frames,
            guidance=guidance,
            clip_skip=clip_skip,
            plain=plain_prompts,
            size=(height, width),
            device=device,
        )
        adapted = adapter_states(
            self.image, ip_adapter_image, shown, num_frames, len(prompts), guidance=guidance, device=device
        )
        scheduler: Any = self.image.scheduler
        set_steps(scheduler, steps, device)
        timesteps = scheduler.timesteps if known is None else begin_at(scheduler, steps, strength)

        def after_step(index: int, timestep: Tensor, latents: Tensor) -> Tensor:
            if callback_on_step_end is not None:
                latents = callback_on_step_end(self, index, timestep, {"latents": latents}).get("latents", latents)
            listener.hear("denoise", index + 1, len(timesteps) * again.iterations)
            return latents

        if known is not None:
            known = video_latents(self.vae, known, shape, device, listener.of("encode"))
        encoders = [] if given is None else [given.encoder]
        with at_work([*encoders, *(net for net, *_ in nets)], device):
            controls: list[Control] = [*net_controls(nets, timesteps)]
            if given is not None:
                controls.append(given.control(self.vae, timesteps, device))
            predict: Predict = ClipPredictor(
                self.unet,
                motion.frames,
                texts.embeddings,
                texts.pooled,
                texts.time_ids,
                controls,
                windows=long.in_motion,
                motion_scale=None if strengths.eq(1).all() else strengths,
                pictures=adapted,
            )
            held = None
            if shown is not None and shown.route == "latents":
                held = shown.hold(self.vae, latents.to(device, torch.float32), (height, width))
            sample = ClipSampler(
                predict=windowed(guided(predict, scale) if guidance else predict, long.over_unet),
                scheduler=scheduler,
                num_steps=steps,
                timesteps=timesteps,
                step_arguments=self.image.prepare_extra_step_kwargs(generators, eta),
                device=device,
                known=known,
                hold=held,
                after_step=after_step,
            )
            latents = free_init(
                sample, latents, settings=again, draw=draw, alpha_cumprod=float(scheduler.alphas_cumprod[-1])
            )
        if not latents.isfinite().all():
            raise UserError(
                f"the latents are not finite: {self.unet.dtype} is too narrow for this model; use float32 or bfloat16"
            )
        frames: Any = latents
        if output_type != "latent":
            frames = decode(
                self.vae,
                latents,
                chunk_size=chunk_size,
                output_type=output_type,
                after_chunk=listener.of("decode"),
            )
        self.image.maybe_free_model_hooks()
        return AnimateDiffOutput(frames)
