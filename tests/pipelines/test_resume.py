"""Calls that go on where they were stopped: to the same frames, from every kind of step, or anew where that is said."""

from __future__ import annotations

import copy
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.images import colour
from support.pipelines import pipeline, seeded
from support.stops import Stopped, counted

from animatediff.errors import UserError
from animatediff.files import AtomicFile
from animatediff.pipelines import identity
from animatediff.pipelines.resume import Timer
from animatediff.pipelines.state_files import KEEP_S, StateFolder, others
from animatediff.sampling.schedulers import SCHEDULERS, make_scheduler, scheduler_class
from animatediff.sampling.state import BadState, Unsavable, pack, restore_scheduler, unpack

CLIP: dict[str, Any] = {
    "num_frames": 4, "height": 16, "width": 16, "num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "pt"
}  # fmt: skip
SHORT: dict[str, Any] = {"num_frames": 2, "num_inference_steps": 2, "output_type": "latent"}
WINDOWS: dict[str, Any] = {"num_frames": 5, "window": 3, "overlap": 1}


@pytest.fixture(autouse=True)
def _own_sampler() -> Iterator[None]:
    pipe = pipeline()
    before = pipe.base.scheduler
    yield
    pipe.base.scheduler = before


def render(folder: Path | None = None, stop_at: int | None = None, **settings: Any) -> tuple[Any, int]:
    """Frames and calls of the models; None where the call was stopped."""
    saved = {} if folder is None else {"resume": folder, "save_every": 0.0}
    with counted(pipeline(), stop_at) as calls:
        try:
            frames = pipeline()("a fox", generator=seeded(3)[0], **CLIP | settings, **saved).frames
        except Stopped:
            frames = None
    return frames, calls.count


def check_stops(tmp_path: Path, stops: Iterable[int], lost: int = 1, **settings: Any) -> None:
    """A call that is stopped and made again has the frames of one that is not; `lost`: calls made twice at most."""
    wanted, count = render(**settings)
    for stop_at in stops:
        folder = tmp_path / f"stopped-at-{stop_at}"
        assert render(folder, stop_at, **settings)[0] is None
        frames, again = render(folder, **settings)
        same = torch.equal(frames, wanted) if isinstance(wanted, torch.Tensor) else frames == wanted
        assert same, f"stopped at {stop_at} of {count}"
        assert again <= count - stop_at + lost, f"{again} calls after a stop at {stop_at} of {count}"
        assert not list(folder.iterdir())


# those that differ in the spacing of their noise levels alone keep the same
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if not name.endswith(("_karras", "_trailing"))])
def test_every_sampler_goes_on(tmp_path: Path, name: str) -> None:
    """From its last steps, where those of more than one step have the longest history."""
    try:
        scheduler_class(name)
    except UserError:
        pytest.skip("needs SciPy")
    pipe = pipeline()
    config = pipe.base.scheduler.config
    pipe.base.scheduler = make_scheduler(name, {**config, "_class_name": "DDIMScheduler"})
    check_stops(tmp_path, [3], num_frames=2, output_type="latent")


def test_windows_go_on_within_a_step(tmp_path: Path) -> None:
    pipeline().set_scheduler("euler_a")
    check_stops(tmp_path, [2, 3], num_inference_steps=2, **WINDOWS, output_type="latent")


@pytest.mark.parametrize("fast", [False, True])
def test_free_init_goes_on(tmp_path: Path, fast: bool) -> None:
    pipeline().set_scheduler("euler_a")
    check_stops(
        tmp_path, [4], num_inference_steps=2, num_frames=2, freeinit=3, freeinit_fast=fast, output_type="latent"
    )


def test_both_passes_go_on_and_all_between(tmp_path: Path) -> None:
    """With a sampler that still has latents of the first pass in the second."""
    pipeline().set_scheduler("heun")
    settings = {"upscale": 1.5, "num_inference_steps": 2, "num_frames": 2, "decode_chunk_size": 1, "output_type": "pil"}
    check_stops(tmp_path, [2, 4, 7, 9], lost=2, **settings)


def test_windows_in_the_motion_modules_and_images_go_on(tmp_path: Path) -> None:
    image = colour(200, 60, 20)
    check_stops(tmp_path, [3], lost=2, **WINDOWS, long_mode="motion", images={0: image}, image_mode="latents")


