"""The door of every front end: from requests to frames or files, with the models kept between them."""

from __future__ import annotations

import gc
import secrets
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, check_writable
from animatediff.prompts import PromptTravel
from animatediff.render.events import Cancel, OnEvent, Reporter, noted
from animatediff.render.inputs import Inputs, Keyframes, input_arguments, logger, look_into, settings_from
from animatediff.render.models import AfterPart, ModelSpec, load_model
from animatediff.render.options import CALL_OPTIONS
from animatediff.render.prepare import complete, to_come
from animatediff.render.request import AnimateRequest
from animatediff.render.timeline import timeline
from animatediff.render.write import OneFile, Rendered, RunFolder

if TYPE_CHECKING:
    from torch import Tensor

    from animatediff.pipelines import AnimateDiffPipeline

Load = Callable[[ModelSpec, AfterPart], Any]
"""Loads the model of a spec; calls the second after each part, which may raise to end the loading."""


@dataclass
class Clip:
    """One clip that is sampled; its frames are decoded as they are taken."""

    request: AnimateRequest
    """The request that repeats it: of this clip alone, with its seed and every None filled in."""
    frames: Generator[np.ndarray]
    """Chunks of frames, uint8 (n, h, w, 3), once, and only until the next clip is asked for."""
    keyframes: Keyframes = field(default_factory=Keyframes)
    """Images that it was given, as the model saw them, and the frames that they stand at."""
    notes: list[str] = field(default_factory=list)
    """Choices made for the user, and warnings; complete once the frames are taken."""

    def array(self) -> np.ndarray:
        """All frames, uint8 (f, h, w, 3)."""
        chunks = list(self.frames)
        if not chunks:
            raise ValueError("the frames of this clip are gone: take them once, and before the next clip is asked for")
        return np.concatenate(chunks)


@dataclass
class _Prepared:
    request: AnimateRequest
    inputs: Inputs


