"""Every option of a request, declared once; command line, files, request and forms are made from this table.

Ranges and defaults of options that are arguments of the pipeline are read from there. No torch, numpy or pydantic here.
"""

from __future__ import annotations

from dataclasses import MISSING
from typing import TYPE_CHECKING

from animatediff.camera.moves import is_file
from animatediff.prompts.travel import DEFAULT_HOLD
from animatediff.render import values
from animatediff.render.declare import declared_in, option

if TYPE_CHECKING:
    from animatediff.media.images import Resize
    from animatediff.media.preprocess import Preprocessor
    from animatediff.media.sketch import Method
    from animatediff.render.request_inputs import EmbeddingRef, ImageInput, Keyframe, VideoInput, WeightRef

MODEL, PROMPTS, CLIP, LONG = "Model", "Prompts", "Image and motion", "Long clips and loops"
SPARSECTRL, IMAGE, CONTROLNET, VIDEO = "Images to show", "Animate an image", "ControlNet", "Video to start from"
DRIVE, MOTION = "Portraits and poses", "Movement of a video"
CAMERA = "Path of the camera"
UPSCALE, MACHINE, OUTPUT = "Upscale", "Machine", "Output"

DTYPES = ("auto", "float32", "float16", "bfloat16")
"""Number formats of weights and computation, by the names that a result records."""
MAX_SEED = 2**64 - 1
"""The largest seed that torch takes; the original's files hold seeds above 2**63."""


