"""A video to start from: which frames, at what size, with what noise; its sound; one message for each mistake."""

from __future__ import annotations

import json
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from support.close import relative
from support.commands import run
from support.fake_pipeline import FakePipeline, loading
from support.pipelines import PUBLISHED, SMALL, pipeline, seeded
from support.videos import number_of, numbered_frame

from animatediff.errors import UserError
from animatediff.media import read_video, write_video
from animatediff.media.images import shaped, size_like
from animatediff.media.source import open_source
from animatediff.pipelines.conditions.video import video_latents, video_tensor
from animatediff.render import inputs
from animatediff.sampling import SCHEDULERS, begin_at, make_scheduler, noised, set_steps

RATE = 44_100


def filmed(path: Path, num_frames: int = 24, fps: int = 12, sound: bool = True) -> Path:
    """Frames that show their number; silence in the first half, then a tone."""
    with av.open(str(path), "w") as file:
        pictures: Any = file.add_stream("libx264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = 96, 48, "yuv420p"
        heard: Any = file.add_stream("aac", rate=RATE, layout="mono") if sound else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(pictures.encode(frame))
        file.mux(pictures.encode(None))
        if sound:
            time = np.arange(num_frames * RATE // fps) / RATE
            tone = (np.sin(2 * np.pi * 440 * time) * (time > num_frames / fps / 2)).astype(np.float32)
            for start in range(0, len(tone), 1024):
                part = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
                part.sample_rate, part.pts, part.time_base = RATE, start, Fraction(1, RATE)
                file.mux(heard.encode(part))
            file.mux(heard.encode(None))
    return path


# -- which frames, at what size --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "numbers"),
    [
        ({}, list(range(24))),
        ({"fps": 6}, list(range(0, 24, 2))),
        ({"fps": 24, "duration": 0.25}, [0, 0, 1, 1, 2, 2]),
        ({"start": 0.5, "duration": 0.5}, [6, 7, 8, 9, 10, 11]),
        ({"start": 1.0, "fps": 4}, [12, 15, 18, 21]),
    ],
)
def test_frames_are_taken_by_their_time(tmp_path: Path, part: dict[str, float], numbers: list[int]) -> None:
    source = open_source(filmed(tmp_path / "a.mp4"), **part)
    assert source.size == (96, 48) and source.has_audio
    assert [number_of(frame) for frame in source.read(len(numbers), 96, 48)] == numbers == list(source.indices)
    with pytest.raises(UserError, match=f"has {len(numbers)} frames to give, but the clip has"):
        source.read(len(numbers) + 1, 96, 48)


def test_folders_and_animated_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(numbered_frame(number)).save(folder / f"shot {number}.png")
    (folder / "notes.txt").write_text("no picture")
    source = open_source(folder)
    assert (source.fps, len(source.indices), source.has_audio) == (8.0, 12, False)
    assert [number_of(frame) for frame in source.read(12, 96, 48)] == list(range(12)), "2 comes before 10"
    assert open_source(folder, fps=24).fps == 24
    for name in ("a.gif", "a.webp"):
        write_video(np.stack([numbered_frame(n) for n in range(6)]), tmp_path / name, fps=4)
        source = open_source(tmp_path / name, fps=2)
        assert [number_of(frame) for frame in source.read(3, 96, 48)] == [0, 2, 4]


def test_shapes() -> None:
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 255, 0), (0, 0, 10, 20))
    assert [shaped(picture, 20, 20, how).size for how in ("crop", "pad", "stretch")] == [(20, 20)] * 3
    crop, pad, stretch = (np.asarray(shaped(picture, 20, 20, how)) for how in ("crop", "pad", "stretch"))
    assert crop[10, 1].tolist() == [255, 0, 0], "the middle"
    assert pad[0].max() == 0 and pad[10, 1].tolist() == [0, 255, 0] and pad[10, 18].tolist() == [255, 0, 0]
    assert stretch[0, 1].tolist() == [0, 255, 0]
    for size in ((1920, 1080), (1080, 1920), (500, 500), (480, 30)):
        width, height = size_like(size, 512 * 512)
        assert width % 8 == height % 8 == 0
        assert size == (480, 30) or abs(width * height / 512**2 - 1) < 0.05
        assert size == (480, 30) or abs(width / height / (size[0] / size[1]) - 1) < 0.05
    assert size_like((200, 100), 1, width=64) == (64, 32)
    assert size_like((200, 100), 1, height=64) == (128, 64)


# -- where denoising begins ------------------------------------------------------------------------------------------


def clean_signal(scheduler: Any, known: torch.Tensor, steps: int, strength: float) -> torch.Tensor:
    """What comes out if the model always finds the noise between its input and `known`."""
    levels = scheduler.alphas_cumprod.double().numpy()
    timesteps = begin_at(scheduler, steps, strength)
    latents = noised(scheduler, known, torch.randn(known.shape, generator=torch.Generator().manual_seed(0)), timesteps)
    generator = {"generator": seeded(1)} if "generator" in scheduler.step.__code__.co_varnames else {}
    for timestep in timesteps:
        scaled = scheduler.scale_model_input(latents, timestep)
        # schedules of Karras' have steps between those that the model was trained at
        level = np.interp(float(timestep), np.arange(len(levels)), levels)
        noise = (scaled - level**0.5 * known) / (1 - level) ** 0.5
        latents = scheduler.step(noise, timestep, latents, **generator, return_dict=False)[0]
    return latents


