"""The one function that every front end calls: from a request to files."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from animatediff.errors import UserError
from animatediff.evaluation.stability import loop_seam
from animatediff.files import check_folder, check_writable, write_errors, write_text
from animatediff.media.formats import FOLDER, format_of
from animatediff.media.grid import make_grid
from animatediff.media.image_file import write_picture
from animatediff.media.sheet import keyframe_sheet
from animatediff.media.write import write_video
from animatediff.prompts import PromptTravel
from animatediff.render.control_images import control_pictures
from animatediff.render.models import build_pipeline, complete, pipeline_key
from animatediff.render.naming import SAMPLES, new_folder, numbered, record, slug, write_sidecar
from animatediff.render.read.original import to_original
from animatediff.render.request import AnimateRequest
from animatediff.render.shown_images import of_pictures, picture_arguments, shown_at
from animatediff.render.sources import of_video, second_pass, sound_of, video_arguments
from animatediff.render.timeline import timeline, timeline_picture

if TYPE_CHECKING:
    from PIL import Image

    from animatediff.pipelines import AnimateDiffPipeline

logger = logging.getLogger(__name__)

GRID_FPS = 8


@dataclass(frozen=True)
class RenderProgress:
    """A step that has been made, and where it stands in the whole."""

    phase: str
    """`"load"` (of a pipeline), `"encode"` (frames of a video), `"denoise"` (steps) or `"decode"` (frames)."""
    step: int
    total: int
    clip: int
    """From 0."""
    num_clips: int


@dataclass
class RenderResult:
    """What was rendered."""

    files: list[Path] = field(default_factory=list)
    """One a clip: a video, a picture, or a folder of frames."""
    requests: list[AnimateRequest] = field(default_factory=list)
    """One a clip, with the real seed and every recommended value filled in."""
    folder: Path | None = None
    """The folder made in the original's layout."""
    sheets: list[Path] = field(default_factory=list)
    """One a clip with pictures: what was given, above what was rendered at those frames; and one a clip with a prompt
    that travels: which text it shows when."""
    seams: list[float | None] = field(default_factory=list)
    """One a clip, of closed loops: the step from the last frame to the first over that of neighbours, 1 is seamless."""
    grid: Path | None = None
    config: Path | None = None


@dataclass
class Clip:
    """The frames of one clip, uint8 (f, h, w, 3), and the request that repeats them."""

    frames: np.ndarray
    request: AnimateRequest
    pictures: list[np.ndarray] = field(default_factory=list)
    """As the encoder saw them, uint8 (h, w, 3)."""
    indices: list[int] = field(default_factory=list)
    """The frames of the pictures; negatives count from the end."""


OnProgress = Callable[[RenderProgress], None]


def with_seeds(request: AnimateRequest) -> AnimateRequest:
    """`request` with one real seed a clip; each -1 becomes a random one, a single one serves all clips."""
    seeds = request.seed if len(request.seed) > 1 else request.seed * request.num_clips
    drawn = tuple(secrets.randbits(32) if seed == -1 else seed for seed in seeds)
    return request.model_copy(update={"seed": drawn})


def render(
    request: AnimateRequest,
    *,
    on_progress: OnProgress | None = None,
    cancel: Callable[[], bool] | None = None,
    pipe: AnimateDiffPipeline | None = None,
) -> RenderResult:
    """Render every clip of `request` and write it to `request.out`, or to `samples/{prompt}.mp4` under a free name.

    Beside each file goes `FILE.json`, from which `load_result` repeats it, and, where pictures steer the clip, a sheet
    of them, `{name}.keyframes.png`, and where the prompt travels, its timeline, `{name}.prompts.png`. `pipe`: a
    pipeline that already holds what the request names. Raises UserError before anything is computed for what cannot be
    loaded or written; Cancelled.
    """
    first = slug(request.prompt[0]).lower()
    out = request.out
    if out is not None:
        for index in range(request.num_clips):
            if format_of(target := numbered(out, index, request.num_clips)) == FOLDER:
                check_folder(target)
    check_writable(out or SAMPLES / f"{first}.mp4")
    result = RenderResult()
    for index, clip in enumerate(_clips([request], on_progress, cancel, pipe)):
        target = (
            numbered(out, index, request.num_clips) if out else SAMPLES / f"{slug(clip.request.prompt[0]).lower()}.mp4"
        )
        _write(clip, target, result, overwrite=out is not None)
    return result


