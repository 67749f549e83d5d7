"""Prompt lines, MotionLoRAs in prompts, and prompt embeddings of a host blended as those here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from animatediff_webui import conds
from animatediff_webui.prompts import first_texts, read_prompt, take_motion_loras
from support.webui_stub import Multicond, Part, Scheduled

from animatediff.errors import UserError
from animatediff.prompts import PromptTravel

LORA = Path("pan.safetensors")


def find(name: str) -> Path | None:
    return LORA if name == "pan" else None


def test_lines_of_frames_travel_between_head_and_tail() -> None:
    travel = read_prompt("a hill,\nat dusk\n\n 8: winter\n0 : spring, <lora:look:1> green\nin oil\nlarge")
    assert isinstance(travel, PromptTravel)
    texts, later, shares = first_texts(travel, 12)
    spring = "a hill, at dusk <lora:look:1>, spring, green, in oil, large"
    winter = "a hill, at dusk <lora:look:1>, winter, in oil, large"
    assert (texts[0], later[4], texts[11]) == (spring, winter, winter)
    assert shares == [frame / 8 for frame in range(8)] + [0.0] * 4
    assert read_prompt("a hill\nat dusk: red") == "a hill\nat dusk: red"


@pytest.mark.parametrize("prompt", ["16:9 photo of a fox", "a fox\n4:3, oil\n12:30 at night"])
def test_ratios_and_times_are_no_frames(prompt: str) -> None:
    assert read_prompt(prompt) == prompt
    travel = read_prompt(f"{prompt}\n0: spring\n8: winter")
    assert isinstance(travel, PromptTravel)
    assert (travel.texts, travel.head) == (
        {0: "spring", 8: "winter"},
        ", ".join(p.strip(",") for p in prompt.split("\n")),
    )
    girls = read_prompt("0:1girl\n8:2 girls")
    assert isinstance(girls, PromptTravel)
    assert girls.texts == {0: "1girl", 8: "2 girls"}


def test_closed_loops_travel_back_to_the_first_text() -> None:
    travel = read_prompt("0: a\n4: b", loop=True)
    assert isinstance(travel, PromptTravel)
    texts, later, shares = first_texts(travel, 8)
    assert (texts[6], later[6], shares[6]) == ("b", "a", 0.5)


@pytest.mark.parametrize(
    ("prompt", "rest", "strength"),
    [
        ("a hill <lora:pan:0.8>", "a hill", 0.8),
        ("a hill, <lora:pan:0.8>, red", "a hill, red", 0.8),
        ("<lora:pan> a hill", "a hill", 1.0),
        ("a <lora:look:0.5> hill <lora:pan:0.25><lora:pan:0.5>", "a <lora:look:0.5> hill", 0.75),
        ("a hill <lora:pan:1:0.5>", "a hill", 0.5),
        ("a hill <lora:pan:te=1:unet=-0.5>", "a hill", -0.5),
        ("0: a <lora:pan:2>\n8: b", "0: a \n8: b", 2.0),
    ],
)
def test_motion_loras_leave_the_prompt_with_their_strength(prompt: str, rest: str, strength: float) -> None:
    assert take_motion_loras(prompt, find) == (rest, {LORA: strength})


def test_other_loras_stay_and_odd_strengths_are_refused() -> None:
    assert take_motion_loras("a  hill ,, <lora:look:0.5>", find) == ("a  hill ,, <lora:look:0.5>", {})
    for odd in ("<lora:pan:much>", "<lora:pan:speed=1>", "<lora:pan:nan>", "<lora:pan:1e999>"):
        with pytest.raises(UserError, match="a MotionLoRA is written"):
            take_motion_loras(odd, find)


def schedule(*values: tuple[int, float], tokens: int = 2) -> list[Scheduled]:
    return [Scheduled(end, torch.full((tokens, 3), value)) for end, value in values]


def test_schedules_blend_with_the_steps_of_both() -> None:
    """A prompt that changes at step 5 and one that does not; shorter ones are filled with the empty prompt."""
    empty = torch.full((1, 2, 3), 7.0)
    first = [schedule((5, 0.0), (20, 10.0)), schedule((20, 1.0))]
    second = [schedule((20, 2.0)), schedule((20, 3.0), tokens=4)]
    blended = conds.blend_negative(first, second, [0.5, 0.0], empty)
    assert [(entry.end_at_step, float(entry.cond[0, 0])) for entry in blended[0]] == [(5, 1.0), (20, 6.0)]
    assert torch.equal(blended[1][0].cond, first[1][0].cond)
    longer = conds.blend_negative(first, second, [0.5, 0.5], empty)
    assert [tuple(entry.cond.shape) for entry in (*longer[0], *longer[1])] == [(4, 3)] * 3
    assert float(longer[0][0].cond[3, 0]) == 7.0
    assert float(longer[1][0].cond[3, 0]) == 5.0  # half of the empty prompt, half of 3
    assert float(first[0][0].cond[0, 0]) == 0.0  # hosts keep what they gave


def test_prompts_of_sdxl_blend_in_each_part_and_keep_the_hosts_classes() -> None:
    def prompt(value: float) -> Multicond:
        cond = {"crossattn": torch.full((2, 3), value), "vector": torch.full((5,), 2 * value)}
        return Multicond((1,), [[Part([Scheduled(20, cond)])]])

    out = conds.blend_prompts(prompt(0.0), prompt(4.0), [0.25], torch.zeros(1, 2, 3))
    assert isinstance(out, Multicond)
    cond = out.batch[0][0].schedules[0].cond
    assert (float(cond["crossattn"][0, 0]), float(cond["vector"][0])) == (1.0, 2.0)