class AnimateOptions:
    """Everything that decides what is rendered, and where it goes. None is the model's recommendation.

    Lists of prompts, travels, negative prompts and seeds are as long as there are clips, or hold one entry for all.
    """

    # A line for users, and one for front ends.
    # fmt: off
    model: str | None = option(
        "Image model: file, folder, hub id, or `bundled`.",
        panel=MODEL, metavar="MODEL", part_of_model=True, folder="StableDiffusion", default=None,
    )
    motion_module: str | None = option(
        "Motion module: file, folder or hub id.",
        panel=MODEL, metavar="MODULE", part_of_model=True, folder="Motion_Module", default=None,
    )
    family: str | None = option(
        "Overrides the recognised family of the motion module.",
        panel=MODEL, metavar="NAME", part_of_model=True, default=None, needs="motion_module",
    )
    conv_in_from_file: bool = option(
        "Take PIA's first layer wholly from its file, for the image model that it was trained with.",
        panel=MODEL, part_of_model=True, default=False,
    )
    vae: str | None = option(
        "VAE file or folder in place of the model's own; tiny:FILE is a TAESD, for drafts.",
        panel=MODEL, metavar="FILE", part_of_model=True, folder="StableDiffusion", default=None,
    )
    text_encoder: str | None = option(
        "Text encoder in place of the model's own, or where it has none.",
        panel=MODEL, metavar="FILE", part_of_model=True, folder="StableDiffusion", default=None,
    )
    text_encoder_2: str | None = option(
        "The second one of SDXL, likewise.",
        panel=MODEL, metavar="FILE", part_of_model=True, folder="StableDiffusion", default=None,
    )
    prediction_type: str | None = option(
        "epsilon or v_prediction, of a single file that does not say, or against what a motion module or LoRA says.",
        panel=MODEL, metavar="TYPE", part_of_model=True, default=None,
        choices="animatediff.weights.base.prediction.PREDICTION_TYPES",
    )
    use_ema: bool = option(
        "Take the averaged weights of a single file.", panel=MODEL, part_of_model=True, default=False,
    )
    loras: tuple[WeightRef, ...] = option(
        "LoRA of the image model; may be repeated.",
        panel=MODEL, flag="--lora", metavar="FILE[:SCALE]", part_of_model=True, folder="DreamBooth_LoRA", default=(),
        convert=values.weights, parse=values.scaled_files,
    )
    motion_loras: tuple[WeightRef, ...] = option(
        "MotionLoRA, or ZoomIn, PanLeft, ...; may be repeated.",
        panel=MODEL, flag="--motion-lora", metavar="FILE[:SCALE]", part_of_model=True, folder="MotionLoRA", default=(),
        convert=values.weights, parse=values.scaled_files,
    )
    domain_adapter: WeightRef | None = option(
        "Domain adapter of v3.",
        panel=MODEL, metavar="FILE[:SCALE]", part_of_model=True, folder="Motion_Module", default=None,
        convert=values.weight, parse=values.scaled_file,
    )
    embeddings: tuple[EmbeddingRef, ...] = option(
        "Textual inversion; may be repeated.",
        panel=MODEL, flag="--embedding", metavar="FILE[:TOKEN]", part_of_model=True, folder="DreamBooth_LoRA",
        default=(), convert=values.weights, parse=values.named_files,
    )
    download: bool = option("Fetch known files that are missing from the hub.", panel=MODEL, default=False)

    prompt: tuple[str, ...] = option(
        "What to show; each makes a clip.",
        panel=PROMPTS, flag="PROMPT", metavar="PROMPT", per_clip=True, prepared=True, default=MISSING,
    )
    negative_prompt: tuple[str, ...] = option(
        "What to avoid; once, or once a clip.", panel=PROMPTS, short="-n", per_clip=True, prepared=True, default=("",),
    )
    prompt_travel: tuple[dict[int, str], ...] = option(
        "Text at a later frame, such as 12=summer; may be repeated.",
        panel=PROMPTS, flag="--prompt-at", metavar="FRAME=TEXT", per_clip=True, default=(), argument="prompt",
        prepared=True, parse=values.texts_at_frames,
    )
    prompt_head: str | None = option(
        "Put before every prompt.", panel=PROMPTS, metavar="TEXT", argument="prompt", prepared=True, default=None,
    )
    prompt_tail: str | None = option(
        "Put after every prompt.", panel=PROMPTS, metavar="TEXT", argument="prompt", prepared=True, default=None,
    )
    prompt_interpolation: str = option(
        "linear, or slerp: along the arc.",
        panel=PROMPTS, metavar="HOW", argument="prompt", prepared=True, default="linear",
        choices="animatediff.prompts.travel.INTERPOLATIONS", needs="prompt_travel",
    )
    prompt_hold: float = option(
        "Share of each stretch that holds its text before it blends, 0 to 1.",
        panel=PROMPTS, argument="prompt", prepared=True, default=DEFAULT_HOLD, ge=0, le=1, needs="prompt_travel",
    )
    prompt_loop: bool = option(
        "Blend the last text back to the first.",
        panel=PROMPTS, argument="prompt", prepared=True, default=False, needs="prompt_travel",
    )
    plain_prompts: bool = option("Take brackets as letters and cut long prompts, as the original.", panel=PROMPTS)

    seed: tuple[int, ...] = option(
        "Once, or once a clip; -1 is random.",
        panel=CLIP, per_clip=True, argument="generator", prepared=True, default=(-1,), ge=-1, le=MAX_SEED,
        expected="a seed of 64 bits, 0 to 2**64 - 1, or -1 for a random one",
    )
    num_frames: int | None = option("Frames in a clip.", panel=CLIP)
    width: int | None = option("Pixels, a multiple of 8.", panel=CLIP)
    height: int | None = option("Pixels, a multiple of 8.", panel=CLIP)
    steps: int | None = option("Steps of the sampler.", panel=CLIP, argument="num_inference_steps")
    guidance_scale: float | None = option("How closely to follow the prompt; 1 switches guidance off.", panel=CLIP)
    fast: str = option(
        "Leave deep layers and negative prompts out of some steps: off, balanced, or max (of more steps).",
        panel=CLIP, metavar="LEVEL", convert=values.level,
    )
    guidance_rescale: float = option("Bring the contrast of strong guidance back, 0 (not at all) to 1.", panel=CLIP)
    scheduler: str | None = option(
        "Sampler, such as ddim, euler_a, dpmpp_2m_karras.", panel=CLIP, part_of_model=True, default=None,
    )
    clip_skip: int | None = option("Last layers of the text encoder to pass over.", panel=CLIP)
    window: int | None = option("Frames seen at once in long clips.", panel=CLIP)
    overlap: int | None = option("Frames shared by two windows.", panel=CLIP)
    motion_scale: float | dict[int, float] = option(
        "How much motion modules add: 1.2, or along the clip 0=1.0,15=0.3.",
        panel=CLIP, metavar="X", convert=values.curve,
    )

    stride: int = option("2 adds windows of every second frame, 3 also of every fourth.", panel=LONG)
    blend: str = option("Where windows overlap: pyramid, flat, overlap-linear, gauss.", panel=LONG, metavar="HOW")
    closed_loop: bool = option("The first frame follows the last; the seam is measured.", panel=LONG)
    long_mode: str = option(
        "Windows over the unet, in the motion modules alone, or a queue of frames: unet, motion, fifo.",
        panel=LONG, metavar="MODE",
    )
    noise: str = option(
        "default, or freenoise: later frames have the first ones' noise, shuffled.", panel=LONG, metavar="KIND",
    )
    freeinit: int = option("FreeInit: how often the clip is sampled, 2 to 5; 1 is off.", panel=LONG)
    freeinit_filter: str = option("butterworth, gaussian, ideal or box.", panel=LONG, metavar="NAME")
    freeinit_ds: float = option("Share of the frequencies kept over space.", panel=LONG)
    freeinit_dt: float = option("The same over frames.", panel=LONG)

    sparsectrl: str | None = option(
        "SparseCtrl encoder, for images or sketches.",
        panel=SPARSECTRL, metavar="FILE", part_of_model=True, folder="SparseCtrl", default=None,
    )
    control_images: tuple[ImageInput, ...] = option(
        "Image that the clip shows; may be repeated.",
        panel=SPARSECTRL, flag="--control-image", metavar="FILE", argument="conditioning_frames", prepared=True,
        folder="", in_memory="image", default=(),
    )
    control_indices: tuple[int, ...] = option(
        "At which frame, once an image; -1 is the last.",
        panel=SPARSECTRL, flag="--control-index", metavar="N", argument="controlnet_frame_indices", prepared=True,
    )
    control_scale: float = option(
        "How strongly images act.", panel=SPARSECTRL, argument="controlnet_conditioning_scale",
    )
    control_start: float = option("Fraction of the steps from which on images act.", panel=SPARSECTRL)
    control_end: float = option("Fraction of the steps up to which images act.", panel=SPARSECTRL)
    control_preprocess: Method = option(
        "Make sketches of images: scribble, canny or none.",
        panel=SPARSECTRL, metavar="HOW", argument="conditioning_frames", prepared=True, default="none",
        choices="animatediff.media.sketch.METHODS", needs="control_images",
    )
    normalize_condition_images: bool = option(
        "Turn images grey, from black to white.",
        panel=SPARSECTRL, argument="conditioning_frames", prepared=True, default=False, needs="control_images",
    )
    sparsectrl_config: str | None = option(
        "SparseCtrl YAML of the original; only compared.",
        panel=SPARSECTRL, part_of_model=True, folder="", default=None, needs="sparsectrl",
    )

    image: ImageInput | None = option(
        "Image of the first frame.",
        panel=IMAGE, metavar="FILE", argument="images", prepared=True, folder="", in_memory="image", default=None,
    )
    last_image: ImageInput | None = option(
        "Image of the last frame.",
        panel=IMAGE, metavar="FILE", argument="images", prepared=True, folder="", in_memory="image", default=None,
    )
    keyframes: tuple[Keyframe, ...] = option(
        "Image of any frame; may be repeated.",
        panel=IMAGE, flag="--keyframe", metavar="FRAME=FILE", argument="images", prepared=True, folder="",
        in_memory="image", default=(), convert=values.keyframes, parse=values.keyframes,
    )
    image_mode: str | None = option(
        "How: i2v, pia, sparsectrl, ip-adapter or latents; auto is the best there is.", panel=IMAGE, metavar="HOW",
    )
    motion_amount: str | None = option(
        "How much PIA moves an image: small, moderate, large; back to it: loop-small, loop-moderate, loop-large; in "
        "another model's style: style-small, style-moderate, style-large.",
        panel=IMAGE, metavar="NAME",
    )
    image_affinity: float | dict[int, float] | None = option(
        "How like the image frames are, 0 to 1, in place of an amount: 0.8, or along the clip 0=1.0,15=0.6.",
        panel=IMAGE, metavar="X", convert=values.curve,
    )
    image_motion_scale: float = option("How much a clip by i2v moves: 0.8 as trained, 0 a still.", panel=IMAGE)
    color_match: bool = option("Give frames the mean colours of the image.", panel=IMAGE)
    ip_adapter: str | None = option(
        "IP-Adapter: content and style of images.",
        panel=IMAGE, metavar="FILE", part_of_model=True, folder="IP-Adapter", default=None,
    )
    ip_adapter_image: tuple[ImageInput, ...] = option(
        "Image for the IP-Adapter; may be repeated.",
        panel=IMAGE, metavar="FILE", prepared=True, folder="", in_memory="image", default=(), unset="`image`",
    )
    ip_adapter_scale: float = option(
        "How strongly it acts.", panel=IMAGE, part_of_model=True, default=1.0, needs="ip_adapter",
    )
    ip_adapter_encoder: str | None = option(
        "Its CLIP image encoder.",
        panel=IMAGE, metavar="FOLDER", part_of_model=True, folder="", default=None, unset="beside it",
    )

    drive: VideoInput | None = option(
        "Video that leads the clip, with the image for its looks: a ControlNet and an IP-Adapter from models/.",
        panel=DRIVE, metavar="FILE", argument="controlnet_inputs", prepared=True, folder="", in_memory="video",
        default=None,
    )
    drive_kind: tuple[str, ...] = option(
        "What is followed: auto, pose, lineart, softedge, canny, scribble, depth or normal; may be repeated.",
        panel=DRIVE, metavar="KIND", argument="controlnet_inputs", prepared=True, default=("auto",),
        choices="animatediff.weights.addons.at_hand.DRIVE_KINDS", needs="drive",
    )

    controlnet: tuple[str, ...] = option(
        "ControlNet, a file or a diffusers folder; may be repeated.",
        panel=CONTROLNET, metavar="FILE", part_of_model=True, folder="ControlNet", default=(),
    )
    controlnet_video: tuple[VideoInput, ...] = option(
        "Video that it follows, or a folder of images; once, or once each.",
        panel=CONTROLNET, metavar="FILE", argument="controlnet_inputs", prepared=True, folder="", in_memory="video",
        default=(), convert=values.videos,
    )
    controlnet_preprocess: tuple[Preprocessor, ...] = option(
        "Make sketches of its frames, or find poses in them: scribble, canny, openpose or none.",
        panel=CONTROLNET, metavar="HOW", argument="controlnet_inputs", prepared=True, default=("none",),
        choices="animatediff.media.preprocess.PREPROCESSORS", needs="controlnet",
    )
    controlnet_scale: tuple[float, ...] = option(
        "How strongly it acts.",
        panel=CONTROLNET, argument="controlnet_inputs", prepared=True, default=(1.0,), needs="controlnet",
    )
    controlnet_start: tuple[float, ...] = option(
        "Fraction of the steps from which on it acts.",
        panel=CONTROLNET, argument="controlnet_inputs", prepared=True, default=(0.0,), ge=0, le=1, needs="controlnet",
    )
    controlnet_end: tuple[float, ...] = option(
        "Fraction of the steps up to which it acts.",
        panel=CONTROLNET, argument="controlnet_inputs", prepared=True, default=(1.0,), ge=0, le=1, needs="controlnet",
    )
    controlnet_spread: tuple[tuple[float, ...] | None, ...] = option(
        "Images stand at the frames that their names say, and act on their neighbours so strongly.",
        panel=CONTROLNET, metavar="0.5,0.3", argument="controlnet_inputs", prepared=True, default=(None,),
        convert=values.spreads, needs="controlnet",
    )

    video: VideoInput | None = option(
        "Video, animated image, or folder of images to start from.",
        panel=VIDEO, metavar="FILE", prepared=True, folder="", in_memory="video",
    )
    strength: float | None = option("How much of it is changed: above 0 (hardly) to 1 (all).", panel=VIDEO, unset="0.6")
    video_fps: float | None = option(
        "Frames to take a second, of whichever video is given.",
        panel=VIDEO, argument="video", prepared=True, default=None, gt=0, le=240, unset="all",
    )
    video_start: float = option(
        "Where to begin in that video.",
        panel=VIDEO, metavar="SECONDS", argument="video", prepared=True, default=0.0, ge=0, unit="seconds",
    )
    video_duration: float | None = option(
        "How much of that video to take.",
        panel=VIDEO, metavar="SECONDS", argument="video", prepared=True, default=None, gt=0, unit="seconds",
    )
    video_by_number: bool = option(
        "Images of a folder stand at the frames that their names say (0008.png); others are blended.",
        panel=VIDEO, argument="video", prepared=True, default=False,
    )
    resize: Resize = option(
        "Bring videos and images to size: crop, pad or stretch.",
        panel=VIDEO, metavar="HOW", argument="video", prepared=True, default="crop",
        choices="animatediff.media.images.RESIZES", needs="images",
    )
    audio: bool = option("Put its sound beside the result (mp4, webm).", panel=VIDEO, default=False)

    motion_from: VideoInput | None = option(
        "Video whose movement the clip takes, without its looks.",
        panel=MOTION, metavar="FILE", prepared=True, folder="", in_memory="video",
    )
    motion_from_strength: float = option("How strongly it moves the clip; 0 not at all.", panel=MOTION)
    motion_from_start: float = option("Fraction of the steps from which on it does.", panel=MOTION)
    motion_from_end: float = option("Fraction of the steps up to which it does.", panel=MOTION)
    motion_from_blocks: str = option(
        "Motion modules that it goes through: all, down, mid, up, or blocks such as up.1; several by commas.",
        panel=MOTION, metavar="BLOCKS",
    )

    camera_control: str | None = option(
        "CameraCtrl model, which follows a path of the camera.",
        panel=CAMERA, metavar="FILE", part_of_model=True, folder="CameraCtrl", default=None,
    )
    camera: str | None = option(
        "The path: moves such as zoom-in:0.5,pan-left:0.2@ease-in-out, a file of poses (RealEstate10K's format), or a "
        "video whose camera is followed.",
        panel=CAMERA, metavar="MOVES|FILE", prepared=True, folder="", default=None,
    )
    camera_scale: float = option("How strongly it acts.", panel=CAMERA)
    camera_aspect: float | None = option(
        "Width by height of the video that poses were measured in.",
        panel=CAMERA, unset="1.78 of poses, a video's own",
    )

    upscale: float | None = option("Render again, so many times as large.", panel=UPSCALE)
    upscale_strength: float = option("How much of it is made anew: above 0 to 1.", panel=UPSCALE)
    upscale_steps: int | None = option("Steps of its whole schedule.", panel=UPSCALE, unset="as before")
    upscaler: str | None = option(
        "Enlarge the finished frames: realesr-animevideov3-x2, -x3, -x4, realesrgan-x4plus-anime, realesrgan-x4plus, "
        "or a weight file.",
        panel=UPSCALE, metavar="NAME|FILE", folder="upscale_models", default=None,
    )

    device: str | None = option("cpu, cuda, cuda:1, mps.", panel=MACHINE, part_of_model=True, default=None)
    dtype: str | None = option(
        "float32, float16, bfloat16, or auto: what this machine is fastest in.",
        panel=MACHINE, part_of_model=True, default=None, choices="animatediff.render.options.DTYPES",
    )
    cpu_offload: bool = option(
        "Keep on the GPU only what is at work.", panel=MACHINE, part_of_model=True, default=False,
    )
    compile: bool = option(
        "Compile the blocks of the UNet: minutes once, kept on disk, then faster steps.",
        panel=MACHINE, part_of_model=True, default=False,
    )
    decode_chunk_size: int | None = option("Frames decoded at once.", panel=MACHINE)
    vram: str | None = option(
        "Memory that a clip may take, such as 6GB or 500MB.", panel=MACHINE, metavar="SIZE", convert=values.size,
        unset="what is free",
    )
    inference_config: str | None = option(
        "Inference YAML of the original; only compared.",
        panel=MACHINE, metavar="FILE", part_of_model=True, folder="", default=None,
    )

    out: str | None = option(
        "mp4, webm, mov, mkv, gif, webp, apng, or a folder of PNG; one that is there is replaced.",
        panel=OUTPUT, short="-o", metavar="FILE", default=None,
    )
    name: str | None = option(
        "Title of the results, in place of the prompt or the configuration's name.",
        panel=OUTPUT, metavar="TEXT", default=None,
    )
    fps: float | None = option("Frames per second.", panel=OUTPUT, default=None, gt=0, le=240)
    fps_out: float | None = option(
        "Frames per second of the file, in the same time: those in between are made by optical flow.",
        panel=OUTPUT, default=None, gt=0, le=240, unset="as rendered",
    )
    codec: str | None = option(
        "mp4: h264, h265, av1; webm: vp9, av1; mov: prores, h264, h265; mkv: ffv1 and most others.",
        panel=OUTPUT, metavar="NAME", default=None, choices="animatediff.media.formats.CODEC_NAMES",
        unset="the format's",
    )
    max_size: float | None = option(
        "Megabytes that a gif or webp has at most: colours, then frames, then its size are reduced.",
        panel=OUTPUT, default=None, gt=0, unit="megabytes",
    )
    quality: int = option("0 to 100; webp is lossless at 100.", panel=OUTPUT, default=80, ge=0, le=100, needs="lossy")
    loop: int = option(
        "Times that gif, webp and apng play; 0 is for ever.",
        panel=OUTPUT, default=0, ge=0, le=65535, unit="times", needs="repeats",
    )
    # fmt: on


