"""The renderer: models kept, inputs of every kind, events, cancelling, frames that stream; nothing left behind."""

from __future__ import annotations

import logging
import shutil
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.fake_pipeline import FakePipeline
from support.paths import GOLDEN

from animatediff.errors import Cancelled, UserError
from animatediff.files import Roots
from animatediff.media import make_grid, read_video
from animatediff.media.grid import grid_frames
from animatediff.media.seam import LoopSeam, loop_seam
from animatediff.media.spool import Spool
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.output import Callbacks
from animatediff.render import AnimateRequest, build_request, inputs
from animatediff.render.events import Event, Reporter, TimeLeft, noted
from animatediff.render.models import ModelSpec, load_model
from animatediff.render.renderer import Clip, Renderer
from animatediff.render.write import OneFile, RunFolder

V2 = GOLDEN / "v2"


def ask(**values: Any) -> AnimateRequest:
    return build_request({"prompt": "a fox", "seed": 1, **values})


class Frames(FakePipeline):
    """Calls as many steps as it is asked for, and listens to `cancel`."""

    def sample(self, job: Any, callbacks: Any) -> torch.Tensor:
        for step in range(1, job.num_inference_steps + 1):
            callbacks.step("denoise", step, job.num_inference_steps)
        return super().sample(job, Callbacks())


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(place: Path) -> Path:
    return Path(shutil.copy(V2 / "motion_module.ckpt", place / "mm.ckpt"))


def test_models_are_kept_and_loaded_anew_when_a_file_changes(module: Path) -> None:
    loads: list[ModelSpec] = []
    renderer = Renderer(load=lambda spec, after_part: loads.append(spec) or FakePipeline())
    request = ask(model=str(V2 / "sd"), motion_module=str(module))
    for other in (request, request.model_copy(update={"prompt": ("rain",), "steps": 3}), request):
        (clip,) = renderer.clips([other])
    assert len(loads) == 1
    first, (clip,) = clip, renderer.clips([request])
    with pytest.raises(ValueError, match="gone"):
        first.array()
    content = module.read_bytes()
    module.unlink()
    module.write_bytes(content)
    list(renderer.clips([request]))
    assert len(loads) == 2 and loads[0].settings == loads[1].settings and loads[0].files != loads[1].files
    renderer.unload()
    list(renderer.clips([request]))
    assert len(loads) == 3


@pytest.mark.parametrize("keep", [1, 2])
def test_the_model_used_longest_ago_goes_before_the_next_is_loaded(keep: int) -> None:
    alive: list[int] = []
    made: list[Any] = []

    def load(*_: object) -> FakePipeline:
        pipe = FakePipeline()
        alive.append(sum(reference() is not None for reference in made) + 1)
        made.append(weakref.ref(pipe))
        return pipe

    renderer = Renderer(load=load, keep=keep)
    names = [{"scheduler": name} for name in ("ddim", "euler", "ddim", "lcm", "ddim")]
    for values in names:
        list(renderer.clips([ask(**values)]))
    assert alive == ([1] * 5 if keep == 1 else [1, 2, 2])


def test_a_loading_that_fails_leaves_the_renderer_usable() -> None:
    outcomes: list[Any] = [UserError("no such model"), torch.OutOfMemoryError("full"), FakePipeline()]

    def load(*_: object) -> Any:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    renderer = Renderer(load=load)
    for error in (UserError, torch.OutOfMemoryError):
        with pytest.raises(error):
            list(renderer.clips([ask()]))
    (clip,) = [clip.array() for clip in renderer.clips([ask()])]
    assert clip.shape == (4, 32, 40, 3) and not outcomes


