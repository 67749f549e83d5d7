"""The door of every front end: from requests to frames or files, with the models kept between them."""

from __future__ import annotations

import gc
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from animatediff.files import HERE, Roots, check_writable
from animatediff.prompts import PromptTravel
from animatediff.render.clip import Clip
from animatediff.render.defaults import call_arguments, check_travels, with_defaults, with_seeds
from animatediff.render.drive import driven
from animatediff.render.dry_run import DryRuns
from animatediff.render.events import Cancel, OnEvent, Reporter, noted
from animatediff.render.finish import Finishing, finish_of
from animatediff.render.inputs import Inputs, input_arguments, logger, look_into
from animatediff.render.models import AfterPart, ModelSpec, load_model
from animatediff.render.prepare import complete, model_to_come, to_come
from animatediff.render.request import AnimateRequest
from animatediff.render.saved import SavedRender, saved_render
from animatediff.render.subjects import warn_of_idle_options
from animatediff.render.timeline import timeline
from animatediff.render.write import OneFile, Rendered, RunFolder

if TYPE_CHECKING:
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.output import Callbacks, Progress
    from animatediff.pipelines.plan import Plan
    from animatediff.pipelines.resume import SavedCall

Load = Callable[[ModelSpec, AfterPart], Any]
"""Loads the model of a spec; calls the second after each part, which may raise to end the loading."""


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
        self,
        requests: Iterable[AnimateRequest],
        *,
        on_event: OnEvent | None = None,
        cancel: Cancel | None = None,
        fetch: bool = True,
    ) -> list[AnimateRequest]:
        """The requests with every file found or fetched and checked, and their seeds drawn; no weights are read.

        The job of each clip is made and checked (`dry_run.py`). All are judged before the first file is fetched; with
        `fetch` False none is. Raises UserError for what cannot be loaded, rendered, read or written.
        """
        reporter = Reporter(on_event, cancel)
        with noted(reporter):
            return [prepared.request for prepared in self._prepare(requests, reporter, fetch=fetch)]

    def plan(self, request: AnimateRequest, *, on_event: OnEvent | None = None, cancel: Cancel | None = None) -> Plan:
        """What the clips of a request need in memory, one after the other, and by which measures they fit.

        No weights are read, and nothing is rendered. Raises UserError as `prepare`.
        """
        from animatediff.render.memory import plan_of

        reporter = Reporter(on_event, cancel)
        with noted(reporter):
            (prepared,) = self._prepare([request], reporter)
            return plan_of(prepared.request, prepared.inputs, self._given, self._models)

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
        """Render every clip and write it. Nothing half written stays. Raises as `clips`.

        Where `to` says so, the state of long renders is saved, and the same requests go on with it (`render.resume`).
        """
        reporter = Reporter(on_event, cancel)
        with ExitStack() as stack:
            stack.enter_context(noted(reporter))
            requests = self._driven(requests)
            writer = stack.enter_context(to.opened(requests, self._roots, reporter))
            saved = stack.enter_context(saved_render(to.resume, writer, self._roots))
            with closing(self._clips(requests, reporter, preview, saved)) as clips:
                for clip in clips:
                    writer.add(clip)
                    if saved is not None:
                        saved.finished(len(writer.done) - 1)
            return writer.finish()

    def unload(self) -> None:
        """Let go of the models; waits for a job at work."""
        with self._alone(Reporter()):
            self._drop(len(self._models))

    # -- the job -------------------------------------------------------------------------------------------------------

    def _prepare(
        self,
        requests: Iterable[AnimateRequest],
        reporter: Reporter,
        *,
        fetch: bool = True,
        saved: SavedRender | None = None,
    ) -> list[_Prepared]:
        found = self._driven(requests)
        for request in found:
            warn_of_idle_options(request)
            if request.out is not None:
                check_writable(request.out)
            finish_of(request).check(self._roots)
        inputs = [look_into(request, reporter.check, self._roots) for request in found]
        runs = DryRuns(self._models, self._given)

        def check(request: AnimateRequest, own: Inputs) -> None:
            reporter.check()
            runs.check(request, own)

        if self._given is None:
            found = self._complete(found, inputs, check, reporter, fetch=fetch)
        else:
            for request, own in zip(found, inputs, strict=True):
                check(request, own)
        seeded = [with_seeds(request) for request in found] if saved is None else saved.begin(found)
        return [_Prepared(request, own) for request, own in zip(seeded, inputs, strict=True)]

    def _driven(self, requests: Iterable[AnimateRequest]) -> list[AnimateRequest]:
        """The requests with driving videos put into other options."""
        return [driven(request, roots=self._roots, look=self._given is None) for request in requests]

    def _complete(
        self,
        requests: list[AnimateRequest],
        inputs: list[Inputs],
        check: Callable[[AnimateRequest, Inputs], None],
        reporter: Reporter,
        *,
        fetch: bool,
    ) -> list[AnimateRequest]:
        """The requests with every file of their models; all are judged before the first file is fetched."""
        from animatediff.weights.hub import fetch as fetch_file

        def completed(request: AnimateRequest) -> tuple[AnimateRequest, bool]:
            absent: list[str] = []

            def promised(name: str) -> str:
                path = to_come(name, download=request.download, roots=self._roots)
                absent.extend([name] if path == name else [])
                return path

            def promised_model(name: str, setting: str) -> str:
                path = model_to_come(name, setting, request=request)
                absent.extend([name] if path == name else [])
                return path

            reporter.check()
            here = complete(request, roots=self._roots, fetched=promised, fetched_model=promised_model)
            return here, bool(absent)

        def fetched(name: str) -> str:
            return str(fetch_file(name, download=True, roots=self._roots, on_bytes=reporter.on("download")))

        judged = [completed(request) for request in requests]
        for (request, absent), own in zip(judged, inputs, strict=True):
            if not absent:
                check(request, own)
        if not fetch:
            return [here for here, _ in judged]
        found = []
        for request, (here, absent), own in zip(requests, judged, inputs, strict=True):
            found.append(complete(request, roots=self._roots, fetched=fetched) if absent else here)
            if absent:
                check(found[-1], own)
        return found

    def _clips(
        self,
        requests: Iterable[AnimateRequest],
        reporter: Reporter,
        preview: bool,
        saved: SavedRender | None = None,
    ) -> Generator[Clip]:
        """Each clip is rendered by itself, so that its frames do not depend on the others."""
        with noted(reporter):
            jobs = self._prepare(requests, reporter, saved=saved)
        reporter.num_clips = sum(job.request.num_clips for job in jobs)
        with self._alone(reporter):
            jobs.reverse()
            number, num_done = 0, 0 if saved is None else saved.num_done
            while jobs:
                job = jobs.pop()  # its images are let go of when it is done
                if number + job.request.num_clips <= num_done:
                    for _ in range(job.request.num_clips):
                        reporter.next_clip()
                    number += job.request.num_clips
                    continue
                with noted(reporter):
                    asked = self._fitting(job)
                    pipe = self._model(asked, reporter)
                    request = with_defaults(asked, job.inputs, pipe)
                    check_travels(request)
                    finishing = Finishing.of(request, self._roots)
                for index in range(request.num_clips):
                    number += 1
                    if number <= num_done:
                        reporter.next_clip()
                        continue
                    with noted(reporter):
                        state = None if saved is None else saved.clip(number - 1, request.clip(index))
                        clip = _sampled(pipe, request.clip(index), job.inputs, reporter, preview, self._roots, state)
                        clip.frames = finishing.frames(clip.frames, reporter)
                    try:
                        yield clip
                    finally:
                        clip.frames.close()
                    reporter.next_clip()

    def _fitting(self, job: _Prepared) -> AnimateRequest:
        """The request in a number format that fits; unchanged where its model is in memory, or is not ours to load."""
        if self._given is not None or self._load is not load_model or ModelSpec.of(job.request) in self._models:
            return job.request
        from animatediff.render.memory import fitting

        return fitting(job.request, job.inputs)[0]

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