class Renderer:
    """Renders requests, one job at a time, and keeps the models it loaded last.

    A model is loaded anew when a file that it was made of has changed. Threads may share a renderer: the second waits
    until the first is done.
    """

    def __init__(self, *, load: Load = load_model, keep: int = 1, roots: Roots = HERE) -> None:
        """`keep`: models in memory at most, also while another is loaded; `roots`: where files are found and put."""
        if keep < 1:
            raise ValueError(f"keep={keep}: a job needs one model in memory")
        self._load, self._keep, self._roots = load, keep, roots
        self._models: OrderedDict[ModelSpec, Any] = OrderedDict()
        self._given: Any = None
        self._lock = threading.Lock()
        self._owner: int | None = None

    @classmethod
    def of(cls, pipe: AnimateDiffPipeline, *, roots: Roots = HERE) -> Renderer:
        """A renderer of one pipeline that holds whatever the requests name; files of models are not looked for."""
        renderer = cls(roots=roots)
        renderer._given = pipe
        return renderer

    def prepare(
        self, requests: Iterable[AnimateRequest], *, on_event: OnEvent | None = None, cancel: Cancel | None = None
    ) -> list[AnimateRequest]:
        """The requests with every file found or fetched and checked, and their seeds drawn; no weights are read.

        All are judged before the first file is fetched. Raises UserError for what cannot be loaded, read or written.
        """
        reporter = Reporter(on_event, cancel)
        with noted(reporter):
            return [prepared.request for prepared in self._prepare(requests, reporter)]

    def clips(
        self,
        requests: Iterable[AnimateRequest],
        *,
        on_event: OnEvent | None = None,
        cancel: Cancel | None = None,
        preview: bool = False,
    ) -> Generator[Clip]:
        """Render clip after clip; nothing is written. The first is sampled when it is asked for.

        The renderer is at work until the last clip is taken or the iterator is closed. `preview`: events of denoising
        have a small image of the clip. Raises UserError as `prepare`, Cancelled.
        """
        return self._clips(requests, Reporter(on_event, cancel), preview)

    def render(
        self,
        requests: Iterable[AnimateRequest],
        to: OneFile | RunFolder,
        *,
        on_event: OnEvent | None = None,
        cancel: Cancel | None = None,
        preview: bool = False,
    ) -> list[Rendered]:
        """Render every clip and write it. Nothing half written stays. Raises as `clips`."""
        requests, reporter = list(requests), Reporter(on_event, cancel)
        with noted(reporter), to.opened(requests, self._roots, reporter) as writer:
            with closing(self._clips(requests, reporter, preview)) as clips:
                for clip in clips:
                    writer.add(clip)
            return writer.finish()

    def unload(self) -> None:
        """Let go of the models; waits for a job at work."""
        with self._alone(Reporter()):
            self._drop(len(self._models))

    # -- the job -------------------------------------------------------------------------------------------------------

    def _prepare(self, requests: Iterable[AnimateRequest], reporter: Reporter) -> list[_Prepared]:
        found = list(requests)
        for request in found:
            if request.out is not None:
                check_writable(request.out)
        inputs = [look_into(request, reporter.check) for request in found]
        if self._given is None:
            found = self._complete(found, reporter)
        return [_Prepared(with_seeds(request), own) for request, own in zip(found, inputs, strict=True)]

    def _complete(self, requests: list[AnimateRequest], reporter: Reporter) -> list[AnimateRequest]:
        """The requests with every file of their models; all are judged before the first file is fetched."""
        from animatediff.weights.hub import fetch

        def completed(request: AnimateRequest) -> tuple[AnimateRequest, bool]:
            absent: list[str] = []

            def promised(name: str) -> str:
                path = to_come(name, download=request.download, roots=self._roots)
                absent.extend([name] if path == name else [])
                return path

            reporter.check()
            return complete(request, roots=self._roots, fetched=promised), bool(absent)

        def fetched(name: str) -> str:
            return str(fetch(name, download=True, roots=self._roots, on_bytes=reporter.on("download")))

        judged = [(request, *completed(request)) for request in requests]
        return [
            complete(request, roots=self._roots, fetched=fetched) if absent else here
            for request, here, absent in judged
        ]

    def _clips(self, requests: Iterable[AnimateRequest], reporter: Reporter, preview: bool) -> Generator[Clip]:
        """Each clip is rendered by itself, so that its frames do not depend on the others."""
        with noted(reporter):
            jobs = self._prepare(requests, reporter)
        reporter.num_clips = sum(job.request.num_clips for job in jobs)
        with self._alone(reporter):
            jobs.reverse()
            while jobs:
                job = jobs.pop()  # its images are let go of when it is done
                with noted(reporter):
                    pipe = self._model(job.request, reporter)
                    request = with_defaults(job.request, job.inputs, pipe)
                    check_travels(request)
                for index in range(request.num_clips):
                    with noted(reporter):
                        clip = _sampled(pipe, request.clip(index), job.inputs, reporter, preview)
                    try:
                        yield clip
                    finally:
                        clip.frames.close()
                    reporter.next_clip()

    def _model(self, request: AnimateRequest, reporter: Reporter) -> Any:
        """The model of a complete request, from memory or from its files."""
        if self._given is not None:
            return self._given
        spec = ModelSpec.of(request)
        if spec in self._models:
            self._models.move_to_end(spec)
            return self._models[spec]
        for old in [old for old in self._models if old.settings == spec.settings]:
            del self._models[old]  # its files have changed
        self._drop(len(self._models) + 1 - self._keep)
        reporter.step("load", 0, 1)
        model = self._load(spec, reporter.on("load"))
        reporter.check()
        self._models[spec] = model
        return model

    def _drop(self, count: int) -> None:
        """Let go of the models that were used longest ago, before another one needs their memory."""
        for _ in range(max(0, count)):
            self._models.popitem(last=False)
        gc.collect()  # hooks of a model point back at it
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @contextmanager
    def _alone(self, reporter: Reporter) -> Iterator[None]:
        """Wait until no other job is at work."""
        if self._owner == threading.get_ident():
            raise RuntimeError("this renderer is at work in this thread; take its clips to the end or close them first")
        while not self._lock.acquire(timeout=0.1):
            reporter.check()
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()


def with_seeds(request: AnimateRequest) -> AnimateRequest:
    """`request` with one real seed a clip; each -1 becomes a random one, a single one serves all clips."""
    seeds = request.seed if len(request.seed) > 1 else request.seed * request.num_clips
    drawn = tuple(secrets.randbits(32) if seed == -1 else seed for seed in seeds)
    return request.model_copy(update={"seed": drawn})


def with_defaults(request: AnimateRequest, inputs: Inputs, pipe: Any) -> AnimateRequest:
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
    recommended |= settings_from(request, inputs, pipe)
    return request.model_copy(update={k: v for k, v in recommended.items() if getattr(request, k) is None})