# LMS needs scipy, and says so where it is not installed (test_pipeline).
HERE = [name for name in SCHEDULERS if not name.startswith("lms") or find_spec("scipy") is not None]


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_every_scheduler_begins_at_the_noise_that_its_first_step_expects(name: str, strength: float) -> None:
    """A start at another level than the first step's would leave noise behind, or take too much away."""
    scheduler: Any = make_scheduler(name, PUBLISHED)
    set_steps(scheduler, 20, "cpu")
    known = torch.randn(1, 4, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert (clean_signal(scheduler, known, 20, strength) - known).abs().max() < 0.15, name


def test_how_many_steps_are_left() -> None:
    for steps, strength, count in ((25, 0.6, 15), (100, 0.29, 29), (10, 0.55, 5), (10, 1.0, 10)):
        scheduler: Any = make_scheduler("ddim", PUBLISHED)
        set_steps(scheduler, steps, "cpu")
        assert len(begin_at(scheduler, steps, strength)) == count
    with pytest.raises(UserError, match=r"strength=0\.05 of 10 steps is not one whole step"):
        begin_at(scheduler, 10, 0.05)
    for strength in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="expected more than 0"):
            begin_at(scheduler, 10, strength)


def footage(num_frames: int = 4, size: int = 32) -> list[Image.Image]:
    frames = np.zeros((num_frames, size, size, 3), np.uint8)
    for index in range(num_frames):
        frames[index, :, : 8 + 4 * index] = (200, 60, 30)
    return [Image.fromarray(frame) for frame in frames]


def test_strength_is_how_far_the_clip_goes_from_the_video() -> None:
    pipe, video = pipeline("v3"), footage()
    settings = {**SMALL, "height": 32, "width": 32, "num_inference_steps": 8, "output_type": "latent"}
    plain = pipe("a cat", generator=seeded(1), **settings).frames
    clips = [pipe("a cat", video=video, strength=s, generator=seeded(1), **settings).frames for s in (0.125, 0.5, 1.0)]
    assert torch.equal(clips[2], plain), "nothing of the video is left"
    shape = tuple(plain.shape)
    with torch.no_grad():
        latents = video_latents(pipe.vae, video_tensor(video, shape, (32, 32)), shape, "cpu", lambda done, total: None)
    distances = [float((clip - latents).pow(2).mean()) for clip in clips]
    assert distances == sorted(distances) and distances[0] < distances[1] / 2
    # pictures, arrays, tensors and latents are the same video
    pixels = np.stack([np.asarray(frame) for frame in video])
    for same in (pixels, torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, latents):
        again = pipe("a cat", video=same, strength=0.5, generator=seeded(1), **settings).frames
        assert relative(again, clips[1]) < 1e-5


def test_a_call_takes_length_and_shape_from_the_video_and_windows_where_it_is_long() -> None:
    pipe = pipeline("v3")
    phases: list[str] = []
    short: dict[str, Any] = {"num_inference_steps": 2, "strength": 0.5, "output_type": "pt"}
    video = [frame.resize((48, 24)) for frame in footage(36)]
    out = pipe("a cat", video=video, on_progress=lambda p: phases.append(p.phase), generator=seeded(1), **short)
    assert out.frames.shape[1] == 36
    width, height = size_like((48, 24), pipe.defaults.width * pipe.defaults.height)
    assert out.frames.shape[-2:] == (height, width) and width == 2 * height
    assert list(dict.fromkeys(phases)) == ["encode", "denoise", "decode"]
    two = pipe(["a", "b"], video=footage(), num_frames=3, generator=seeded(1, 2), height=32, width=32, **short).frames
    one = pipe("b", video=footage(), num_frames=3, generator=seeded(2), height=32, width=32, **short).frames
    assert two.shape[:2] == (2, 3) and relative(two[1], one[0]) < 5e-5
    for given, message in (
        ({"video": []}, "of at least one frame"),
        ({"video": "a.mp4"}, "read files with"),
        ({"video": footage(), "num_frames": 5}, "the video has 4 frames, but num_frames=5"),
        ({"video": footage(), "strength": 0.0}, "expected more than 0"),
        ({"video": torch.zeros(1, 4, 4, 3, 3), "height": 32, "width": 32}, "latents of a video must be"),
        ({"video": torch.zeros(3, 3, 4, 32, 32)}, "1 clips want a video for all of them"),
    ):
        with pytest.raises(UserError, match=message):
            pipe("a cat", **{**short, **given})


# -- the command line ------------------------------------------------------------------------------------------------


