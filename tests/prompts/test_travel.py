"""Prompts that travel: which text a frame shows, and what the UNet is told in windows and batches."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_models
from support.close import relative
from support.pipelines import SMALL, pipeline, seeded

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel
from animatediff.prompts.encode import encode
from animatediff.prompts.travel_states import FrameStates, slerp
from animatediff.render.timeline import timeline, timeline_image

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
    picture = timeline_image(travel, 30)
    columns = [picture[8:80, 8 + (frame * 640 + 320) // 30] for frame in range(30)]
    tall = [{tuple(pixel) for pixel in column.tolist()} for column in columns]
    assert [len(colours) for colours in tall] == [1] * 7 + [2] * 5 + [1] * 7 + [2] * 5 + [1] * 6
    assert len({next(iter(tall[frame])) for frame in (0, 12, 24)}) == 3
    assert timeline_image(PromptTravel({0: "a" * 300, 500: "b"}), 700).shape[1] == picture.shape[1]


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
    return encode(pipe.base, [text], num_chunks=1, clip_skip=None, device=torch.device("cpu")).states[0]


def test_one_text_all_along_is_the_plain_prompt() -> None:
    pipe = pipeline()
    plain = pipe("a cat at sea", negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    same = pipe({0: "a cat at sea", 2: "a cat at sea"}, negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    assert relative(plain, same) < 1e-5
    other = pipe({0: "a cat at sea", 2: "rain"}, negative_prompt="blurry", generator=seeded(1), **SMALL).frames
    assert relative(plain, other) > 5e-3


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
        assert relative(states[: len(window)], rain.expand(len(window), -1, -1)) < 1e-5
        for state, frame in zip(states[len(window) :], window, strict=True):
            expected = dog if frame >= 6 else mix(cat, dog, torch.tensor(shares[frame]))
            assert relative(state, expected) < 1e-5


def test_clips_that_travel_stand_beside_clips_that_do_not() -> None:
    pipe = pipeline()
    prompts: list[Any] = ["a cat", {0: "a dog", 3: "rain"}]
    together = pipe(prompts, negative_prompt=["blurry", ""], generator=seeded(1, 2), **SMALL).frames
    for index, (prompt, negative) in enumerate(zip(prompts, ("blurry", ""), strict=True)):
        alone = pipe(prompt, negative_prompt=negative, generator=seeded(index + 1), **SMALL).frames
        assert relative(together[index], alone[0]) < 5e-5


def test_without_guidance_and_with_clip_skip() -> None:
    pipe = pipeline()
    travel = {0: "a cat", 2: "a cat"}
    for rest in ({"guidance_scale": 1.0}, {"clip_skip": 1}):
        plain = pipe("a cat", generator=seeded(1), **SMALL, **rest).frames
        assert relative(pipe(travel, generator=seeded(1), **SMALL, **rest).frames, plain) < 1e-5


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
        assert relative(plain, same) < 1e-5
    with Told(xl) as told:
        xl(PromptTravel({0: "a cat", 2: "a dog"}, hold=0), **TINY)
    cat, dog = (
        encode(xl.base, [text], num_chunks=1, clip_skip=None, device=torch.device("cpu")) for text in ("a cat", "a dog")
    )
    assert cat.pooled is not None and dog.pooled is not None
    (pooled,), (states,) = told.pooled, told.states
    assert torch.equal(pooled[:3], torch.zeros_like(pooled[:3]))  # no negative prompt: zeros, as SDXL was trained
    half = torch.lerp(cat.pooled[0], dog.pooled[0], 0.5)
    assert relative(pooled[3:], torch.stack([cat.pooled[0], half, dog.pooled[0]])) < 1e-5
    assert relative(states[4], torch.lerp(cat.states[0], dog.states[0], 0.5)) < 1e-5