OPTIONS = declared_in(AnimateOptions)
BY_NAME = {item.name: item for item in OPTIONS}

FIELDS = tuple(BY_NAME)
FLAGS = {item.name: item.flag for item in OPTIONS}
"""Option -> its flag on the command line."""
ARGUMENT_FLAGS = {item.argument: item.flag for item in OPTIONS if item.as_it_is and item.argument is not None}
"""Argument of the pipeline -> flag of the option that is it."""
PER_CLIP = tuple(item.name for item in OPTIONS if item.per_clip)
"""Options of which there is one value a clip, or one for all."""
MODEL_OPTIONS = tuple(item.name for item in OPTIONS if item.part_of_model)
"""Options that decide the pipeline; requests that agree in them share one."""
PATH_FIELDS = {item.name: item.folder for item in OPTIONS if item.folder is not None}
"""Options that name a file, and the folder under `models/` where such files are."""
CALL_OPTIONS = {item.name: item.argument for item in OPTIONS if item.as_it_is and item.argument is not None}
"""Option -> argument of the pipeline, where the value goes there as it is."""


def names_file(option: str, value: str) -> bool:
    """Whether the value of an option in `PATH_FIELDS` is the name of a file; a path of the camera may be moves."""
    return option != "camera" or is_file(value)


IN_MEMORY = tuple(item.name for item in OPTIONS if item.in_memory)
"""Options whose value may be an image or a video in memory, in place of the name of a file."""