def test_prepare_reads_no_weights_and_judges_all_before_the_first(
    place: Path, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors
    import safetensors.torch

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were read")

    for owner, name in ((torch, "load"), (safetensors.torch, "load_file"), (safetensors, "safe_open")):
        monkeypatch.setattr(owner, name, read)
    for name in ("lora.load", "motion", "sparsectrl", "base.unet", "base.components", "addons.embeddings"):
        owner = __import__(f"animatediff.weights.{name}", fromlist=["load_tensors"])
        if hasattr(owner, "load_tensors"):
            monkeypatch.setattr(owner, "load_tensors", read)
    Image.new("RGB", (8, 8)).save("a.png")
    renderer = Renderer(load=read)
    good = ask(
        model=str(V2 / "sd"),
        motion_module=str(module),
        loras=str(V2 / "style_lora_kohya.safetensors"),
        motion_loras=str(V2 / "motion_lora.ckpt"),
        image="a.png",
        seed=-1,
    )
    (prepared,) = renderer.prepare([good])
    assert prepared.seed[0] >= 0 and prepared.model == str(V2 / "sd")
    (bundled,) = renderer.prepare([ask()])
    assert bundled.model == "bundled"
    for bad, message in (
        ({"image": "none.png"}, "none.png"),
        ({"loras": str(module)}, "not a LoRA"),
        ({"out": "a.png/b.mp4"}, "cannot be written"),
    ):
        with pytest.raises(UserError, match=message):
            renderer.prepare([good, ask(**bad)])


def test_nothing_is_fetched_before_all_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    from animatediff.weights import hub

    monkeypatch.setattr(hub, "fetch", lambda *_, **__: pytest.fail("fetched"))
    far = ask(model=str(V2 / "sd"), motion_module="mm_sd_v15_v2.ckpt", download=True)
    near = ask(model=str(V2 / "sd"), motion_module="mm_sd_v15.ckpt")
    with pytest.raises(UserError, match=r"mm_sd_v15\.ckpt: not here"):
        Renderer().prepare([far, near])


def test_where_files_go_does_not_depend_on_the_working_directory(place: Path) -> None:
    roots = Roots(models=(place / "m",), samples=place / "s")
    (done,) = Renderer.of(FakePipeline(), roots=roots).render([ask()], OneFile())
    assert done.file == place / "s" / "a-fox.mp4"
    (done,) = Renderer.of(FakePipeline(), roots=roots).render([ask()], RunFolder("run"))
    assert done.folder is not None and done.folder.parent == place / "s"
    with pytest.raises(UserError, match=r"put it at .*/m/Motion_Module/mm_sd_v15\.ckpt"):
        Renderer(roots=roots).prepare([ask(model=str(V2 / "sd"), motion_module="mm_sd_v15.ckpt")])


# -- one job at a time -------------------------------------------------------------------------------------------------


def test_a_second_thread_waits_and_may_give_up() -> None:
    renderer = Renderer(load=lambda *_: FakePipeline())
    clips = renderer.clips([ask()])
    first = next(clips)
    with pytest.raises(RuntimeError, match="at work in this thread"):
        next(renderer.clips([ask()]))
    with ThreadPoolExecutor(2) as pool:
        gives_up = pool.submit(lambda: list(renderer.clips([ask()], cancel=lambda: True)))
        with pytest.raises(Cancelled):
            gives_up.result(60)
        waits = pool.submit(lambda: [clip.array() for clip in renderer.clips([ask()])])
        assert not waits.done()
        mine = first.array()
        clips.close()
        (theirs,) = waits.result(60)
    assert np.array_equal(mine, theirs)


def test_a_consumer_that_stops_early_leaves_the_pipeline_clean() -> None:
    pipe = FakePipeline()
    pipe.vae.dtype, pipe.vae.config["force_upcast"] = torch.float16, True  # type: ignore[assignment]
    pipe.vae.to = lambda dtype: setattr(pipe.vae, "dtype", dtype)  # type: ignore[attr-defined]
    renderer = Renderer.of(pipe)
    clips = renderer.clips([ask(decode_chunk_size=1, upscale=2)])
    frames = next(clips).frames
    assert next(frames).shape == (1, 32, 40, 3)
    assert pipe.vae.decoded == 1, "no frame too many"
    assert not pipe.vae.use_tiling and pipe.vae.dtype == torch.float16, "others may use it between two frames"
    clips.close()
    assert not pipe.vae.use_tiling and pipe.vae.dtype == torch.float16 and pipe.freed == 1
    assert next(renderer.clips([ask()])).array().shape == (4, 32, 40, 3)


# -- frames ------------------------------------------------------------------------------------------------------------


def test_frames_are_those_of_a_call_to_the_bit() -> None:
    settings: dict[str, Any] = {"num_frames": 3, "num_inference_steps": 2, "decode_chunk_size": 2}
    pipe = AnimateDiffPipeline.from_bundled()
    request = ask(num_frames=3, steps=2, decode_chunk_size=2)
    for changed in ({}, {"upscale": 2.0}):
        called = pipe("a fox", generator=torch.Generator().manual_seed(1), **settings, **changed).frames[0]
        (clip,) = [clip.array() for clip in Renderer.of(pipe).clips([request.model_copy(update=changed)])]
        assert np.array_equal(clip, np.stack([np.asarray(frame) for frame in called]))


def test_a_loop_and_a_grid_of_frames_that_stream() -> None:
    frames = np.random.default_rng(1).integers(0, 256, (9, 6, 8, 3)).astype(np.uint8)
    seam = LoopSeam()
    for start in range(0, 9, 2):
        seam.add(frames[start : start + 2])
    assert seam.value() == loop_seam(frames)
    spool = Spool((6, 8))
    for frame in frames[:5]:
        spool.add(frame)
    grid = np.stack(list(grid_frames([frames, spool])))
    assert np.array_equal(grid, make_grid([frames, frames[:5]]))
    spool.close()


def test_a_closed_loop_and_its_seam(place: Path) -> None:
    (done,) = Renderer.of(FakePipeline()).render([ask(closed_loop=True)], OneFile("a.png"))
    assert done.seam == loop_seam(read_video("a.png")[0])


def images() -> Iterator[Any]:
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:, :20] = (220, 30, 10)
    Image.fromarray(pixels).save("a.png")
    yield "a.png"
    yield Image.fromarray(pixels)
    yield pixels
    yield pixels.astype(np.float32) / 255
    yield torch.from_numpy(pixels).permute(2, 0, 1) / 255