class Watching(FakePipeline):
    """Says what it was called with."""

    seen: dict[str, Any] = {}  # noqa: RUF012 - emptied by the fixture

    def job(self, **arguments: Any) -> Any:
        self.seen.update(arguments)
        return super().job(**arguments)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with videos, good and bad."""
    monkeypatch.chdir(tmp_path)
    Watching.seen.clear()
    loading(monkeypatch, lambda *_: Watching())
    film = filmed(tmp_path / "a.mp4").read_bytes()
    filmed(tmp_path / "mute.mp4", sound=False)
    filmed(tmp_path / "one.mp4", num_frames=1, sound=False)
    (tmp_path / "half.mp4").write_bytes(film[: len(film) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream: Any = file.add_stream("aac", rate=RATE)
        part = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        part.sample_rate = RATE
        file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return tmp_path


def test_a_clip_of_a_video_with_its_sound_and_its_repeat(place: Path) -> None:
    code, _, err = run("a fox", "--video", "a.mp4", "--video-start", "0.5", "--audio", "--seed", "1", "--out", "b.mp4")
    assert code == 0 and "a.mp4: 96 x 48, rendered at 48 x 24" in err
    assert [number_of(frame) for frame in Watching.seen["video"]] == list(range(6, 24))
    assert Watching.seen["strength"] == 0.6
    frames, fps = read_video("b.mp4")
    assert fps == 12 and frames.shape == (18, 24, 48, 3)
    request = json.loads(Path("b.mp4.json").read_text())["request"]
    assert (request["num_frames"], request["width"], request["height"], request["strength"]) == (18, 48, 24, 0.6)
    with av.open("b.mp4") as file:
        assert "a fox" in file.metadata["comment"]
        heard = np.concatenate([part.to_ndarray()[0] for part in file.decode(audio=0)])
    loud = [float(np.abs(heard[int(t * 48_000) : int((t + 0.1) * 48_000)]).max()) for t in (0.0, 0.3, 0.6, 1.2)]
    assert loud[0] < 0.01 and loud[1] < 0.01 and loud[2] > 0.3 and loud[3] > 0.3, "the tone begins 1 s into the source"
    assert abs(len(heard) / 48_000 - 1.5) < 0.05
    assert run("--from", "b.mp4", "--out", "c.webm")[0] == 0
    with av.open("c.webm") as file:
        assert len(file.streams.audio) == 1


def test_length_and_size_can_be_told_and_long_videos_are_cut(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["a fox", "--video", "a.mp4", "--out", "b.png"]
    size = ["--width", "64", "--height", "64", "--resize", "pad"]
    assert run(*arguments, "--num-frames", "5", *size, "--strength", "0.3")[0] == 0
    assert Watching.seen["video"].shape == (5, 64, 64, 3) and Watching.seen["strength"] == 0.3
    assert Watching.seen["video"][0, 0].max() < 8, "a black bar"
    monkeypatch.setattr(inputs, "MAX_FRAMES", 10)
    code, _, err = run(*arguments)
    assert code == 0 and "a.mp4: has 24 frames; the first 10 are rendered" in err
    assert len(Watching.seen["video"]) == 10
    assert run(*arguments, "--num-frames", "20")[0] == 0
    assert len(Watching.seen["video"]) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "none.mp4"], "none.mp4: no such file; expected a video"),
        (["--video", "half.mp4"], "half.mp4: "),
        (["--video", "text.mp4"], "text.mp4: is a text file"),
        (["--video", "empty.mp4"], "empty.mp4: is empty"),
        (["--video", "sound.mp4"], "sound.mp4: holds no video"),
        (["--video", "nothing"], "nothing: no images in this folder"),
        (["--video", "one.mp4"], "one.mp4: holds a single frame, expected a video; for one image there is --image"),
        (["--video", "a.mp4", "--strength", "0"], "strength=0.0: expected more than 0 and at most 1"),
        (["--video", "a.mp4", "--strength", "1.5"], "strength=1.5"),
        (["--video", "a.mp4", "--num-frames", "30"], "has 24 frames to give, but num_frames=30"),
        (["--video", "a.mp4", "--video-start", "9"], "is 2.00 s long, so there is nothing after a start of 9 s"),
        (["--video", "a.mp4", "--video-duration", "0.05"], "1 frames between 0 s and 0.05 s"),
        (["--video", "a.mp4", "--resize", "zoom"], "unknown resize 'zoom'; known are crop, pad, stretch"),
        (["--video", "mute.mp4", "--audio"], "mute.mp4: holds no sound"),
        (
            ["--video", "a.mp4", "--audio", "--out", "a.gif"],
            "a.gif: holds no sound; only .mp4, .webm, .mov and .mkv do",
        ),
        (["--video", "a.mp4", "--audio", "--fps", "8"], "its sound would not fit"),
        (["--video-start", "1"], "video_start is a setting of video, but no video is given"),
        (["--audio"], "audio is a setting of video"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing(place: Path, arguments: list[str], message: str) -> None:
    before = sorted(p.name for p in place.iterdir())
    code, out, err = run("a fox", *arguments)
    assert (code, out) == (2, ""), err
    assert message in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(p.name for p in place.iterdir()) == before
