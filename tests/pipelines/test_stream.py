"""`long_mode` fifo and `pipe.stream`: the same frames, in order, whatever happens between two of them."""

from __future__ import annotations

from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import TINY, pipeline, seeded

from animatediff.errors import Cancelled, UserError
from animatediff.media import read_video
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render import Event, Renderer, build_request
from animatediff.render.render import render

LONG: dict[str, Any] = TINY | {"num_frames": 6, "window": 4, "num_inference_steps": 3}
FIFO: dict[str, Any] = LONG | {"long_mode": "fifo"}


@pytest.fixture
def pipe() -> AnimateDiffPipeline:
    return pipeline()


def frames(pipe: AnimateDiffPipeline, prompt: Any = "a fox", **settings: Any) -> torch.Tensor:
    """Latents (f, c, h, w) of one clip by the queue."""
    return pipe(prompt, generator=seeded(1)[0], **(FIFO | settings)).frames[0].transpose(0, 1)


@cache
def plain(num_frames: int = 6, guidance_scale: float = 1.0) -> torch.Tensor:
    return frames(pipeline(), num_frames=num_frames, guidance_scale=guidance_scale)


def streamed(pipe: AnimateDiffPipeline, prompt: Any = "a fox", **settings: Any) -> Any:
    return pipe.stream(prompt, generator=seeded(1)[0], **(LONG | settings))


def test_a_stream_is_the_clip_and_begins_the_one_without_end(pipe: AnimateDiffPipeline) -> None:
    clip = plain()
    assert clip.shape[0] == 6 and clip.isfinite().all()
    endless = streamed(pipe, num_frames=None)
    found = []
    for frame in islice(endless, 6):
        found.append(frame)
        if len(found) in (1, 3):  # other calls in between leave it as it is
            pipe("a cat", generator=seeded(2)[0], **TINY)
    assert torch.equal(torch.stack(list(streamed(pipe))), clip)
    assert torch.equal(torch.stack(found), clip)
    assert next(endless).isfinite().all(), "and goes on"
    assert pipe.attachment is not None and pipe.attachment.frames.num_frames == 0, "others may draw images"
    apart = [relative(a, b) for a, b in zip(clip[1:], clip[:-1], strict=True)]
    assert min(apart) > 1e-2, "no frame is the one before"


def test_the_first_frames_are_those_of_a_usual_clip(pipe: AnimateDiffPipeline) -> None:
    def usual(seed: int) -> torch.Tensor:
        settings: dict[str, Any] = LONG | {"num_frames": 3}  # as many as the queue has
        return pipe("a fox", generator=seeded(seed)[0], **settings).frames[0].transpose(0, 1)

    assert relative(plain()[0], usual(1)[0]) < 0.2 * relative(usual(2)[0], usual(1)[0])


def test_output_types(pipe: AnimateDiffPipeline) -> None:
    few: dict[str, Any] = {"num_frames": 5, "num_inference_steps": 2}
    (array, *_), (tensor, *_), (image, *_) = (list(streamed(pipe, output_type=o, **few)) for o in ("np", "pt", "pil"))
    assert isinstance(image, Image.Image) and np.asarray(image).dtype == np.uint8 and image.size == (16, 16)
    assert array.shape == (16, 16, 3) and tensor.shape == (3, 16, 16)
    assert np.array_equal(array, tensor.permute(1, 2, 0).numpy())
    assert np.abs(np.asarray(image) / 255 - array).max() < 0.01
    chunks = list(streamed(pipe, output_type="np", decode_chunk_size=3, **few))
    assert len(chunks) == 5 and np.allclose(chunks[0], array, atol=1e-5)


def test_a_short_clip_is_as_usual(pipe: AnimateDiffPipeline) -> None:
    usual = pipe("a fox", generator=seeded(1)[0], **TINY).frames[0].transpose(0, 1)
    assert torch.equal(torch.stack(list(pipe.stream("a fox", generator=seeded(1)[0], **TINY))), usual)
    jobs = [pipe.job("a fox", **TINY | {"num_frames": frames, "long_mode": "fifo"}) for frames in (16, 17)]
    assert [job.windows.streams for job in jobs] == [False, True], "longer than the window of 16, though 32 are known"
    assert (jobs[1].windows.length, jobs[1].windows.overlap, jobs[1].at_once[2]) == (16, 8, 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"guidance_scale": 9.0, "negative_prompt": "a cat"}, {"guidance_scale": 9.0, "guidance_rescale": 1.0},
        {"motion_scale": 0.2}, {"pag_scale": 3.0, "pag_adaptive_scale": 0.002}, {"eta": 1.0}, {"overlap": 0},
    ],
)  # fmt: skip
def test_settings_act(pipe: AnimateDiffPipeline, changed: dict[str, Any]) -> None:
    pipe.set_pag_applied_layers("down_blocks.0" if "pag_scale" in changed else None)
    try:
        found = frames(pipe, num_frames=5, **changed)
    finally:
        pipe.set_pag_applied_layers(None)
    assert found.isfinite().all()
    assert relative(found, plain(5, guidance_scale=changed.get("guidance_scale", 1.0))) > 1e-3