class Shown(FakePipeline):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[dict[str, Any]] = []

    def job(self, **arguments: Any) -> Any:
        self.called.append(arguments)
        return super().job(**arguments)


def test_inputs_are_paths_images_arrays_or_tensors_alike(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, opened = Shown(), []
    from animatediff.media import images as module

    opener = module.open_image
    monkeypatch.setattr(module, "open_image", lambda path: opened.append(path) or opener(path))
    for image in images():
        request = ask().model_copy(update={"image": image})
        (clip,) = Renderer.of(pipe).clips([request])
        assert (clip.request.width, clip.request.height) == (48, 24)
        assert np.array_equal(np.asarray(pipe.called[-1]["images"][0]), clip.keyframes.images[0])
    assert opened == ["a.png"], "once a clip"
    shown = [np.asarray(call["images"][0]) for call in pipe.called]
    assert all(np.array_equal(image, shown[0]) for image in shown)
    video = np.stack([np.full((24, 48, 3), 10 * n, np.uint8) for n in range(6)])
    tensor = torch.from_numpy(video).permute(0, 3, 1, 2) / 255
    for frames in ([Image.fromarray(frame) for frame in video], video, tensor):
        (clip,) = Renderer.of(pipe).clips([ask().model_copy(update={"video": frames})])
        assert clip.request.num_frames == 6 and clip.request.fps == 8
        assert np.array_equal(pipe.called[-1]["video"], video)
    for wrong, message in ((np.zeros((4, 4, 7)), "`image` takes"), (np.full((4, 4), 2.0), r"images are in 0\.\.1")):
        with pytest.raises(UserError, match=message):
            Renderer.of(pipe).prepare([ask().model_copy(update={"image": wrong})])


def test_a_file_that_changed_between_two_requests_is_seen_anew() -> None:
    pipe = Shown()
    for colour in ((255, 0, 0), (0, 0, 255)):
        Image.new("RGB", (16, 16), colour).save("a.png")
        list(Renderer.of(pipe).clips([ask(image="a.png")]))
        assert np.asarray(pipe.called[-1]["images"][0])[0, 0].tolist() == list(colour)


# -- events ------------------------------------------------------------------------------------------------------------


def test_time_left_is_measured_in_the_phase_itself() -> None:
    now = 0.0
    left = TimeLeft(lambda: now)
    found = []
    for moment, phase, step, total in (
        (9, "load", 1, 2),  # 9 s for a part
        (10, "load", 2, 2),
        (30, "denoise", 1, 5),  # with the encoding of prompts before it
        (32, "denoise", 2, 5),
        (34, "denoise", 3, 5),
        (35, "decode", 4, 16),
        (36, "decode", 8, 16),
        (40, "decode", 2, 4),  # another clip
    ):
        now = float(moment)
        found.append(left.after(phase, step, total))
    assert found == [9, 0, 80, 6, 4, 3, 2, 4]


def test_events_of_a_job(place: Path) -> None:
    events: list[Event] = []
    renderer = Renderer(load=lambda spec, after_part: after_part(1, 2) or Frames())
    renderer.render([ask(num_frames=6, steps=3, seed=[1, 2])], OneFile("a.gif"), on_event=events.append)
    steps = [(e.clip, e.phase, e.step, e.total) for e in events]
    load = [(0, "load", 0, 1), (0, "load", 1, 2)]
    clip = [("denoise", 1, 3), ("denoise", 2, 3), ("denoise", 3, 3), ("decode", 4, 6), ("decode", 6, 6)]
    clip += [("write", n, 6) for n in (1, 2, 3, 4, 5, 6, 6)]
    assert steps == load + [(number, *step) for number in (0, 1) for step in clip]
    assert {e.num_clips for e in events[2:]} == {2} and all(e.preview is None for e in events)
    assert events[3].time_left is not None


def test_notes_belong_to_the_job_that_caused_them(caplog: pytest.LogCaptureFixture) -> None:
    together = threading.Barrier(2)

    class Noting(FakePipeline):
        def sample(self, job: Any, callbacks: Any) -> torch.Tensor:
            together.wait(60)
            logging.getLogger("animatediff.pipelines").info("%s by way of a test", job.prompt)
            together.wait(60)
            return super().sample(job, callbacks)

    def work(prompt: str) -> tuple[list[str], list[str]]:
        events: list[Event] = []
        (done,) = Renderer.of(Noting()).render([ask(prompt=prompt)], OneFile(f"{prompt}.png"), on_event=events.append)
        return [event.note for event in events if event.note], list(done.notes)

    log = logging.getLogger("animatediff")
    before = log.level, list(log.handlers)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(work, ("one", "two")))
    assert found == [([f"{name} by way of a test"],) * 2 for name in ("one", "two")]
    assert not caplog.records, "the log shows no more than without a job"
    assert (log.level, log.handlers) == before


