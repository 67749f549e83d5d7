"""Prompts with weights and of any length: the grammar, chunks, the states, and plain prompts to the bit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import tiny_models
from support.close import relative
from support.commands import run
from support.pipelines import SMALL, pipeline, seeded
from torch import Tensor

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.prompts import encode_prompts
from animatediff.prompts import PromptTravel
from animatediff.prompts.encode import encode, is_plain, weighted
from animatediff.prompts.grammar import is_unweighted, parse
from animatediff.prompts.tokens import chunks_of
from animatediff.prompts.travel_states import FrameStates

CPU = torch.device("cpu")


# -- the grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a fox", [("a fox", 1)]),
        ("a (fox)", [("a ", 1), ("fox", 1.1)]),
        ("a ((fox)) runs", [("a ", 1), ("fox", 1.21), (" runs", 1)]),
        ("a [fox]", [("a ", 1), ("fox", 1 / 1.1)]),
        ("a (fox:1.3)", [("a ", 1), ("fox", 1.3)]),
        ("a (red (fox:1.5):0.8)", [("a ", 1), ("red ", 0.8), ("fox", 1.2)]),
        ("(a [b]:2)", [("a ", 2), ("b", 2 / 1.1)]),
        ("( fox : 1.2 )", [(" fox ", 1.2)]),
        ("(fox:.5)", [("fox", 0.5)]),
        ("(fox:0)", [("fox", 0)]),
        (r"a \(fox\) \[x\] \\", [("a (fox) [x] \\", 1)]),
        ("time 12:30", [("time 12:30", 1)]),
        ("a fox :)", [("a fox :)", 1)]),
        ("x] y)", [("x] y)", 1)]),
        ("a (fox", [("a ", 1), ("fox", 1.1)]),
        ("a [(fox", [("a fox", 1)]),  # which undo each other
        ("(a:b:1.5)", [("a:b", 1.5)]),
        ("fox:1.2)", [("fox:1.2)", 1)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
    ],
)
def test_weights(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [part.text for part in found] == [text for text, _ in parts]
    assert [part.weight for part in found] == pytest.approx([weight for _, weight in parts])


def test_the_word_break() -> None:
    assert [(part.text, part.ends_chunk) for part in parse("a fox BREAK snow, BREAKFAST")] == [
        ("a fox ", False), ("", True), (" snow, BREAKFAST", False),
    ]  # fmt: skip


@given(st.text(alphabet="ab ,:1.()[]\\BREAK", max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_text_has_weights_and_loses_no_letters(text: str) -> None:
    parts = parse(text)
    letters = "".join(part.text for part in parts)
    assert set(letters) <= set(text)
    assert letters.count("a") == text.count("a") and letters.count("b") == text.count("b")
    assert is_unweighted(text) == (parts == [(text, 1.0, False)])


# -- chunks ------------------------------------------------------------------------------------------------------------


class Words:
    """A tokenizer whose tokens are words."""

    model_max_length, bos_token_id, eos_token_id, pad_token_id = 12, 100, 101, 102
    image = SimpleNamespace(maybe_convert_prompt=lambda text, tokenizer: text)

    def get_vocab(self) -> dict[str, int]:
        return {",</w>": 0}

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        words = text.replace(",", " , ").split()
        return SimpleNamespace(input_ids=[0 if word == "," else int(word) for word in words])


def chunked(prompt: str) -> list[list[int]]:
    return [chunk.ids for chunk in chunks_of(Words.image, Words(), prompt)]


def test_a_long_prompt_is_cut_at_a_comma_near_the_end_of_a_chunk() -> None:
    ten = "1 2 3 4 5 6 7 8 9 10"
    assert chunked(ten) == [[*range(1, 11)]]
    assert chunked(f"{ten} 11") == [[*range(1, 11)], [11]]
    assert chunked("1 2 3 4 5 6 7 8, 9 10 11") == [[1, 2, 3, 4, 5, 6, 7, 8, 0], [9, 10, 11]]  # the phrase stays whole
    assert chunked("1 2, 3 4 5 6 7 8 9 10 11") == [[1, 2, 0, 3, 4, 5, 6, 7, 8, 9], [10, 11]]  # too far back
    assert chunked(f"{ten}, 11") == [[*range(1, 11)], [0, 11]]
    assert chunked("1 BREAK 2") == [[1], [2]] and chunked("BREAK 2 BREAK") == [[2]] and chunked("") == [[]]


@given(st.lists(st.integers(0, 50), max_size=60))
@settings(max_examples=100, deadline=None)
def test_no_token_is_lost(tokens: list[int]) -> None:
    chunks = chunked(" ".join("," if token == 0 else str(token) for token in tokens))
    assert [token for chunk in chunks for token in chunk] == tokens
    assert all(len(chunk) <= 10 for chunk in chunks)


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_weight_scales_its_tokens_and_the_mean_comes_back() -> None:
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)) + 1
    weights = torch.ones(2, 5)
    weights[0, 2] = 1.5
    free = weighted(states, weights, keep_mean=False)
    assert torch.equal(free[1], states[1]) and torch.equal(free[0, 2], 1.5 * states[0, 2])
    kept = weighted(states, weights, keep_mean=True)
    assert torch.equal(kept[1], states[1])
    assert torch.allclose(kept[0].mean(), states[0].mean(), atol=1e-6)
    assert torch.allclose(kept[0] / kept[0, 0, 0], free[0] / free[0, 0, 0], rtol=1e-4)
    assert weighted(states, torch.zeros(2, 5), keep_mean=True).isfinite().all()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnimateDiffPipeline]:
    folder = tmp_path_factory.mktemp("models")
    for generation in ("sd1", "sdxl"):
        tiny_models.save_base(folder / f"{generation}.safetensors", generation)
    found = {
        generation: AnimateDiffPipeline.from_single_file(
            folder / f"{generation}.safetensors", torch_dtype=torch.float32
        )
        for generation in ("sd1", "sdxl")
    }
    return found | {"golden": pipeline()}


def texts(
    pipe: AnimateDiffPipeline, prompts: list[Any], negatives: list[str] | None = None, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """(states, pooled) of negative prompts and prompts, of the first frame where one travels."""
    settings = {"num_frames": 4, "guidance": True, "clip_skip": None, "plain": False} | settings
    found = encode_prompts(pipe.base, prompts, negatives, size=(64, 64), device=CPU, **settings)
    first = [part([0]) if isinstance(part, FrameStates) else part for part in (found.embeddings, found.pooled)]
    assert first[0] is not None
    return first[0], first[1]


SHORT = "a lighthouse in a storm, waves, spray"
LENGTHS = {40: 1, 80: 2, 160: 3}


def words(count: int) -> str:
    return " ".join(["sea", "sky", "rain", "rock"][index % 4] for index in range(count))


@pytest.mark.parametrize("generation", ["sd1", "sdxl", "golden"])
@pytest.mark.parametrize("clip_skip", [None, 1])
def test_plain_prompts_are_what_diffusers_makes_of_them_to_the_bit(
    models: dict[str, AnimateDiffPipeline], generation: str, clip_skip: int | None
) -> None:
    pipe = models[generation]
    if generation == "sdxl" and clip_skip:  # the tiny one has no layer to spare
        clip_skip = None
    for negatives in (None, ["blurry"]):
        now, pooled = texts(pipe, ["a cat at sea"], negatives, clip_skip=clip_skip)
        was, pooled_was = texts(pipe, ["a cat at sea"], negatives, clip_skip=clip_skip, plain=True)
        assert torch.equal(now, was)
        assert pooled is pooled_was is None or torch.equal(pooled, pooled_was)  # type: ignore[arg-type]
        # and the way of weights and chunks, which a travel takes, gives the same
        travel, travel_pooled = texts(pipe, [PromptTravel({0: "a cat at sea", 2: "x"})], negatives, clip_skip=clip_skip)
        assert relative(travel, was) < 1e-5
        assert pooled_was is None or relative(travel_pooled, pooled_was) < 1e-5  # type: ignore[arg-type]


@pytest.mark.parametrize("generation", ["sd1", "sdxl"])
@pytest.mark.parametrize("count", LENGTHS)
def test_prompts_of_40_80_160_tokens_and_negatives_as_long(
    models: dict[str, AnimateDiffPipeline], generation: str, count: int
) -> None:
    pipe, long = models[generation], words(count)
    length = 77 * LENGTHS[count]
    for prompts, negatives in (([long], ["blurry"]), (["sea"], [long]), ([long], None)):
        states, pooled = texts(pipe, prompts, negatives)
        assert states.shape[:2] == (2, length)
        assert pooled is None or pooled.shape[0] == 2
    if count > 75:
        whole = texts(pipe, [long])[0][1]
        start = texts(pipe, [words(75)])[0][1]
        assert relative(whole[:77], start) < 1e-5  # each chunk is read by itself
        changed = texts(pipe, [f"{words(count - 1)} fog"])[0][1]
        assert relative(whole[:77], changed[:77]) < 1e-5 and relative(whole, changed) > 1e-2


def test_a_short_prompt_beside_a_long_one_is_padded_with_empty_chunks(models: dict[str, AnimateDiffPipeline]) -> None:
    pipe = models["sd1"]
    states = texts(pipe, ["sea", words(80)], ["fog", "fog"])[0]
    empty = encode(pipe.base, [""], num_chunks=1, clip_skip=None, device=CPU).states[0]
    assert states.shape[:2] == (4, 154)
    for row in states[:3]:
        assert relative(row[77:], empty) < 1e-5


@pytest.mark.parametrize("generation", ["sd1", "sdxl"])
def test_weights_change_the_states_of_their_words(models: dict[str, AnimateDiffPipeline], generation: str) -> None:
    pipe = models[generation]
    plain = texts(pipe, ["a red fox"])[0][1]
    strong = texts(pipe, ["a (red:1.5) fox"])[0][1]
    factor = strong.norm(dim=-1) / plain.norm(dim=-1)
    factor = factor / factor[0]
    assert torch.allclose(factor[2], torch.tensor(1.5), atol=1e-4)  # start, a, red
    assert torch.allclose(factor[[0, 1, 3, 4, 76]], torch.ones(5), atol=1e-4)
    assert relative(texts(pipe, ["a (red:1.0) fox"])[0][1], plain) < 1e-5
    negative = texts(pipe, ["a red fox"], ["(blurry:1.4)"])[0]
    assert relative(negative[1], plain) < 1e-5
    assert relative(negative[0], texts(pipe, ["a red fox"], ["blurry"])[0][0]) > 1e-2
    brackets = texts(pipe, ["a (red:1.5) fox"], plain=True)[0][1]
    assert relative(brackets, strong) > 1e-2


def test_weights_and_length_within_a_travel(models: dict[str, AnimateDiffPipeline]) -> None:
    pipe = models["sdxl"]
    travel = PromptTravel({0: "a (red:1.5) fox", 2: words(80)}, hold=0)
    found = encode_prompts(
        pipe.base, [travel], None, num_frames=3, guidance=True, clip_skip=None, plain=False, size=(64, 64), device=CPU
    )
    assert isinstance(found.embeddings, FrameStates) and isinstance(found.pooled, FrameStates)
    states, pooled = found.embeddings([0, 1, 2]), found.pooled([0, 1, 2])
    assert states.shape[:2] == (6, 154) and not states[:3].any()  # no negative prompt: zeros
    assert relative(states[3, :77], texts(pipe, ["a (red:1.5) fox"])[0][1]) < 1e-5
    assert relative(states[5], texts(pipe, [words(80)])[0][1]) < 1e-5
    assert relative(states[4], (states[3] + states[5]) / 2) < 1e-5
    assert relative(pooled[4], (pooled[3] + pooled[5]) / 2) < 1e-5
    cut = encode_prompts(
        pipe.base, [travel], None, num_frames=3, guidance=True, clip_skip=None, plain=True, size=(64, 64), device=CPU
    )
    assert isinstance(cut.embeddings, FrameStates) and cut.embeddings([0]).shape[1] == 77


def test_words_of_textual_inversions_may_be_weighted(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    unet = tiny_models.save_base(tmp_path / "sd1.safetensors", "sd1")
    assert unet is not None
    pipe = AnimateDiffPipeline.from_single_file(tmp_path / "sd1.safetensors", torch_dtype=torch.float32)
    save_file({"emb_params": torch.randn(3, 64)}, tmp_path / "glow.safetensors")
    pipe.load_textual_inversion(tmp_path / "glow.safetensors", token="glowbug")
    assert is_plain(pipe.base, "a glowbug fox") and not is_plain(pipe.base, " ".join(["glowbug"] * 26))
    (chunk,) = chunks_of(pipe.base, pipe.base.tokenizer, "a (glowbug:1.2) fox")
    assert chunk.weights == [1.0, 1.2, 1.2, 1.2, 1.0]
    assert len(set(chunk.ids[1:4])) == 3


# -- from end to end ---------------------------------------------------------------------------------------------------


def test_a_clip_of_a_long_weighted_prompt() -> None:
    pipe, few = pipeline(), SMALL | {"num_inference_steps": 1, "output_type": "latent"}
    plain = pipe("a cat at sea", generator=seeded(1), **few).frames
    strong = pipe("a (cat:1.6) at sea", generator=seeded(1), **few).frames
    long = pipe(f"a cat at sea, {words(80)}", generator=seeded(1), **few).frames
    letters = pipe("a (cat:1.6) at sea", generator=seeded(1), plain_prompts=True, **few).frames
    for other in (strong, long, letters):
        assert other.isfinite().all() and relative(plain, other) > 1e-4
    assert relative(strong, letters) > 1e-3


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("--num-frames", "2", "--steps", "1", "--seed", "1", "--width", "32", "--height", "32")
    small += ("--dtype", "float32")
    for name, options in (("a", ()), ("b", ("--plain-prompts",))):
        code, _, err = run("a (fox:1.4) moving right", "-n", "(red:1.2)", *small, *options, "--out", f"{name}.png")
        assert code == 0, err
    assert relative(*(np.asarray(Image.open(f"{name}.png")) for name in "ab")) > 1e-2
