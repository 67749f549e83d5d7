"""Words that the bundled model was not trained on are named, wherever they stand, and no others are."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import torch
from support.pipelines import pipeline

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel
from animatediff.prompts.vocabulary import unknown_words
from animatediff.sprites.words import EXAMPLES, caption, combinations


@pytest.fixture(scope="module")
def bundled() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_bundled()


def said(pipe: AnimateDiffPipeline, caplog: pytest.LogCaptureFixture, prompt: Any, **more: Any) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        pipe.job(prompt, num_frames=4, **more)
    return "\n".join(line for line in caplog.messages if "was not trained on" in line)


def test_every_unknown_word_is_named_once(bundled: AnimateDiffPipeline, caplog: pytest.LogCaptureFixture) -> None:
    text = said(bundled, caplog, "a dragon breathing fire over a castle, a Dragon", guidance_scale=4.0)
    assert ": dragon, breathing, fire, over, castle; it knows fox, " in text
    assert len(text.splitlines()) == 1
    assert "this word, and shows something else: foxes (it knows fox);" in said(bundled, caplog, "foxes moving right")


@pytest.mark.parametrize(
    ("prompt", "more", "words"),
    [
        ("a fox", {"negative_prompt": "blurry", "guidance_scale": 4.0}, "blurry"),
        ("a fox", {"negative_prompt": "blurry", "guidance_scale": 1.0}, ""),
        ({0: "a fox", 2: "an ox"}, {}, "ox"),
        (PromptTravel({0: "a fox"}, head="oil painting", tail="on Mars"), {}, "oil, painting, mars"),
        ("a (red:1.3) [fox], moving-right! BREAK on green", {}, ""),
        ("a (greenish:1.3) fox <lora:paper:1>", {}, "greenish (it knows green)"),
        ("2 foxes", {}, "2, foxes (it knows fox)"),
        ("лиса 🦊", {}, "лиса, 🦊"),
        ("a fox 1.3", {"plain_prompts": True}, "1, 3"),
        ("", {}, ""),
    ],
)
def test_where_words_stand(
    bundled: AnimateDiffPipeline, caplog: pytest.LogCaptureFixture, prompt: Any, more: dict[str, Any], words: str
) -> None:
    text = said(bundled, caplog, prompt, **more)
    assert (f"something else: {words}; it knows" in text) if words else text == ""


def test_captions_of_training_and_examples_are_known(bundled: AnimateDiffPipeline) -> None:
    rng = random.Random(0)
    texts = [caption(each, rng) for each in combinations(held_out=False)]
    assert unknown_words([*texts, *EXAMPLES], bundled.tokenizer) == []


def test_added_words_are_known_and_other_models_are_left_alone(tmp_path: Any) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    width = pipe.text_encoder.config.hidden_size
    torch.save({"<my-style>": torch.zeros(width)}, tmp_path / "style.bin")
    pipe.load_textual_inversion(tmp_path / "style.bin")
    assert unknown_words(["a fox in <my-style>"], pipe.tokenizer) == []
    assert unknown_words(["a fox in my-styl"], pipe.tokenizer) == ["my", "styl"]
    assert unknown_words(["a dragon"], pipeline("v2").tokenizer) == []