def test_prompts_and_curves_by_the_number_of_a_frame(pipe: AnimateDiffPipeline) -> None:
    text = {0: "a fox", 7: "a red car in the snow"}
    travel = torch.stack(list(islice(streamed(pipe, text, num_frames=None), 10)))
    assert torch.equal(travel, frames(pipe, text, num_frames=10)), "behind the last text, that text holds"
    curve = frames(pipe, motion_scale={0: 1.0, 5: 1.0, 7: 0.0}, num_frames=10)
    for changed in (travel, curve):
        apart = [relative(a, b) for a, b in zip(changed, plain(10), strict=True)]
        assert apart[0] < 0.2 * apart[9] and apart[9] > 1e-2


def test_several_clips_each_from_its_own_seed(pipe: AnimateDiffPipeline) -> None:
    both = pipe(["a fox", "a cat"], generator=seeded(1, 2), **FIFO).frames
    assert relative(both[0].transpose(0, 1), plain()) < 1e-4
    assert relative(both[1], both[0]) > 1e-1


def test_the_camera_is_followed() -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "cameractrl" / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / "cameractrl" / "v3_sd15_mm.ckpt")
    pipe.load_camera_control(GOLDEN / "cameractrl" / "CameraCtrl.ckpt")
    pipe.set_progress_bar_config(disable=True)
    small: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 2, "num_frames": 5}
    zoomed = frames(pipe, camera="zoom-in:1", **small)
    assert relative(zoomed, frames(pipe, **small)) > 1e-3
    with pytest.raises(UserError, match="`camera`: not with `long_mode` fifo"):
        streamed(pipe, camera="zoom-in:1", **small | {"num_frames": None})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"closed_loop": True, "freeinit": 2, "fast": "max"}, "`freeinit` and `fast`: not with .* leave them out"),
        ({"noise": "freenoise"}, "`noise`: not with `long_mode` fifo, .* leave it out, or take `long_mode` unet"),
        ({"images": Image.new("RGB", (16, 16))}, "`images`: not with `long_mode` fifo"),
        ({"video": torch.zeros(9, 3, 16, 16)}, "`video`: not with"),
        ({"motion_from": torch.zeros(9, 3, 16, 16)}, "`motion_from`: not with"),
        ({"timesteps": [900, 500, 100]}, "`timesteps`: not with"),
        ({"resume": "states"}, "`resume`: not with"),
        ({"upscale": 2.0}, "`upscale`: not with"),
        ({"window": 4, "overlap": 4}, "overlap must be at least 0 and less than the window of 4"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(
    pipe: AnimateDiffPipeline, settings: dict[str, Any], message: str
) -> None:
    if "images" in settings:
        settings |= {"image_mode": "latents"}
    for call in (frames, streamed):
        with pytest.raises(UserError, match=message):
            call(pipe, **settings)


def test_samplers_with_a_history_are_refused(pipe: AnimateDiffPipeline) -> None:
    before = pipe.scheduler
    try:
        for name in ("dpmpp_2m", "heun"):
            pipe.set_scheduler(name)
            with pytest.raises(UserError, match="each frame is at another step; choose another `scheduler`: ddim"):
                streamed(pipe)
        pipe.set_scheduler("euler_a")
        assert torch.stack(list(streamed(pipe))).isfinite().all()
    finally:
        pipe.scheduler = before


def test_without_end_nothing_counts_from_the_end(pipe: AnimateDiffPipeline) -> None:
    for settings in ({"motion_scale": {0: 1.0, -1: 0.5}}, {"motion_scale": [1.0, 0.5]}):
        with pytest.raises(UserError, match="motion_scale: "):
            streamed(pipe, num_frames=None, **settings)
    with pytest.raises(UserError, match="a stream is of one clip, and this call has 2"):
        streamed(pipe, ["a", "b"])


def test_progress_and_cancelling(pipe: AnimateDiffPipeline) -> None:
    seen: list[tuple[str, int, int]] = []

    def note(progress: Any) -> None:
        seen.append((progress.phase, progress.step, progress.total))

    for _ in streamed(pipe, on_progress=note):
        pass
    assert seen == [("denoise", step, 8) for step in range(1, 9)]
    stream = streamed(pipe, cancel=lambda: len(seen) > 8, on_progress=note)
    with pytest.raises(Cancelled):
        list(stream)


def request_of(**changes: Any) -> Any:
    values = {
        "prompt": "a fox", "seed": 1, "num_frames": 6, "window": 4, "steps": 3, "height": 16, "width": 16,
        "guidance_scale": 1.0, "long_mode": "fifo",
    }  # fmt: skip
    return build_request(values | changes)


def test_the_writer_takes_frames_as_they_come(tmp_path: Path, pipe: AnimateDiffPipeline) -> None:
    done = render(request_of(out=str(tmp_path / "clip")), pipe=pipe)
    assert np.array_equal(read_video(done.files[0])[0], np.stack(list(streamed(pipe, output_type="pil"))))
    seen: list[Event] = []
    clips = Renderer.of(pipe).clips([request_of()], on_event=seen.append)
    clip = next(clips)
    assert next(clip.frames).shape == (1, 16, 16, 3)
    assert (seen[-1].phase, seen[-1].step, seen[-1].total) == ("denoise", 3, 8), "no further one is made before"
    clips.close()


def test_the_plan_counts_the_queue_alone(pipe: AnimateDiffPipeline) -> None:
    def step(num_frames: int) -> int:
        plan = pipe.plan("a fox", **FIFO | {"num_frames": num_frames, "output_type": "pil"})
        return next(phase.tensors for phase in plan.phases if phase.phase == "denoise")

    assert step(2000) < 1.1 * step(20)
