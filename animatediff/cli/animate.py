"""`animatediff animate`: from prompts, a configuration, or an earlier result to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from animatediff.cli import inputs
from animatediff.cli.errors import reports_errors

_WHAT, _MODEL, _PICTURE = "In place of prompts", "Model", "Picture and motion"
_CONTROL, _RUN, _OUT = "Pictures to show", "Machine", "Output"
_WORDS = "Words on the way"
_LONG = "Long clips and loops"

# typer reads these annotations at run time, where `list[str] | None` works from Python 3.10 on.
Text = Optional[str]  # noqa: UP045
Texts = Optional[list[str]]  # noqa: UP045
Number = Optional[int]  # noqa: UP045
Numbers = Optional[list[int]]  # noqa: UP045
Real = Optional[float]  # noqa: UP045


def _option(text: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


@reports_errors
def animate(
    prompts: Annotated[Texts, typer.Argument(metavar="PROMPT", help="What to show; each makes a clip.")] = None,
    config: Annotated[
        Text,
        _option("Render the runs of a YAML file, the original's or ours.", _WHAT, "--config", "-c", metavar="FILE"),
    ] = None,
    from_: Annotated[
        Text, _option("Repeat an earlier result: a video, or the .json beside it.", _WHAT, "--from", metavar="FILE")
    ] = None,
    model: Annotated[Text, _option("Image model: file, folder, hub id, or `bundled`.", _MODEL, metavar="MODEL")] = None,
    motion_module: Annotated[Text, _option("Motion module: file, folder or hub id.", _MODEL, metavar="MODULE")] = None,
    family: Annotated[
        Text, _option("Overrides the recognised family of the motion module.", _MODEL, metavar="NAME")
    ] = None,
    vae: Annotated[Text, _option("VAE file or folder in place of the model's own.", _MODEL, metavar="FILE")] = None,
    text_encoder: Annotated[
        Text, _option("Text encoder in place of the model's own, or where it has none.", _MODEL, metavar="FILE")
    ] = None,
    text_encoder_2: Annotated[
        Text, _option("The second one of SDXL, likewise.", _MODEL, "--text-encoder-2", metavar="FILE")
    ] = None,
    prediction_type: Annotated[
        Text, _option("epsilon or v_prediction, of a single file that does not say.", _MODEL, metavar="TYPE")
    ] = None,
    use_ema: Annotated[bool, _option("Take the averaged weights of a single file.", _MODEL, "--use-ema")] = False,
    lora: Annotated[Texts, _option("LoRA of the image model; may be repeated.", _MODEL, metavar="FILE[:SCALE]")] = None,
    motion_lora: Annotated[
        Texts, _option("MotionLoRA, or ZoomIn, PanLeft, ...; may be repeated.", _MODEL, metavar="FILE[:SCALE]")
    ] = None,
    domain_adapter: Annotated[Text, _option("Domain adapter of v3.", _MODEL, metavar="FILE[:SCALE]")] = None,
    embedding: Annotated[Texts, _option("Textual inversion; may be repeated.", _MODEL, metavar="FILE[:TOKEN]")] = None,
    download: Annotated[
        bool, _option("Fetch known files that are missing from the hub.", _MODEL, "--download")
    ] = False,
    negative_prompt: Annotated[
        Texts, _option("What to avoid; once, or once a clip.", _PICTURE, "--negative-prompt", "-n")
    ] = None,
    prompt_at: Annotated[
        Texts, _option("Text at a later frame, such as 12=summer; may be repeated.", _WORDS, metavar="FRAME=TEXT")
    ] = None,
    prompt_head: Annotated[Text, _option("Put before every prompt.", _WORDS, metavar="TEXT")] = None,
    prompt_tail: Annotated[Text, _option("Put after every prompt.", _WORDS, metavar="TEXT")] = None,
    prompt_interpolation: Annotated[
        Text, _option("linear, or slerp: along the arc (linear).", _WORDS, metavar="HOW")
    ] = None,
    prompt_hold: Annotated[
        Real, _option("Share of each stretch that holds its text before it blends, 0 to 1 (0.5).", _WORDS)
    ] = None,
    prompt_loop: Annotated[bool, _option("Blend the last text back to the first.", _WORDS, "--prompt-loop")] = False,
    plain_prompts: Annotated[
        bool, _option("Take brackets as letters and cut long prompts, as the original.", _WORDS, "--plain-prompts")
    ] = False,
    seed: Annotated[Numbers, _option("Once, or once a clip; -1 is random.", _PICTURE)] = None,
    num_frames: Annotated[Number, _option("Frames in a clip.", _PICTURE)] = None,
    width: Annotated[Number, _option("Pixels, a multiple of 8.", _PICTURE)] = None,
    height: Annotated[Number, _option("Pixels, a multiple of 8.", _PICTURE)] = None,
    steps: Annotated[Number, _option("Steps of the sampler.", _PICTURE)] = None,
    guidance_scale: Annotated[
        Real, _option("How closely to follow the prompt; 1 switches guidance off.", _PICTURE)
    ] = None,
    scheduler: Annotated[Text, _option("Sampler, such as ddim, euler_a, dpmpp_2m_karras.", _PICTURE)] = None,
    clip_skip: Annotated[Number, _option("Last layers of the text encoder to pass over.", _PICTURE)] = None,
    window: Annotated[Number, _option("Frames seen at once in long clips.", _PICTURE)] = None,
    overlap: Annotated[Number, _option("Frames shared by two windows.", _PICTURE)] = None,
    stride: Annotated[
        Number, _option("2 adds windows of every second frame, 3 also of every fourth (1).", _LONG)
    ] = None,
    blend: Annotated[
        Text, _option("Where windows overlap: pyramid, flat, overlap-linear, gauss.", _LONG, metavar="HOW")
    ] = None,
    closed_loop: Annotated[
        bool, _option("The first frame follows the last; the seam is measured.", _LONG, "--closed-loop")
    ] = False,
    long_mode: Annotated[
        Text, _option("Windows over the unet, or in the motion modules alone: unet, motion.", _LONG, metavar="MODE")
    ] = None,
    noise: Annotated[
        Text,
        _option("default, or freenoise: later frames have the first ones' noise, shuffled.", _LONG, metavar="KIND"),
    ] = None,
    freeinit: Annotated[Number, _option("FreeInit: how often the clip is sampled, 2 to 5; 1 is off.", _LONG)] = None,
    freeinit_filter: Annotated[
        Text, _option("butterworth, gaussian, ideal or box.", _LONG, "--freeinit-filter", metavar="NAME")
    ] = None,
    freeinit_ds: Annotated[Real, _option("Share of the frequencies kept over space (0.25).", _LONG)] = None,
    freeinit_dt: Annotated[Real, _option("The same over frames (0.25).", _LONG)] = None,
    motion_scale: Annotated[
        Text, _option("How much motion modules add: 1.2, or along the clip 0=1.0,15=0.3.", _PICTURE, metavar="X")
    ] = None,
    sparsectrl: Annotated[
        Text, _option("SparseCtrl encoder, for pictures or sketches.", _CONTROL, metavar="FILE")
    ] = None,
    control_image: Annotated[
        Texts, _option("Picture that the clip shows; may be repeated.", _CONTROL, metavar="FILE")
    ] = None,
    control_index: Annotated[
        Numbers, _option("At which frame, once a picture; -1 is the last (0).", _CONTROL, metavar="N")
    ] = None,
    control_scale: Annotated[Real, _option("How strongly pictures steer (1.0).", _CONTROL)] = None,
    control_start: Annotated[Real, _option("Share of the steps from which on they do (0).", _CONTROL)] = None,
    control_end: Annotated[Real, _option("Share of the steps up to which they do (1).", _CONTROL)] = None,
    control_preprocess: Annotated[
        Text, _option("Make sketches of pictures: scribble, canny or none.", _CONTROL, metavar="HOW")
    ] = None,
    normalize_condition_images: Annotated[
        bool, _option("Turn pictures grey, from black to white.", _CONTROL, "--normalize-condition-images")
    ] = False,
    sparsectrl_config: Annotated[Text, _option("SparseCtrl YAML of the original; only compared.", _CONTROL)] = None,
    image: inputs.Image = None,
    last_image: inputs.LastImage = None,
    keyframe: inputs.Keyframe = None,
    image_mode: inputs.ImageMode = None,
    ip_adapter: inputs.IpAdapter = None,
    ip_adapter_image: inputs.IpAdapterImage = None,
    ip_adapter_scale: inputs.IpAdapterScale = None,
    ip_adapter_encoder: inputs.IpAdapterEncoder = None,
    controlnet: inputs.ControlNet = None,
    controlnet_video: inputs.ControlNetVideo = None,
    controlnet_preprocess: inputs.ControlNetPreprocess = None,
    controlnet_scale: inputs.ControlNetScale = None,
    controlnet_start: inputs.ControlNetStart = None,
    controlnet_end: inputs.ControlNetEnd = None,
    controlnet_spread: inputs.ControlNetSpread = None,
    video: inputs.Video = None,
    strength: inputs.Strength = None,
    video_fps: inputs.VideoFps = None,
    video_start: inputs.VideoStart = None,
    video_duration: inputs.VideoDuration = None,
    resize: inputs.Resize = None,
    audio: inputs.Audio = False,
    upscale: inputs.Upscale = None,
    upscale_strength: inputs.UpscaleStrength = None,
    upscale_steps: inputs.UpscaleSteps = None,
    device: Annotated[Text, _option("cpu, cuda, cuda:1, mps.", _RUN)] = None,
    dtype: Annotated[Text, _option("float32, float16 or bfloat16.", _RUN)] = None,
    cpu_offload: Annotated[bool, _option("Keep on the GPU only what is at work.", _RUN, "--cpu-offload")] = False,
    decode_chunk_size: Annotated[Number, _option("Frames decoded at once.", _RUN)] = None,
    inference_config: Annotated[
        Text, _option("Inference YAML of the original; only compared.", _RUN, metavar="FILE")
    ] = None,
    out: Annotated[
        Text, _option("mp4, webm, gif, webp, apng, or a folder of PNG.", _OUT, "--out", "-o", metavar="FILE")
    ] = None,
    fps: Annotated[Real, _option("Frames per second.", _OUT)] = None,
    quality: Annotated[Number, _option("0 to 100 (80); webp is lossless at 100.", _OUT)] = None,
    loop: Annotated[Number, _option("Times that gif, webp and apng play; 0 is for ever.", _OUT)] = None,
    quiet: Annotated[bool, _option("Print only where the files are.", _OUT, "--quiet", "-q")] = False,
    list_words: Annotated[
        bool, _option("Print the words that the bundled model knows.", _WHAT, "--list-words")
    ] = False,
) -> None:
    """Render prompts to animations. Settings left out are what the model recommends.

    Without --model and --motion-module the small bundled model renders. Results go to samples/ unless --out is given.
    """
    if list_words:
        _print_words()
        return
    given = {
        "model": model,
        "motion_module": motion_module,
        "family": family,
        "vae": vae,
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
        "prediction_type": prediction_type,
        "use_ema": use_ema or None,
        "loras": [_scaled(text) for text in lora or []] or None,
        "motion_loras": [_scaled(text) for text in motion_lora or []] or None,
        "domain_adapter": _scaled(domain_adapter) if domain_adapter else None,
        "embeddings": [_with_token(text) for text in embedding or []] or None,
        "download": download or None,
        "prompt": prompts or None,
        "negative_prompt": negative_prompt or None,
        "prompt_travel": _at_frames(prompt_at) if prompt_at else None,
        "prompt_head": prompt_head,
        "prompt_tail": prompt_tail,
        "prompt_interpolation": prompt_interpolation,
        "prompt_hold": prompt_hold,
        "prompt_loop": prompt_loop or None,
        "plain_prompts": plain_prompts or None,
        "seed": seed or None,
        "num_frames": num_frames,
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "scheduler": scheduler,
        "clip_skip": clip_skip,
        "window": window,
        "overlap": overlap,
        "stride": stride,
        "blend": blend,
        "closed_loop": closed_loop or None,
        "long_mode": long_mode,
        "motion_scale": motion_scale,
        "noise": noise,
        "freeinit": freeinit,
        "freeinit_filter": freeinit_filter,
        "freeinit_ds": freeinit_ds,
        "freeinit_dt": freeinit_dt,
        "sparsectrl": sparsectrl,
        "control_images": control_image or None,
        "control_indices": control_index or None,
        "control_scale": control_scale,
        "control_start": control_start,
        "control_end": control_end,
        "control_preprocess": control_preprocess,
        "normalize_condition_images": normalize_condition_images or None,
        "sparsectrl_config": sparsectrl_config,
        "image": image,
        "last_image": last_image,
        "keyframes": inputs.keyframes(keyframe),
        "image_mode": image_mode,
        "ip_adapter": ip_adapter,
        "ip_adapter_image": ip_adapter_image or None,
        "ip_adapter_scale": ip_adapter_scale,
        "ip_adapter_encoder": ip_adapter_encoder,
        "controlnet": controlnet or None,
        "controlnet_video": controlnet_video or None,
        "controlnet_preprocess": controlnet_preprocess or None,
        "controlnet_scale": controlnet_scale or None,
        "controlnet_start": controlnet_start or None,
        "controlnet_end": controlnet_end or None,
        "controlnet_spread": controlnet_spread or None,
        "video": video,
        "strength": strength,
        "video_fps": video_fps,
        "video_start": video_start,
        "video_duration": video_duration,
        "resize": resize,
        "audio": audio or None,
        "upscale": upscale,
        "upscale_strength": upscale_strength,
        "upscale_steps": upscale_steps,
        "device": device,
        "dtype": dtype,
        "cpu_offload": cpu_offload or None,
        "decode_chunk_size": decode_chunk_size,
        "inference_config": inference_config,
        "out": out,
        "fps": fps,
        "quality": quality,
        "loop": loop,
    }
    run({key: value for key, value in given.items() if value is not None}, config=config, result=from_, quiet=quiet)


def run(
    values: dict[str, Any],
    *,
    config: str | None = None,
    result: str | None = None,
    pretrained_model_path: str | None = None,
    quiet: bool = False,
) -> None:
    """Render what the settings ask for, on top of a configuration or an earlier result; print the files' names."""
    from animatediff.errors import UserError
    from animatediff.render import build_request, load_config, load_result, resolve

    if config and result:
        raise UserError("--config and --from both say what to render; give one of them")
    values = resolve(values)
    if config:
        requests = load_config(config, values, pretrained_model_path=pretrained_model_path)
    elif result:
        requests = [load_result(result, values)]
    elif "prompt" in values or "prompt_travel" in values:
        requests = [build_request(values)]
    else:
        raise UserError(
            'nothing to render: give a prompt, as in `animatediff animate "a fox moving right"`, or --config'
        )

    from animatediff.cli.progress import messages, progress_bar

    with messages(quiet), progress_bar(quiet) as on_progress:
        # imported here: it is seconds, and mistakes in the settings are told before
        from animatediff.render.render import render, render_runs

        if config and len(requests) == 1 and requests[0].out:
            done = render(requests[0], on_progress=on_progress)
        elif config:
            if any(request.out for request in requests):
                raise UserError(f"--out takes the clips of one run, and {config} holds {len(requests)}")
            done = render_runs(requests, Path(config).stem, on_progress=on_progress)
        else:
            done = render(requests[0], on_progress=on_progress)
    for file, request, seam in zip(done.files, done.requests, done.seams, strict=True):
        of_loop = "" if seam is None else f"; loop seam {seam:.2f}, 1 is seamless"
        print(file if quiet else f"{file}  (seed {request.seed[0]}{of_loop})")
    for sheet in [] if quiet else done.sheets:
        print(sheet)
    if done.grid is not None:
        print(done.grid)