def test_videos_and_travels_go_on(tmp_path: Path) -> None:
    video = torch.rand(5, 3, 16, 16, generator=seeded(5)[0])
    check_stops(tmp_path, [7, 11], lost=6, **WINDOWS, video=video, strength=0.7)


@pytest.mark.parametrize("level", ["balanced", "max"])
def test_fast_mode_goes_on_at_full_steps(tmp_path: Path, level: str) -> None:
    settings = {
        "fast": level,
        "num_inference_steps": 12,
        "guidance_scale": 3.0,
        "output_type": "latent",
        "num_frames": 2,
    }
    check_stops(tmp_path, [7, 11], lost=6, **settings)


def test_frames_that_are_decoded_are_kept(tmp_path: Path) -> None:
    """As bytes where they become such anyway, else as they are."""
    settings = {"num_inference_steps": 1, "num_frames": 3, "decode_chunk_size": 1}
    check_stops(tmp_path / "pil", range(2, 5), output_type="pil", **settings)
    check_stops(tmp_path / "pt", [4], output_type="pt", **settings)


def test_several_clips_go_on(tmp_path: Path) -> None:
    wanted, _ = render(num_videos_per_prompt=2)
    assert render(tmp_path, 3, num_videos_per_prompt=2)[0] is None
    frames, _ = render(tmp_path, num_videos_per_prompt=2)
    assert torch.equal(frames, wanted)


def test_a_call_that_is_soon_done_writes_nothing(tmp_path: Path) -> None:
    with counted(pipeline(), 4), pytest.raises(Stopped):
        pipeline()("a fox", **CLIP, resume=tmp_path / "states")
    assert not list(tmp_path.iterdir())


def test_a_timer_counts_from_its_first_question_and_from_each_save() -> None:
    now = 100.0
    timer = Timer(30, clock=lambda: now)
    now = 150.0
    assert not timer.due()
    now = 180.0
    assert timer.due()
    timer.restart()
    now = 209.0
    assert not timer.due()


# -- states that are not gone on with ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of a call that was stopped in its last step."""
    folder = tmp_path_factory.mktemp("stopped")
    assert render(folder, 2, **SHORT)[0] is None
    return folder


@pytest.fixture
def state(a_state: Path, tmp_path: Path) -> Path:
    """A copy of its file."""
    shutil.copytree(a_state, tmp_path, dirs_exist_ok=True)
    (state,) = tmp_path.glob(".call.*/call.safetensors")
    return state


@cache
def whole() -> torch.Tensor:
    return render(**SHORT)[0]


def again(folder: Path, caplog: pytest.LogCaptureFixture, wanted: torch.Tensor | None = None) -> list[str]:
    """What is said when the call is made again, which begins anew. wanted: its frames, if the pipeline has changed."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "animatediff"):
        frames, count = render(folder, **SHORT)
    assert torch.equal(frames, whole() if wanted is None else wanted) and count == 2
    return [line for line in caplog.messages if "state" in line]


@pytest.mark.parametrize("what", ["torch", "AnimateDiff", "device"])
def test_a_state_of_other_versions_is_said(
    tmp_path: Path, state: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = identity.machine_of
    monkeypatch.setattr("animatediff.pipelines.resume.machine_of", lambda device: {**here(device), what: "other"})
    (line,) = again(tmp_path, caplog)
    assert f"its saved state is of {what} " in line and "(now other)" in line and line.endswith("begins anew")


@pytest.mark.usefixtures("state")
def test_a_state_of_other_weights_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    weight = pipeline().unet.conv_out.weight
    with torch.no_grad():
        weight[0, 0, 0, 0] += 0.5
    try:
        (line,) = again(tmp_path, caplog, render(**SHORT)[0])
    finally:
        with torch.no_grad():
            weight[0, 0, 0, 0] -= 0.5
    assert "its saved state is of another `unet`; it is not used" in line


@pytest.mark.usefixtures("state")
def test_a_state_of_another_sampler_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline().base.scheduler = type(pipeline().scheduler).from_config(pipeline().scheduler.config, steps_offset=0)
    (line,) = again(tmp_path, caplog, render(**SHORT)[0])
    assert "another `scheduler`" in line


def test_states_of_other_calls_are_counted_and_left_alone(
    tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "animatediff"):
        render(tmp_path, **SHORT, motion_scale=0.5)
    assert any("holds states of 1 other calls, and none of this one" in line for line in caplog.messages)
    assert state.exists()


def damage_cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_bits(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_pickle(path: Path) -> None:
    torch.save({"format": "1"}, path)


def damage_size(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # of which nothing is on the disk


@pytest.mark.parametrize("damage", [damage_cut, damage_bits, damage_empty, damage_pickle, damage_size])
def test_a_damaged_state_is_said(tmp_path: Path, state: Path, damage: Any, caplog: pytest.LogCaptureFixture) -> None:
    damage(state)
    (line,) = again(tmp_path, caplog)
    assert "its saved state is damaged (" in line and line.endswith("the render begins anew")


@pytest.mark.parametrize("change", ["shape", "step", "name", "generator", "deep", "other"])
def test_a_state_that_someone_made_up_is_damaged(
    tmp_path: Path, state: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, of this very call, and wrong: nothing of it reaches a model."""
    with StateFolder(state.parent) as folder:
        kept: Any = folder.read("call", most_bytes=1 << 26, device="cpu")
        inner = kept["state"]["inner"]
        if change == "shape":
            inner["latents"] = torch.zeros(1, 4, 1, 1, 1)
        elif change == "step":
            inner["step"] = 10**9
        elif change == "name":
            inner["scheduler"]["step"] = "not a function"
        elif change == "generator":
            inner["generators"] = [torch.zeros(3, dtype=torch.uint8)]
        elif change == "other":
            inner["scheduler"]["timesteps"] = torch.zeros(3, 7, 9)
        else:
            inner.clear()
        assert folder.write("call", kept)
    (line,) = again(tmp_path, caplog)
    assert "its saved state is damaged (" in line