def render_runs(
    requests: Sequence[AnimateRequest],
    stem: str,
    *,
    on_progress: OnProgress | None = None,
    cancel: Callable[[], bool] | None = None,
    pipe: AnimateDiffPipeline | None = None,
    root: Path = SAMPLES,
) -> RenderResult:
    """Render the runs of a configuration file into a folder of the original's layout.

    `{root}/{stem}-{time}/` gets `sample/{index}-{first ten words}.gif`, the grid `sample.gif`, `config.yaml` with the
    seeds used, and the pictures that steered as `control_images/{number}.png`. Errors as for `render`.
    """
    check_writable(root / stem / "config.yaml")
    result = RenderResult()
    grid: list[np.ndarray] = []
    steered: list[bytes] = []
    try:
        for index, clip in enumerate(_clips(requests, on_progress, cancel, pipe)):
            if result.folder is None:
                with write_errors(root):
                    result.folder = new_folder(root, stem)
            name = f"{index}-{slug(clip.request.prompt[0])}.gif"
            _write(clip, result.folder / "sample" / name, result, overwrite=True)
            grid.append(clip.frames)
            _write_pictures(clip, result.folder / "control_images", steered)
        assert result.folder is not None
        result.grid = write_video(make_grid(grid), result.folder / "sample.gif", fps=GRID_FPS)
        result.config = result.folder / "config.yaml"
        write_text(result.config, _config_text(requests, result.requests))
    except BaseException:
        if result.folder is not None:
            with suppress(OSError):  # what is finished stays; an empty folder does not
                result.folder.rmdir()
        raise
    return result


def _config_text(requests: Sequence[AnimateRequest], clips: Sequence[AnimateRequest]) -> str:
    """The runs with the seeds of their clips and every value filled in, as YAML in the original's keys."""
    import yaml

    runs, start = [], 0
    for request in requests:
        own = clips[start : start + request.num_clips]
        start += request.num_clips
        filled = own[0].model_copy(
            update={
                "prompt": request.prompt,
                "prompt_travel": request.prompt_travel,
                "negative_prompt": request.negative_prompt,
                "seed": tuple(clip.seed[0] for clip in own),
            }
        )
        runs.append(to_original(filled))
    return yaml.safe_dump(runs, sort_keys=False, allow_unicode=True, width=120)


def _write(clip: Clip, target: str | Path, result: RenderResult, *, overwrite: bool) -> None:
    request, content = clip.request, record(clip.request)
    path = write_video(
        clip.frames,
        target,
        fps=request.fps or GRID_FPS,
        quality=request.quality,
        metadata=content,
        loop=request.loop,
        overwrite=overwrite,
        sound=sound_of(request),
    )
    write_sidecar(path, content)
    if clip.pictures:
        frames = [index % len(clip.frames) for index in clip.indices]
        sheet = keyframe_sheet(clip.pictures, clip.frames, frames)
        result.sheets.append(write_picture(sheet, path.with_name(f"{path.stem}.keyframes.png")))
    if isinstance(shown := request.shown(), PromptTravel):
        picture = timeline_picture(shown, len(clip.frames))
        result.sheets.append(write_picture(picture, path.with_name(f"{path.stem}.prompts.png")))
    result.seams.append(loop_seam(clip.frames) if request.closed_loop else None)
    result.files.append(path)
    result.requests.append(request)


def _write_pictures(clip: Clip, folder: Path, written: list[bytes]) -> None:
    """Write the clip's pictures under the next numbers, unless another clip of this folder had the same."""
    for picture in clip.pictures:
        if (content := picture.tobytes()) not in written:
            write_picture(picture, folder / f"{len(written)}.png")
            written.append(content)


def _clips(
    requests: Sequence[AnimateRequest],
    on_progress: OnProgress | None,
    cancel: Callable[[], bool] | None,
    pipe: AnimateDiffPipeline | None,
) -> Iterator[Clip]:
    """Render clip after clip, each by itself, so that its frames do not depend on the others."""
    if pipe is None:
        requests = [
            complete(request) for request in requests
        ]  # all files of all runs, before the first minute is spent
    requests = [with_seeds(request) for request in requests]
    num_clips, index = sum(request.num_clips for request in requests), 0
    loaded: tuple[Any, ...] | None = None
    current: Any = pipe
    for request in requests:
        if pipe is None and loaded != pipeline_key(request):
            current = None  # lets go of the old one before the next is loaded
            _tell(on_progress, RenderProgress("load", 0, 1, index, num_clips))
            current, loaded = build_pipeline(request), pipeline_key(request)
            _tell(on_progress, RenderProgress("load", 1, 1, index, num_clips))
        filled = with_defaults(request, current)
        check_travels(filled)
        for number in range(filled.num_clips):
            one = filled.clip(number)
            pictures = control_pictures(one, getattr(current.sparsectrl, "kind", None)) if one.control_images else []
            frames = _frames(current, one, pictures, index, num_clips, on_progress, cancel)
            indices, images = shown_at(picture_arguments(one))
            if pictures:
                indices, images = [*one.control_indices, *indices], [*map(np.asarray, pictures), *images]
            yield Clip(frames, one, images, indices)
            index += 1