def _sampled(
    pipe: Any,
    request: AnimateRequest,
    inputs: Inputs,
    reporter: Reporter,
    preview: bool,
    roots: Roots,
    state: SavedCall | None = None,
) -> Clip:
    """Sample one clip, or go on with its state; its frames are decoded later."""
    from animatediff.pipelines.output import Callbacks
    from animatediff.pipelines.preview import previews

    if isinstance(prompt := request.prompt_of(), PromptTravel):
        logger.info("%s", timeline(prompt, request.num_frames or 1))
        if (apart := prompt.shortest_stretch) is not None and apart < pipe.defaults.window:
            logger.info(
                "texts stand %d frames apart, fewer than the %d that the motion module sees at once: expect them to "
                "mix; `num_frames` and later frames for the texts keep them apart",
                apart,
                pipe.defaults.window,
            )
    own, keyframes = input_arguments(request, inputs, pipe.sparsectrl_kind)
    camera = None
    if "camera" in own:
        from animatediff.camera import camera_path

        camera = camera_path(own["camera"], request.num_frames)
        logger.info("path of the camera: %s", camera)
    draw = previews(pipe.vae, roots) if preview else None

    def on_progress(progress: Progress) -> None:
        latents = progress.latents
        image = None if draw is None or latents is None else draw(latents[0])
        reporter.step(progress.phase, progress.step, progress.total, image)

    frames = _stream(pipe, call_arguments(request) | own, Callbacks(on_progress, reporter.cancelled), reporter, state)
    return Clip(request, frames, keyframes, reporter.notes, camera)


def _stream(
    pipe: Any, arguments: dict[str, Any], callbacks: Callbacks, reporter: Reporter, state: SavedCall | None
) -> Generator[np.ndarray]:
    """Sample now; the frames, uint8 (n, h, w, 3), are decoded as they are taken, those of a queue made then.

    All that the renderer asks of a pipeline to make frames stands here.
    """
    from animatediff.pipelines.stream import stream_frames
    from animatediff.pipelines.vae import to_bytes

    job = pipe.job(**arguments)
    reporter.memory = job.saving.line
    streams, latents = job.windows.streams, None
    if streams and state is not None:
        logger.info("no state of this clip is saved (`long_mode` fifo): if it is stopped, it begins anew")
    if not streams:
        if state is not None:
            callbacks = replace(callbacks, saves=state.opened(pipe, job))
        latents = pipe.sample(job, callbacks)
        if state is not None:
            state.sampled(latents)

    def decoded() -> Generator[np.ndarray]:
        with ExitStack() as stack:
            stack.callback(pipe.maybe_free_model_hooks)
            made = stream_frames(pipe, job, callbacks) if latents is None else pipe.decode(latents, job, callbacks)
            chunks = stack.enter_context(closing(made))
            while True:
                with noted(reporter):
                    if (chunk := next(chunks, None)) is None:
                        return
                    frames = to_bytes(chunk).numpy()
                yield frames

    return decoded()