def check_travels(request: AnimateRequest) -> None:
    """Raise UserError for a text at a frame that one of the clips does not have; all are checked before the first."""
    for index in range(request.num_clips):
        if isinstance(prompt := request.shown(index), PromptTravel):
            prompt.check(request.num_frames or 1)


def _scheduler(pipe: Any) -> str | None:
    """The name of the sampler in use, if it has one: of the base model's own settings there may be none."""
    from animatediff.sampling.schedulers import scheduler_name

    try:
        return scheduler_name(pipe.advice.scheduler or type(pipe.scheduler).__name__)
    except UserError:
        return None


def call_arguments(request: AnimateRequest) -> dict[str, Any]:
    """Arguments of the pipeline's call, but for images and videos, of a clip with every value filled in."""
    import torch

    arguments: dict[str, Any] = {argument: getattr(request, name) for name, argument in CALL_OPTIONS.items()}
    return {
        **arguments,
        "prompt": request.shown(),
        "negative_prompt": request.negative_prompt[0] or None,  # SDXL was trained with zeros there, not with ""
        "generator": torch.Generator().manual_seed(request.seed[0]),
    }


def _sampled(pipe: Any, request: AnimateRequest, inputs: Inputs, reporter: Reporter, preview: bool) -> Clip:
    """Sample one clip; its frames are decoded later."""
    from animatediff.sampling.preview import preview_image, preview_kind

    if isinstance(prompt := request.shown(), PromptTravel):
        logger.info("%s", timeline(prompt, request.num_frames or 1))
        if (apart := prompt.shortest_stretch) is not None and apart < pipe.defaults.window:
            logger.info(
                "texts stand %d frames apart, fewer than the %d that the motion module sees at once: expect them to "
                "mix; `num_frames` and later frames for the texts keep them apart",
                apart,
                pipe.defaults.window,
            )
    own, keyframes = input_arguments(request, inputs, None if pipe.sparsectrl is None else pipe.sparsectrl.kind)
    linear_map = preview_kind(pipe.vae) if preview else None

    def on_progress(phase: str, step: int, total: int, latents: Tensor | None) -> None:
        image = None if linear_map is None or latents is None else preview_image(latents, linear_map)
        reporter.step(phase, step, total, image)

    frames = _stream(pipe, call_arguments(request) | own, on_progress, reporter, latents=linear_map is not None)
    return Clip(request, frames, keyframes, reporter.notes)


def _stream(
    pipe: Any,
    arguments: dict[str, Any],
    on_progress: Callable[[str, int, int, Tensor | None], None],
    reporter: Reporter,
    *,
    latents: bool,
) -> Generator[np.ndarray]:
    """Sample now; the frames, uint8 (n, h, w, 3), are decoded as they are taken.

    All that the renderer asks of a pipeline stands here. `on_progress(phase, step, total, latents of the clip)`, with
    `latents` (c, f, h, w) after each step of denoising.
    """
    import torch

    from animatediff.pipelines.animatediff import DECODE_CHUNK_SIZE
    from animatediff.pipelines.upscale import tiling
    from animatediff.pipelines.vae import decode_pictures, to_bytes, wide_enough

    seen: list[Tensor] = []

    def after_step(_: Any, step: int, timestep: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        seen[:] = [state["latents"][0]]
        return state

    arguments = {**arguments, "callback_on_step_end": after_step} if latents else arguments
    sampled: Tensor = pipe(
        **arguments,
        output_type="latent",
        on_progress=lambda p: on_progress(p.phase, p.step, p.total, seen[0] if seen and p.phase == "denoise" else None),
        cancel=reporter.cancelled,
    ).frames
    flat = sampled[0].transpose(0, 1)  # f c h w
    chunk_size = arguments["decode_chunk_size"] or DECODE_CHUNK_SIZE

    def decoded() -> Generator[np.ndarray]:
        first = 0
        try:
            with wide_enough(pipe.vae), tiling(pipe.vae) if arguments["upscale"] is not None else nullcontext():
                for chunk in flat.split(chunk_size):
                    with noted(reporter), torch.no_grad():
                        frames = to_bytes(decode_pictures(pipe.vae, chunk)).numpy()
                        first += len(frames)
                        on_progress("decode", first, len(flat), None)
                    yield frames
        finally:
            pipe.maybe_free_model_hooks()

    return decoded()