def with_defaults(request: AnimateRequest, pipe: Any) -> AnimateRequest:
    """`request` with every None that the loaded model decides filled in, so that later versions repeat the frames."""
    defaults = pipe.defaults
    recommended: dict[str, Any] = {
        "num_frames": defaults.num_frames,
        "width": defaults.width,
        "height": defaults.height,
        "steps": defaults.num_inference_steps,
        "guidance_scale": defaults.guidance_scale,
        "fps": defaults.fps,
        "scheduler": _scheduler(pipe),
        "dtype": str(pipe.unet.dtype).removeprefix("torch."),
    }
    recommended |= of_pictures(request, pipe) | of_video(request, defaults)
    return request.model_copy(update={k: v for k, v in recommended.items() if getattr(request, k) is None})


def check_travels(request: AnimateRequest) -> None:
    """Raise UserError for a text at a frame that one of the clips does not have; all are checked before the first."""
    for index in range(request.num_clips):
        if isinstance(shown := request.shown(index), PromptTravel):
            shown.check(request.num_frames or 1)


def _scheduler(pipe: Any) -> str | None:
    """The name of the sampler in use, if it has one: of the base model's own settings there may be none."""
    from animatediff.sampling.schedulers import scheduler_name

    advice = getattr(pipe, "recommended", None)
    name = (advice.scheduler if advice is not None else None) or type(pipe.scheduler).__name__
    try:
        return scheduler_name(name)
    except UserError:
        return None


def _tell(on_progress: OnProgress | None, progress: RenderProgress) -> None:
    if on_progress is not None:
        on_progress(progress)


def _frames(
    pipe: Any,
    request: AnimateRequest,
    pictures: list[Image.Image],
    index: int,
    num_clips: int,
    on_progress: OnProgress | None,
    cancel: Callable[[], bool] | None,
) -> np.ndarray:
    """One clip, uint8 (f, h, w, 3)."""
    import torch

    control: dict[str, Any] = {
        "controlnet_conditioning_scale": request.control_scale,
        "control_start": request.control_start,
        "control_end": request.control_end,
    }
    if pictures:
        control |= {"conditioning_frames": pictures, "controlnet_frame_indices": request.control_indices}
    shown = request.shown()
    if isinstance(shown, PromptTravel):
        logger.info("%s", timeline(shown, request.num_frames or 1))
        if (apart := shown.shortest_stretch) is not None and apart < pipe.defaults.window:
            logger.info(
                "texts stand %d frames apart, fewer than the %d that the motion module sees at once: expect them to "
                "mix; --num-frames and later frames for the texts keep them apart",
                apart,
                pipe.defaults.window,
            )
    out = pipe(
        prompt=shown,
        negative_prompt=request.negative_prompt[0] or None,  # SDXL was trained with zeros there, not with ""
        num_frames=request.num_frames,
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator().manual_seed(request.seed[0]),
        clip_skip=request.clip_skip,
        plain_prompts=request.plain_prompts,
        window=request.window,
        overlap=request.overlap,
        stride=request.stride,
        blend=request.blend,
        closed_loop=request.closed_loop,
        long_mode=request.long_mode,
        motion_scale=request.motion_scale,
        noise=request.noise,
        freeinit=request.freeinit,
        freeinit_filter=request.freeinit_filter,
        freeinit_ds=request.freeinit_ds,
        freeinit_dt=request.freeinit_dt,
        decode_chunk_size=request.decode_chunk_size,
        output_type="pil",
        on_progress=lambda p: _tell(on_progress, RenderProgress(p.phase, p.step, p.total, index, num_clips)),
        cancel=cancel,
        **control,
        **picture_arguments(request),
        **video_arguments(request),
        **second_pass(request),
    )
    return np.stack([np.asarray(frame) for frame in out.frames[0]])