def _scaled(text: str) -> dict[str, Any]:
    """`FILE:0.8` as a file and its scale.

    >>> _scaled("a.safetensors:0.5")
    {'path': 'a.safetensors', 'scale': 0.5}
    """
    path, colon, scale = text.rpartition(":")
    try:
        return {"path": path, "scale": float(scale)} if colon and path else {"path": text}
    except ValueError:
        return {"path": text}


def _at_frames(given: list[str]) -> dict[str, str]:
    """`12=summer` as a frame and its text; the text may have quotes of its own around it.

    >>> _at_frames(["12=summer", '24="autumn, rain"'])
    {'12': 'summer', '24': 'autumn, rain'}
    """
    from animatediff.errors import UserError
    from animatediff.prompts.travel import frame_of

    found: dict[str, str] = {}
    for item in given:
        frame, equals, text = item.partition("=")
        if not equals:
            raise UserError(f'--prompt-at {item!r}: expected a frame and a text, as in --prompt-at 12="summer"')
        if (key := str(frame_of(frame))) in found:
            raise UserError(f"--prompt-at: frame {key} has two texts, {found[key]!r} and {text!r}; keep one of them")
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        found[key] = text[1:-1] if quoted else text
    return found


def _with_token(text: str) -> dict[str, Any]:
    path, colon, token = text.rpartition(":")
    if colon and path and not set(token) & set("/\\."):
        return {"path": path, "token": token}
    return {"path": text}


def _print_words() -> None:
    from animatediff.sprites import words

    print("objects:     " + ", ".join(words.OBJECTS))
    print("backgrounds: " + ", ".join(words.BACKGROUNDS))
    print("motions:     " + ", ".join(words.MOTIONS))
    for motion, phrases in words.MOTION_PHRASES.items():
        said = sorted({text for text in phrases if text and "{" not in text} - {motion})
        print(f"  {motion} is also said as: " + ", ".join(said))
    print("also with verbs, as in `a fox runs to the right`:")
    for name, verbs in words.VERBS.items():
        print(f"  {name}: " + ", ".join(verbs))
    print("for example: " + "\n             ".join(words.EXAMPLES))
