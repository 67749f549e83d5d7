"""Arguments of one call of the pipeline: each with its default, its range and its meaning. No torch here.

Front ends read defaults, ranges and vocabularies from here, so that each is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.frames import Curve
from animatediff.memory.sizes import parse_size
from animatediff.pipelines.argument_types import check_types
from animatediff.ranges import Range, needing, ranged

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from animatediff.memory.sizes import Size
    from animatediff.pipelines.output import Progress
    from animatediff.prompts import PromptTravel
    from animatediff.sampling.controlnet import ControlNetInput

    Prompt = str | Mapping[int, str] | PromptTravel
    """A text, a mapping of frames to texts (`{0: "spring", 12: "summer"}`), or a `PromptTravel`, for one clip."""

SAVE_EVERY_S = 30.0
"""Seconds between two saves of a render's state."""
AUTO = "auto"
"""The value of `image_mode` that leaves the route to what is loaded."""
UPSCALE_STRENGTH = 0.5
"""Fraction of the steps of the second pass: enough for new detail, too few for another image."""


@dataclass(frozen=True)
class Arguments:
    """Arguments of `AnimateDiffPipeline.__call__`. None is the value in `pipe.defaults`.

    The first ones stand in the order of diffusers' `AnimateDiffPipeline`. Raises UserError for values of another type
    and values out of range.
    """

    prompt: Prompt | Sequence[Prompt] | None = None
    """One clip each; None where there are `prompt_embeds`."""
    num_frames: int | None = ranged(None, ge=1)
    height: int | None = ranged(None, ge=8, multiple_of=8, unit="pixels")
    width: int | None = ranged(None, ge=8, multiple_of=8, unit="pixels")
    num_inference_steps: int | None = ranged(None, ge=1, le=1000)
    guidance_scale: float | None = ranged(None, ge=0, le=1000)
    """At most 1 renders without negative prompts, at half the cost."""
    negative_prompt: str | Sequence[str] | None = needing(None, "guidance")
    """One for all clips, or one a clip; without effect where `guidance_scale` is at most 1."""
    num_videos_per_prompt: int | None = ranged(1, ge=1, le=1000)
    """Clips of each prompt, one behind the other."""
    eta: float = ranged(0.0, ge=0, le=1, needs="eta")
    """Of the DDIM sampler."""
    generator: torch.Generator | Sequence[torch.Generator] | None = None
    """One, or one a clip; noise is drawn on its device."""
    latents: Tensor | None = None
    """(b, 4, f, h, w) noise to start from. With `strength`, latents with as much noise as its first step expects, or
    without noise where `enforce_inference_steps` is on."""
    prompt_embeds: Tensor | None = None
    """(b, n, d) prompt embeddings in place of `prompt`."""
    negative_prompt_embeds: Tensor | None = field(default=None, metadata={"needs": "guidance"})
    """(b, n, d) in place of `negative_prompt`."""
    ip_adapter_image: Any = None
    """Images for a loaded IP-Adapter; None is `images`."""
    ip_adapter_image_embeds: Sequence[Tensor] | None = None
    """Image embeddings in place of them, one tensor an IP-Adapter: (1 or b, images, ...), with guidance behind as many
    negative ones."""
    output_type: str | None = ranged("pil", choices="animatediff.pipelines.vae.OUTPUT_TYPES")
    return_dict: bool = True
    """False returns a tuple of the frames alone."""
    _: KW_ONLY
    prompt_2: str | Sequence[str] | None = needing(None, "sdxl")
    """Other prompts for SDXL's second text encoder."""
    negative_prompt_2: str | Sequence[str] | None = needing(None, "sdxl")
    pooled_prompt_embeds: Tensor | None = field(default=None, metadata={"needs": "sdxl"})
    """(b, d), beside `prompt_embeds`."""
    negative_pooled_prompt_embeds: Tensor | None = field(default=None, metadata={"needs": "sdxl"})
    original_size: tuple[int, int] | None = needing(None, "sdxl")
    """(height, width) that SDXL is told; None is the clip's."""
    crops_coords_top_left: tuple[int, int] = needing((0, 0), "sdxl")
    target_size: tuple[int, int] | None = needing(None, "sdxl")
    negative_original_size: tuple[int, int] | None = needing(None, "sdxl")
    """The same for negative prompts; None is as for prompts."""
    negative_crops_coords_top_left: tuple[int, int] | None = needing(None, "sdxl")
    negative_target_size: tuple[int, int] | None = needing(None, "sdxl")
    guidance_rescale: float = ranged(0.0, ge=0, le=1, needs="guidance")
    """Share of the guided prediction that gets the standard deviation of the unguided one (arXiv 2305.08891, section
    3.4), against overexposed images."""
    pag_scale: float | None = ranged(None, ge=0, le=1000)
    """Perturbed-attention guidance (arXiv 2403.17377), 0 is off; None is 3 after `set_pag_applied_layers`, else off."""
    pag_adaptive_scale: float = ranged(0.0, ge=0, le=1000, needs="pag")
    """How much of it is taken away with each timestep below 1000."""
    timesteps: Sequence[float] | None = None
    """Timesteps of the sampler in place of `num_inference_steps`, where it takes them."""
    sigmas: Sequence[float] | None = None
    """Noise levels, likewise."""
    denoising_end: float | None = ranged(None, gt=0, le=1)
    """Fraction of the noise levels after which sampling ends; what is left is noise for another model."""
    cross_attention_kwargs: Mapping[str, Any] | None = None
    """`scale`: factor of all LoRAs; `ip_adapter_masks`: where IP-Adapters act; others for attention processors of your
    own."""
    clip_skip: int | None = ranged(None, ge=0, le=23)
    """Layers of the text encoder passed over at the end, as diffusers counts."""
    plain_prompts: bool = False
    """Brackets are letters and long prompts are cut; else `(word:1.2)` weighs and prompts may be of any length."""
    window: int | None = ranged(None, ge=1)
    """Frames that the motion module sees at once in clips longer than it knows."""
    overlap: int | None = ranged(None, ge=0, needs="windows")
    """Frames that two neighbouring windows share; None is a quarter of a window, of a queue half of it."""
    stride: int = ranged(1, ge=1, le=16, needs="windows")
    """2 adds windows of every second frame, 3 also of every fourth."""
    blend: str = ranged("pyramid", choices="animatediff.motion.windows.BLENDS", needs="windows")
    """Fuse method: weights of frames where windows overlap."""
    closed_loop: bool = False
    """The first frame follows the last."""
    long_mode: str = ranged("unet", choices="animatediff.pipelines.windows.LONG_MODES", needs="windows")
    """Context windows over the whole UNet, at the memory of one window; or inside the motion modules alone, so that the
    image layers see each frame once a step, at the memory of the whole clip's feature maps; or over a queue that frames
    leave one after the other (FIFO-Diffusion, arXiv 2405.11473), at the memory of as many frames as there are steps."""
    motion_scale: Curve = 1.0
    """Factor of the motion modules' residual at each frame, 1 as trained, 0 the image model alone: a number,
    `{0: 1.0, 15: 0.3}` with straight lines between, or one number a frame."""
    noise: str = ranged("default", choices="animatediff.sampling.noise.NOISES", needs="windows")
    """`freenoise` shuffles the noise of the first window for the frames behind it (arXiv 2310.15169)."""
    freeinit: int = ranged(1, ge=1, le=20, why="a clip is sampled at least once, with FreeInit 2 to 5 times")
    """Times that the clip is sampled, each time from noise with the low frequencies of the time before (arXiv
    2312.07537)."""
    freeinit_fast: bool = needing(False, "freeinit")
    """Fewer steps in the first of these times."""
    freeinit_order: int = ranged(4, ge=1, le=100, needs="freeinit")
    """Of the Butterworth filter."""
    freeinit_filter: str = ranged("butterworth", choices="animatediff.sampling.free_init.FILTERS", needs="freeinit")
    freeinit_ds: float = ranged(0.25, gt=0, le=1, needs="freeinit")
    """Stop frequency over space, as a share of all."""
    freeinit_dt: float = ranged(0.25, gt=0, le=1, needs="freeinit")
    """Stop frequency over frames."""
    fast: str = ranged("off", choices="animatediff.sampling.fast.LEVELS", needs="fast")
    """Deep layers and negative prompts are left out of some steps, as `balanced` or, of more, as `max`
    (`sampling.fast`); without effect where there are few steps."""
    decode_chunk_size: int | None = ranged(None, ge=1)
    """Frames that the VAE decodes at once."""
    vram: Size | None = None
    """Memory of the device that the clip may take, such as `6GB`; None is what is free."""
    conditioning_frames: Any = None
    """Images for the SparseCtrl encoder: PIL, arrays, tensors in 0..1, or latents (a tensor of 4 channels); a list of
    such lists is one a clip. Where ControlNets are loaded instead, one image a frame, for several a list of them."""
    controlnet_frame_indices: Sequence[int] = needing((0,), "conditioning_frames")
    """Frames of the conditioning frames, one each; negatives count from the end."""
    controlnet_conditioning_scale: float | Sequence[float] = ranged(1.0, needs="sparse_condition")
    """Strength of SparseCtrl; of ControlNets one for all or one each."""
    control_guidance_start: float | Sequence[float] | None = ranged(None, ge=0, le=1, needs="sparse_condition")
    """`control_start` by diffusers' name; of ControlNets one for all or one each."""
    control_guidance_end: float | Sequence[float] | None = ranged(None, ge=0, le=1, needs="sparse_condition")
    guess_mode: bool = needing(False, "controls")
    """Negative prompts do not see the images, and deeper layers act more than outer ones."""
    control_start: float = ranged(0.0, ge=0, le=1, needs="sparse_condition")
    """Fraction of the steps from which on SparseCtrl acts."""
    control_end: float = ranged(1.0, ge=0, le=1, needs="sparse_condition")
    """Fraction of the steps up to which it acts."""
    video: Any = None
    """Frames to begin with: PIL images, an array, a tensor in 0..1, or latents. The clip takes their number and shape.
    """
    strength: float | None = ranged(None, gt=0, le=1)
    """Fraction of the steps by which the video is changed, or without one the image that PIA animates; at 1 nothing of
    it is left."""
    enforce_inference_steps: bool = needing(False, "strength")
    """Make `num_inference_steps` steps whatever the strength."""
    images: Any = None
    """An image for frame 0, or {frame: image}, negatives counted from the end. By the route `i2v` also its latents
    (1 or b, 4, h, w), scaled."""
    image_mode: str | None = ranged(AUTO, choices="animatediff.pipelines.conditions.routes.MODES")
    """Route by which the images are shown; `auto` is the first that has its weights loaded."""
    image_motion_scale: float = ranged(0.8, ge=0, le=1.5, needs="i2v")
    """How much a clip by the route `i2v` moves: 0.8 as trained, 0 a still."""
    color_match: bool = needing(False, "shown")
    """Move each finished frame's mean hue, saturation and brightness to those of the image, as AnimateLCM-I2V's own
    program does in the end."""
    motion_amount: str | None = ranged("small", choices="animatediff.sampling.affinity.MOTION_AMOUNTS", needs="pia")
    """How much PIA lets the frames differ from the image: a preset."""
    image_affinity: Curve | None = field(default=None, metadata={"needs": "pia"})
    """How like the image each frame is, 0 to 1, in place of a preset: a number, `{0: 1.0, 15: 0.6}` with straight
    lines between, or one number a frame."""
    controlnet_inputs: ControlNetInput | Sequence[ControlNetInput] | None = None
    """Inputs of the loaded ControlNets, one each."""
    camera: Any = None
    """Path of the camera, for a loaded CameraCtrl model: moves (`zoom-in:0.5, pan-left:0.2@ease-in-out`), a file of
    poses, a video whose camera is followed, matrices (f, 3 or 4, 4) from world to camera, or a `CameraPath`; a list is
    one a clip."""
    camera_scale: float = ranged(1.0, ge=0, le=10, needs="camera")
    """How strongly poses act, 1 as trained."""
    camera_aspect: float | None = ranged(None, gt=0, le=100, unit="times the height", needs="camera")
    """Width of the video that poses of a file or matrices were measured in; None is 16/9, of a video its own."""
    motion_from: Any = None
    """A video whose movement the clip takes without its looks: frames as of `video`, whose number the clip takes too;
    of a longer video the first ones. In batches one for all clips, or one a clip."""
    motion_from_strength: float = ranged(2.5, ge=0, le=20, needs="motion_from")
    """How strongly it moves the clip; guidance strengthens it as it does the prompt, so that much guidance wants less,
    and none more."""
    motion_from_start: float = ranged(0.0, ge=0, le=1, needs="motion_from")
    """Fraction of the steps from which on it is taken."""
    motion_from_end: float = ranged(0.95, ge=0, le=1, needs="motion_from")
    """Fraction of the steps up to which it is taken; each of these steps runs the UNet on the video as well."""
    motion_from_blocks: str = needing("all", "motion_from")
    """Motion modules that it goes through: `all`, `down`, `mid`, `up`, or blocks such as `up.1`, commas between."""
    upscale: float | None = ranged(None, gt=1, le=8, unit="times the size")
    """Sample again, so many times as large."""
    upscale_strength: float = ranged(UPSCALE_STRENGTH, gt=0, le=1, needs="upscale")
    """Fraction of the steps of the second pass."""
    upscale_steps: int | None = ranged(None, ge=1, le=1000, needs="upscale")
    """Steps of the whole schedule of the second pass; None is as many as the first."""
    callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None] | None = None
    """`(pipe, step, timestep, tensors)`; may return changed tensors. `pipe._interrupt = True` ends sampling."""
    callback_on_step_end_tensor_inputs: Sequence[str] = needing(("latents",), "callback")
    """Names of these tensors; `pipe._callback_tensor_inputs` has all."""
    on_progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    """Asked after each step."""
    resume: Path | str | None = None
    """Folder in which the state of a long call is saved, and where the same call goes on with it, to the same frames;
    nothing is left in it when the call is done."""
    save_every: float = ranged(SAVE_EVERY_S, ge=0, unit="seconds", needs="resume")
    """Time between two saves; a call that is done sooner writes nothing."""

    def __post_init__(self) -> None:
        check_types(self)
        if self.vram is not None:
            try:
                parse_size(self.vram)
            except UserError as error:
                raise UserError(f"`vram`: {error}") from None
        for name, within in RANGES.items():
            value = getattr(self, name)
            for one in value if isinstance(value, list | tuple) else [value]:
                if one is not None:
                    within.check(name, one)


RANGES: dict[str, Range] = {item.name: item.metadata["range"] for item in fields(Arguments) if "range" in item.metadata}
"""Range of each argument that has one."""
NEEDS: dict[str, str] = {item.name: item.metadata.get("needs", "") for item in fields(Arguments)}
"""Argument -> the subject without which it has no effect (`pipelines.subjects`), or ""."""