def test_the_log_stays_as_it_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("animatediff.test")
    reporter = Reporter()
    with caplog.at_level(logging.INFO, logger="animatediff"), noted(reporter):
        log.info("seen")
    with noted(reporter):
        log.info("not seen")
        log.warning("a warning")
    log.info("after")
    assert [record.getMessage() for record in caplog.records] == ["seen", "a warning"]
    assert reporter.notes == ["seen", "not seen", "a warning"]


ALL = ("a.mp4", "a.gif", "a.webp", "a.png", "frames")
ENCODED_LAST = ("a.gif", "a.webp")  # the others are written as they are decoded
MOMENTS = [(phase, target) for phase in ("load", "denoise", "decode") for target in ALL]


@pytest.mark.parametrize(("phase", "target"), [*MOMENTS, *(("write", target) for target in ENCODED_LAST)])
def test_cancelled_in_any_phase_nothing_stays(place: Path, phase: str, target: str) -> None:
    events: list[Event] = []
    renderer = Renderer(load=lambda spec, after_part: after_part(1, 2) or Frames())
    for to in (OneFile(target), RunFolder("run")):
        events.clear()
        with pytest.raises(Cancelled, match=phase):
            renderer.render(
                [ask(steps=3)], to, on_event=events.append, cancel=lambda: bool(events) and events[-1].phase == phase
            )
        assert files(place) in ([], ["samples"])
    (done,) = renderer.render([ask(steps=3)], OneFile(target))
    assert len(read_video(done.file)[0]) == 4


def test_loading_can_be_cancelled_between_parts(module: Path) -> None:
    parts: list[tuple[int, int]] = []

    def after_part(done: int, total: int) -> None:
        parts.append((done, total))
        if done == 2:
            raise Cancelled

    request = ask(
        model=str(V2 / "sd"), motion_module=str(module), motion_loras=str(V2 / "motion_lora.ckpt"), device="cpu"
    )
    with pytest.raises(Cancelled):
        load_model(ModelSpec.of(request), after_part)
    assert parts == [(1, 3), (2, 3)]
    load_model(ModelSpec.of(request), lambda done, total: parts.append((done, total)))
    assert parts[2:] == [(1, 3), (2, 3), (3, 3)]


def test_inputs_are_looked_into_only_while_nobody_cancels() -> None:
    Image.new("RGB", (16, 16)).save("a.png")

    def check() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        inputs.look_into(ask(image="a.png"), check)


def test_a_clip_is_taken_once() -> None:
    (clip,) = Renderer.of(FakePipeline()).clips([ask()])
    assert isinstance(clip, Clip)
    with pytest.raises(ValueError, match="take them once"):
        clip.array()
