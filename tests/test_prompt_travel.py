"""Prompts that travel: which text a frame shows, what the UNet is told in windows and batches, files, and mistakes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_pipeline import SMALL, pipeline, seeded
from test_render_cli import run

from animatediff.config import build_request, load_config, load_result, parse_config, to_original
from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel
from animatediff.prompts.encode import encode
from animatediff.prompts.frames import FrameStates, slerp
from animatediff.prompts.timeline import timeline, timeline_picture
from animatediff.video import read_video

SEASONS = {0: "spring", 12: "summer", 24: "autumn"}
KEYS = st.dictionaries(st.integers(0, 40), st.sampled_from("abcdef"), min_size=1)


# -- what a frame shows ------------------------------------------------------------------------------------------------


def test_a_text_is_held_and_then_blends_to_the_next() -> None:
    blends = PromptTravel(SEASONS, hold=0.5).blends(30)
    assert [blend.first for blend in blends] == ["spring"] * 12 + ["summer"] * 12 + ["autumn"] * 6
    shares = [blend.share for blend in blends]
    assert shares[:7] == [0] * 7
    assert shares[7:13] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 0])
    assert shares[24:] == [0] * 6  # the last text stays
    assert {blend.second for blend in blends[7:12]} == {"summer"}


def test_hold_goes_from_blending_all_the_way_to_switching() -> None:
    assert [b.share for b in PromptTravel({0: "a", 4: "b"}, hold=0).blends(5)] == [0, 0.25, 0.5, 0.75, 0]
    assert [(b.first, b.share) for b in PromptTravel({0: "a", 4: "b"}, hold=1).blends(5)] == [("a", 0)] * 4 + [("b", 0)]


def test_the_first_text_holds_before_its_frame_and_a_loop_comes_back_to_it() -> None:
    assert [b.first for b in PromptTravel({2: "a", 4: "b"}).blends(5)] == ["a"] * 4 + ["b"]
    looped = PromptTravel({2: "a", 6: "b"}, hold=0, loop=True).blends(8)
    assert [(b.first, b.second, b.share) for b in looped[6:] + looped[:3]] == [
        ("b", "b", 0), ("b", "a", 0.25), ("b", "a", 0.5), ("b", "a", 0.75), ("a", "a", 0),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(texts=KEYS, hold=st.floats(0, 1), loop=st.booleans(), extra=st.integers(0, 9))
def test_every_frame_has_its_texts_and_named_frames_show_theirs(
    texts: dict[int, str], hold: float, loop: bool, extra: int
) -> None:
    num_frames = max(texts) + 1 + extra
    blends = PromptTravel(texts, hold=hold, loop=loop).blends(num_frames)
    assert len(blends) == num_frames
    assert all(0 <= blend.share < 1 and (blend.share > 0) == (blend.first != blend.second) for blend in blends)
    assert all(blends[frame] == (text, text, 0) for frame, text in texts.items())


def test_head_and_tail_go_round_every_text() -> None:
    travel = PromptTravel({0: "spring", 2: ""}, head="a meadow,", tail="oil painting")
    assert [b.first for b in travel.blends(3)] == ["a meadow, spring, oil painting"] * 2 + ["a meadow, oil painting"]
    assert PromptTravel({0: "spring,"}).blends(1)[0].first == "spring,"  # nothing to join: not a letter is touched


@pytest.mark.parametrize(
    ("texts", "settings", "words"),
    [
        ({-1: "a"}, {}, "-1 is no frame"),
        ({1.5: "a"}, {}, "1.5 is no frame"),
        ({"x": "a"}, {}, "'x' is no frame"),
        ({True: "a"}, {}, "True is no frame"),
        ({0: "a", "0": "b"}, {}, "frame 0 has two texts"),
        ({0: 5}, {}, "expected a text"),
        ({}, {}, "at one frame at least"),
        ({0: "a"}, {"hold": 1.5}, "0 to 1"),
        ({0: "a"}, {"interpolation": "cubic"}, "linear or slerp"),
    ],
)
def test_what_is_no_travel(texts: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        PromptTravel(texts, **settings)


def test_frames_beyond_the_clip() -> None:
    with pytest.raises(UserError, match=r"frame 24 is to show 'autumn', but the clip has 24 frames.*25 frames or more"):
        PromptTravel(SEASONS).check(24)
    pipe = pipeline()
    with pytest.raises(UserError, match="the clip has 4 frames"):
        pipe({0: "a cat", 4: "a dog"}, **SMALL)
    with pytest.raises(UserError, match="a prompt is a text"):
        pipe([3], **SMALL)  # type: ignore[list-item]


def test_the_timeline_in_words_and_as_a_picture() -> None:
    travel = PromptTravel(SEASONS, interpolation="slerp")
    words = timeline(travel, 30).splitlines()
    assert words[0] == "prompt travel over 30 frames (slerp, hold 0.5):"
    assert [line.split()[0] for line in words[1:]] == ["0-6", "7-11", "12-18", "19-23", "24-29"]
    assert words[2].endswith("spring -> summer (17 to 83 %)")
    picture = timeline_picture(travel, 30)
    columns = [picture[8:80, 8 + (frame * 640 + 320) // 30] for frame in range(30)]
    tall = [{tuple(pixel) for pixel in column.tolist()} for column in columns]
    assert [len(colours) for colours in tall] == [1] * 7 + [2] * 5 + [1] * 7 + [2] * 5 + [1] * 6
    assert len({next(iter(tall[frame])) for frame in (0, 12, 24)}) == 3
    assert timeline_picture(PromptTravel({0: "a" * 300, 500: "b"}), 700).shape[1] == picture.shape[1]


# -- what the UNet is told ---------------------------------------------------------------------------------------------


def test_blending() -> None:
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    half = slerp(a, b, torch.tensor(0.5))
    assert torch.allclose(half, torch.full((1, 2), 3 / 2**0.5))  # on the arc: as long as both ends
    assert torch.equal(slerp(a, 2 * a, torch.tensor(0.5)), 1.5 * a)
    assert slerp(a, -a, torch.tensor(0.5)).isfinite().all()
    states = FrameStates(
        torch.stack([a, b]), torch.tensor([[0, 0, 1]]), torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0.5, 0]]), [False]
    )
    assert torch.equal(states([0, 1, 2])[:, 0], torch.tensor([[3.0, 0.0], [1.5, 1.5], [0.0, 3.0]]))
    assert torch.equal(states([2, 1])[:, 0], torch.tensor([[0.0, 3.0], [1.5, 1.5]]))


class Told:
    """Everything that the UNet is told about texts while a pipeline runs."""

    def __init__(self, pipe: AnimateDiffPipeline) -> None:
        self.states: list[torch.Tensor] = []
        self.pooled: list[torch.Tensor] = []
        self.hook = pipe.unet.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        self.states.append(kwargs["encoder_hidden_states"])
        if kwargs["added_cond_kwargs"]:
            self.pooled.append(kwargs["added_cond_kwargs"]["text_embeds"])

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def one(pipe: AnimateDiffPipeline, text: str) -> torch.Tensor:
    return encode(pipe.image, [text], num_chunks=1, clip_skip=None, device=torch.device("cpu")).states[0]


def test_one_text_all_along_is_the_plain_prompt() -> None:
    pipe = pipeline()
    plain = pipe("a cat at sea", negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    same = pipe({0: "a cat at sea", 2: "a cat at sea"}, negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    assert torch.allclose(plain, same, atol=1e-6)
    other = pipe({0: "a cat at sea", 2: "rain"}, negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    assert not torch.allclose(plain, other, atol=1e-3)


@pytest.mark.parametrize("interpolation", ["linear", "slerp"])
def test_each_window_of_a_long_clip_is_told_the_texts_of_its_frames(interpolation: str) -> None:
    pipe = pipeline()
    travel = PromptTravel({0: "a cat", 6: "a dog"}, hold=0, interpolation=interpolation)
    with Told(pipe) as told:
        pipe(travel, negative_prompt="rain", window=4, overlap=1, **SMALL | {"num_frames": 8, "num_inference_steps": 1})
    cat, dog, rain = (one(pipe, text) for text in ("a cat", "a dog", "rain"))
    shares = [frame / 6 if frame < 6 else 0.0 for frame in range(8)]
    mix = slerp if interpolation == "slerp" else torch.lerp
    for states, window in zip(told.states, [range(0, 4), range(3, 7), range(4, 8)], strict=True):
        assert states.shape[0] == 2 * len(window)
        assert torch.allclose(states[: len(window)], rain, atol=1e-6)
        for state, frame in zip(states[len(window) :], window, strict=True):
            expected = dog if frame >= 6 else mix(cat, dog, torch.tensor(shares[frame]))
            assert torch.allclose(state, expected, atol=1e-5)


def test_clips_that_travel_stand_beside_clips_that_do_not() -> None:
    pipe = pipeline()
    prompts: list[Any] = ["a cat", {0: "a dog", 3: "rain"}]
    together = pipe(prompts, negative_prompt=["blurry", ""], generator=seeded(1, 2), **SMALL).frames
    for index, (prompt, negative) in enumerate(zip(prompts, ("blurry", ""), strict=True)):
        alone = pipe(prompt, negative_prompt=negative, generator=seeded(index + 1), **SMALL).frames
        assert torch.allclose(together[index], alone[0], atol=1e-5)


def test_without_guidance_and_with_clip_skip() -> None:
    pipe = pipeline()
    travel = {0: "a cat", 2: "a cat"}
    for rest in ({"guidance_scale": 1.0}, {"clip_skip": 1}):
        plain = pipe("a cat", generator=seeded(1), **SMALL, **rest).frames
        assert torch.allclose(pipe(travel, generator=seeded(1), **SMALL, **rest).frames, plain, atol=1e-6)


@cache
def sdxl(folder: Path) -> AnimateDiffPipeline:
    unet = tiny_models.save_base(folder / "sdxl.safetensors", "sdxl")
    tiny_models.save_motion(folder / "motion.safetensors", unet, "sdxl")
    pipe = AnimateDiffPipeline.from_single_file(folder / "sdxl.safetensors", torch_dtype=torch.float32)
    pipe.load_motion_module(folder / "motion.safetensors")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def xl(tmp_path_factory: pytest.TempPathFactory) -> AnimateDiffPipeline:
    return sdxl(tmp_path_factory.mktemp("sdxl"))


TINY: dict[str, Any] = SMALL | {"num_frames": 3, "num_inference_steps": 1, "height": 64, "width": 64}


def test_pooled_texts_of_sdxl_travel_too(xl: AnimateDiffPipeline) -> None:
    for negative in (None, "rain"):
        plain = xl("a cat", negative_prompt=negative, generator=seeded(1), **TINY).frames
        same = xl({0: "a cat", 2: "a cat"}, negative_prompt=negative, generator=seeded(1), **TINY).frames
        assert torch.allclose(plain, same, atol=1e-5)
    with Told(xl) as told:
        xl(PromptTravel({0: "a cat", 2: "a dog"}, hold=0), **TINY)
    cat, dog = (
        encode(xl.image, [text], num_chunks=1, clip_skip=None, device=torch.device("cpu"))
        for text in ("a cat", "a dog")
    )
    assert cat.pooled is not None and dog.pooled is not None
    (pooled,), (states,) = told.pooled, told.states
    assert torch.equal(pooled[:3], torch.zeros_like(pooled[:3]))  # no negative prompt: zeros, as SDXL was trained
    half = torch.lerp(cat.pooled[0], dog.pooled[0], 0.5)
    assert torch.allclose(pooled[3:], torch.stack([cat.pooled[0], half, dog.pooled[0]]), atol=1e-5)
    assert torch.allclose(states[4], torch.lerp(cat.states[0], dog.states[0], 0.5), atol=1e-5)


# -- settings ----------------------------------------------------------------------------------------------------------


def texts(request: Any, index: int = 0) -> dict[int, str]:
    return dict(request.shown(index).texts)


def test_all_ways_to_say_it_are_one_request() -> None:
    for values in (
        {"prompt": SEASONS},
        {"prompt": [SEASONS]},
        {"prompt_travel": SEASONS},
        {"prompt_travel": {str(frame): text for frame, text in SEASONS.items()}},
        {"prompt": "spring", "prompt_travel": {12: "summer", 24: "autumn"}},
    ):
        request = build_request(values)
        assert (request.prompt, request.prompt_travel) == (("spring",), ({12: "summer", 24: "autumn"},))
        assert texts(request) == SEASONS
    assert texts(build_request({"prompt_travel": {6: "a", 9: "b"}})) == {0: "a", 6: "a", 9: "b"}
    assert build_request({"prompt": {0: "a"}}).shown() == "a"
    assert not request.shown().loop
    for loop in ("prompt_loop", "closed_loop"):  # a clip whose end meets its start ends on its first text
        assert build_request({"prompt": SEASONS, loop: True}).shown().loop
    assert build_request({"prompt": ["a", "b"], "prompt_tail": "c"}).shown(1) == "b, c"


def test_a_travel_for_each_clip_or_one_for_all() -> None:
    mixed = build_request({"prompt": ["a", {0: "b", 3: "c"}], "seed": [1, 2]})
    assert (mixed.shown(0), texts(mixed, 1)) == ("a", {0: "b", 3: "c"})
    shared = build_request({"prompt": ["a", "b"], "prompt_travel": {3: "c"}})
    assert [texts(shared, index) for index in (0, 1)] == [{0: "a", 3: "c"}, {0: "b", 3: "c"}]
    with pytest.raises(UserError, match="2 prompts want 1 or 2 mappings"):
        build_request({"prompt": ["a", "b"], "prompt_travel": [{1: "c"}] * 3})


def test_yaml_says_it_in_our_words_and_in_those_of_prompt_travel() -> None:
    ours = """
        - prompt_travel: {0: spring, 12: summer}
          prompt_head: a meadow
          prompt_tail: oil painting
          prompt_hold: 0.25
          prompt_interpolation: slerp
          num_frames: 16
    """
    theirs = """
        - prompt_map: {"0": spring, "12": summer}
          head_prompt: a meadow
          tail_prompt: oil painting
          prompt_fixed_ratio: 0.25
          prompt_interpolation: slerp
          L: 16
    """
    (request,), (other,) = parse_config(ours), parse_config(theirs)
    assert request == other
    assert request.shown() == PromptTravel(
        {0: "spring", 12: "summer"}, head="a meadow", tail="oil painting", hold=0.25, interpolation="slerp"
    )
    assert parse_config(yaml.safe_dump([to_original(request)])) == [request]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prompt_travel: {0: a, 0: b}", "line 1: '0' is given twice"),
        ("- prompt: [{0: a, 3: b, 3: c}]", "line 1: '3' is given twice"),
        ("prompt: {0: a, 16: b}\nL: 16", "frame 16 is to show 'b'"),
        ("prompt: {-1: a}", "c.yaml: -1 is no frame"),
        ("prompt: x\nprompt_travel: {0: a}", "frame 0 has two texts"),
        ("prompt: {0: a}\nprompt_travel: {3: b}", "give one of them"),
        ("prompt: x\nprompt_travel: summer", "expected texts at frames"),
        ("prompt_travel: {4: [a]}", "frame 4: expected a text"),
    ],
)
def test_mistakes_in_a_file(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_config(text, where="c.yaml")


def test_options_win_over_the_file() -> None:
    text = "prompt: {0: a, 8: b}\nseed: 1"
    assert texts(parse_config(text, {"prompt_travel": {"4": "x"}})[0]) == {0: "a", 4: "x"}
    assert texts(parse_config(text, {"prompt_travel": {"0": "y", "4": "x"}})[0]) == {0: "y", 4: "x"}
    assert parse_config(text, {"prompt": ["other"]})[0].shown() == "other"


JSON = {
    "name": "seasons", "path": "models/sd/base.safetensors", "motion_module": "models/motion-module/mm.ckpt",
    "vae_path": "", "seed": [3, -1], "scheduler": "k_dpmpp", "steps": 20, "guidance_scale": 8, "clip_skip": 2,
    "unet_batch_size": 1, "prompt_fixed_ratio": 0.25, "head_prompt": "a meadow", "tail_prompt": "oil painting",
    "prompt_map": {"0": "spring", "12": "summer"}, "n_prompt": ["blurry", "dark"], "tensor_interpolation_slerp": True,
    "lora_map": {"share/a.safetensors": 0.5}, "motion_lora_map": {"zoom.ckpt": 0.8}, "output": {"fps": 12},
    "controlnet_map": {"input_image_dir": "x", "controlnet_tile": {"enable": False}},
    "ip_adapter_map": {"enable": False}, "upscale_config": {"steps": 5},
}  # fmt: skip


def test_a_json_file_of_prompt_travel(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON, indent="\t"))
    (request,) = load_config(path, {"num_frames": 24})
    assert caplog.text == ""
    assert request.shown() == PromptTravel(
        {0: "spring", 12: "summer"}, head="a meadow", tail="oil painting", hold=0.25, interpolation="slerp"
    )
    assert request.stored() | {"prompt_travel": None} == {
        "model": "models/sd/base.safetensors", "motion_module": "models/motion-module/mm.ckpt",
        "loras": [{"path": "share/a.safetensors", "scale": 0.5}], "motion_loras": [{"path": "zoom.ckpt", "scale": 0.8}],
        "prompt": ["spring"], "prompt_travel": None, "prompt_head": "a meadow", "prompt_tail": "oil painting",
        "prompt_interpolation": "slerp", "prompt_hold": 0.25, "negative_prompt": ["blurry"], "seed": [3],
        "num_frames": 24, "steps": 20, "guidance_scale": 8.0, "scheduler": "dpmpp_2m_karras", "clip_skip": 1,
        "fps": 12.0,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"frame 12 is to show 'summer'.*13 frames or more"):
        load_config(path, {"num_frames": 12})


def test_what_such_a_file_asks_for_in_vain_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {
        "controlnet_map": {"controlnet_tile": {"enable": True}, "controlnet_openpose": {"enable": True}},
        "ip_adapter_map": {"enable": True}, "lcm_map": {"enable": True}, "context_schedule": "composite",
        "region_map": {"0": {"enable": True}}, "output": {"format": "mp4", "fps": 8},
        "lora_map": {"b.safetensors": {"region": ["0"], "scale": {"0": 1.0, "32": 0.2}}},
        "prompt_map": {"0": "a __mood__ meadow"}, "is_single_prompt_mode": True,
    }  # fmt: skip
    path = tmp_path / "seasons.json"
    path.write_text(json.dumps(JSON | more))
    (request,) = load_config(path)
    assert request.loras == () and request.fps == 8
    for words in (
        "controlnet_map (controlnet_tile, controlnet_openpose)", "ip_adapter_map", "lcm_map", "region_map (0)",
        "context_schedule (composite)", "lora_map (b.safetensors", "output (format", "__mood__",
        "is_single_prompt_mode",
    ):  # fmt: skip
        assert words in caplog.text
    path.write_text(json.dumps(JSON | {"prompt_mapp": {}}))
    with pytest.raises(UserError, match="unknown setting 'prompt_mapp'; did you mean 'prompt_map'"):
        load_config(path)
    path.write_text('{"prompt_map": {"0": "a", "0": "b"}}')
    with pytest.raises(UserError, match="'0' is given twice"):
        load_config(path)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


FAST = ("--num-frames", "6", "--steps", "2", "--seed", "5", "--width", "32", "--height", "32")


def test_a_clip_its_timeline_and_its_repeat(place: Path) -> None:
    words = ("--prompt-at", '4="a boat moving left"', "--prompt-tail", "on a blue background", "--prompt-hold", "0")
    code, out, err = run("a fox moving right", *FAST, *words, "--out", "o/fox.png")
    assert code == 0, err
    assert {p.name for p in (place / "o").iterdir()} == {"fox.png", "fox.png.json", "fox.prompts.png"}
    assert "fox.prompts.png" in out
    assert "after each: on a blue background" in err
    assert (
        "  0    a fox moving right\n  1-3  a fox moving right -> a boat moving left (25 to 75 %)\n  4-5  a boat" in err
    )
    assert "texts stand 4 frames apart, fewer than the 16" in err
    assert Image.open("o/fox.prompts.png").size[0] > 600
    frames = read_video("o/fox.png")[0]
    assert texts(load_result("o/fox.png")) == {0: "a fox moving right", 4: "a boat moving left"}
    code, out, err = run("--from", "o/fox.png", "--out", "again.png", "--quiet")
    assert (code, err, out) == (0, "", "again.png\n") and (place / "again.prompts.png").exists()
    assert np.array_equal(read_video("again.png")[0], frames)
    assert run("--from", "o/fox.png", "--prompt-hold", "1", "--out", "step.png")[0] == 0
    assert not np.array_equal(read_video("step.png")[0], frames)


def test_runs_of_a_file_keep_their_travels(place: Path) -> None:
    Path("seasons.yaml").write_text(
        "- model: bundled\n  prompt: [{0: a fox, 3: a boat}, a star]\n  seed: [1, 2]\n"
        "  num_frames: 4\n  steps: 1\n  width: 32\n  height: 32\n"
    )
    code, _, err = run("--config", "seasons.yaml")
    assert code == 0, err
    (folder,) = Path("samples").iterdir()
    assert (folder / "sample" / "0-a-fox.prompts.png").exists()
    assert not (folder / "sample" / "1-a-star.prompts.png").exists()
    (again,) = load_config(folder / "config.yaml")
    assert (texts(again, 0), again.shown(1)) == ({0: "a fox", 3: "a boat"}, "a star")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt-at", "6=b"), "frame 6 is to show 'b', but the clip has 6 frames"),
        (("--prompt-at", "-1=b"), "'-1' is no frame"),
        (("--prompt-at", "1.5=b"), "'1.5' is no frame"),
        (("--prompt-at", "b"), "expected a frame and a text"),
        (("--prompt-at", "2=b", "--prompt-at", "02=c"), "frame 2 has two texts"),
        (("--prompt-at", "0=b"), "frame 0 has two texts"),
        (("--prompt-at", "2=b", "--prompt-hold", "2"), "prompt_hold=2.0"),
        (("--prompt-at", "2=b", "--prompt-interpolation", "cubic"), "'linear' or 'slerp'"),
    ],
)
def test_mistakes_on_the_command_line(place: Path, options: tuple[str, ...], words: str) -> None:
    code, out, err = run("a fox", *FAST, *options, "--out", "fox.png")
    assert (code, out) == (2, "") and words in err and "Traceback" not in err
    assert not any(place.iterdir())


def test_a_frame_beyond_the_length_that_the_model_recommends(place: Path) -> None:
    code, _, err = run("a fox", "--prompt-at", "16=b", "--steps", "1", "--out", "fox.png")
    assert code == 2 and "the clip has 16 frames" in err and not any(place.iterdir())
