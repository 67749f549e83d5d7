"""Prompts pasted from other programs: each sign that is plain text here is said, and ordinary prompts are not."""

from __future__ import annotations

import logging

import pytest

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts.unread import unread


@pytest.mark.parametrize(
    ("prompt", "advice"),
    [
        ("a fox <lora:paper:0.8> moving", "`loras`"),
        ("a fox <lyco:style>", "`loras`"),
        ("a fox <hypernet:anime:1>", "hypernetwork"),
        ("embedding:badhand_v4, a fox", "`embeddings`"),
        ("0: spring\n8: summer", "`prompt_travel`"),
        ('"0": "spring",\n"8": "summer"', "`prompt_travel`"),
        ("a [fox:wolf:0.5] runs", "`prompt_travel`"),
        ("a [fox|wolf] runs", "alternate"),
        ("a {red|blue} fox", "each prompt by itself"),
        ("a __colour__ fox", "wildcard"),
        ("a fox AND a wolf", "joins no two prompts"),
        ("a fox\nNegative prompt: fog", "`negative_prompt`"),
        ("a fox\nSteps: 20, Sampler: Euler a, CFG scale: 7", "`steps`"),
        ("a fox --neg fog", "inside a prompt"),
        ("a fox --ar 16:9", "inside a prompt"),
    ],
)
def test_signs_of_other_programs_are_said(prompt: str, advice: str) -> None:
    (sentence, *_) = unread(prompt)
    assert "is read as plain text" in sentence
    assert advice in sentence


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox, (red:1.2), [grey] BREAK a well-lit meadow -- at 7:30, 4 legs",
        r"a fox \(animal\), 16:9, a < b, self-portrait, R&D and more, snake_case and 100%",
        "a (fox:1.1) and a wolf, <3, {curly}",
        "16:9 photo of a fox",
        "a fox\n12:30 at night",
        "",
    ],
)
def test_ordinary_prompts_are_left_alone(prompt: str) -> None:
    assert unread(prompt) == []


def test_a_call_says_it_of_every_text(caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    with caplog.at_level(logging.WARNING, "animatediff"):
        pipe.job({0: "a fox", 4: "a duck <lora:x:1>"}, negative_prompt="embedding:bad", num_frames=8, guidance_scale=3)
    assert [text.split(" in a prompt")[0] for text in caplog.messages] == ["<lora:x:1>", "embedding:bad"]