def test_what_is_not_plain_is_not_saved() -> None:
    tensors: dict[str, torch.Tensor] = {}
    mask = torch.zeros(2, dtype=torch.bool)
    value = {"a": [1, 2.5, None, True, (torch.arange(3), "x")], "b": float("inf"), "c": mask}
    read = unpack(pack(value, tensors), tensors, "cpu")
    assert read["b"] == value["b"] and read["a"][:4] == [1, 2.5, None, True] and read["a"][4][1] == "x"
    assert torch.equal(read["a"][4][0], torch.arange(3)) and read["c"].dtype == torch.bool
    with pytest.raises(Unsavable, match="object"):
        pack(object(), tensors)
    for bad in ({"tensor": "9"}, {"float": "1e3"}, {"a": 1, "b": 2}, {"eval": "1"}):
        with pytest.raises(BadState):
            unpack(bad, tensors, "cpu")
    with pytest.raises(BadState, match="nothing that"):
        restore_scheduler(pipeline().scheduler, {"_internal_dict": 1}, torch.zeros(1))


def test_a_full_disk_is_said_once_and_the_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: AtomicFile) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AtomicFile, "_create", full)
    frames, _ = render(tmp_path / "states", **SHORT)
    assert torch.equal(frames, whole())
    told = [line for line in caplog.messages if "cannot be saved" in line]
    assert len(told) == 1 and "the disk is full" in told[0] and "goes on" in told[0]
    assert not list(tmp_path.iterdir())


def test_callbacks_and_samplers_that_keep_objects_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    render(tmp_path, 2, **SHORT, callback_on_step_end=lambda *given: {})
    assert any("no effect beside `callback_on_step_end`" in line for line in caplog.messages)
    pipeline().base.scheduler = copy.deepcopy(pipeline().base.scheduler)
    pipeline().base.scheduler.noise_sampler = object()
    render(tmp_path, 2, **SHORT)
    assert any("cannot be saved: it holds an object of type object" in line for line in caplog.messages)
    assert not list(tmp_path.iterdir())


def test_another_process_has_the_state(tmp_path: Path, state: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("fcntl")
    with StateFolder(state.parent):
        (line,) = again(tmp_path, caplog)
    assert "another process renders the same" in line
    assert state.exists()


def test_old_states_are_removed(tmp_path: Path, state: Path) -> None:
    assert list(others(tmp_path, "call", tmp_path)) == [state.parent]
    assert list(others(tmp_path, "fox.mp4", tmp_path)) == []
    for path in (state, state.parent):
        os.utime(path, (1, 1))
    assert KEEP_S > 0 and list(others(tmp_path, "call", tmp_path)) == []
    assert not state.parent.exists()


def test_files_hold_plain_tensors(tmp_path: Path, state: Path) -> None:
    """What another program reads, and writes, with safetensors alone."""
    tensors = load_file(state)
    save_file(tensors, tmp_path / "copy.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) < 50_000
