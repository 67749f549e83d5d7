"""Prompt travel as conditioning: the frames of our own pipeline, rows of windows, texts of any length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import comfy_host
from support.close import relative
from support.golden import motion_file
from support.pipelines import pipeline
from torch import Tensor

from animatediff.prompts import PromptTravel
from animatediff.prompts.lines import read_travel
from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.motion import load_motion
from integrations.comfyui.nodes.prompts import PromptTravelNode, travel_conditioning
from integrations.comfyui.sampling_settings import with_family_sampling
from integrations.comfyui.windows import TRAVEL_FRAMES, handler_of, with_windows

models = comfy_host.models()
FAMILY = "v1"
"""Its golden model does not multiply what the host and we sum in another order: 1e-6 here, up to 1e-3 in v2 and v3."""
GUIDANCE = 4.0
TEXT = "film still\n0: a fox\n4: a hare\n7: a car"


class Clip:
    """The host's CLIP with the text encoder of the golden pipeline; `{name: [[(id, weight), ...], ...]}` are tokens."""

    def __init__(self) -> None:
        self.pipe = pipeline(FAMILY)
        self.encoded = 0

    def tokenize(self, text: str) -> dict[str, list[list[tuple[int, float]]]]:
        tokenizer = self.pipe.tokenizer
        size, end = tokenizer.model_max_length, tokenizer.eos_token_id
        words = tokenizer(text, add_special_tokens=False).input_ids
        chunks = [words[start : start + size - 2] for start in range(0, max(1, len(words)), size - 2)]
        rows = [[tokenizer.bos_token_id, *chunk, end] for chunk in chunks]
        rows = [row + [tokenizer.pad_token_id] * (size - len(row)) for row in rows]
        return {"l": [[(token, 1.0) for token in row] for row in rows]}

    def encode_from_tokens_scheduled(self, tokens: Any) -> list[Any]:
        self.encoded += 1
        ids = torch.tensor([[token for token, _ in row] for row in tokens["l"]])
        with torch.no_grad():
            states = self.pipe.text_encoder(ids)[0]
        return [[states.reshape(1, -1, states.shape[-1]), {"pooled_output": states.mean(1)[:1], "kept": "as it is"}]]


def model() -> Any:
    motion = load_motion(motion_file(FAMILY), None)
    return with_family_sampling(apply_motion(models.golden_model(FAMILY), MotionRun(motion=motion)), motion.family)


def noise(num_frames: int = 8) -> Tensor:
    return torch.randn(1, 4, num_frames, 8, 16, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("interpolation", ["linear", "slerp"])
def test_frames_are_those_of_our_pipeline(interpolation: str) -> None:
    pipe, clip, latents = pipeline(FAMILY), Clip(), noise()
    found = read_travel(TEXT)
    travel = PromptTravel(found.texts, head=found.head, interpolation=interpolation, hold=0.25)
    wanted = pipe(
        prompt=travel, negative_prompt="blurred", num_frames=8, height=16, width=32, num_inference_steps=2,
        guidance_scale=GUIDANCE, latents=latents, output_type="latent",
    ).frames  # fmt: skip
    (positive,) = PromptTravelNode.execute(clip, TEXT, 8, interpolation=interpolation, hold=0.25).result
    negative = clip.encode_from_tokens_scheduled(clip.tokenize("blurred"))
    timesteps = [int(step) for step in pipe.scheduler.timesteps]
    sampled = models.sampled(model(), latents, timesteps, positive, negative, cfg=GUIDANCE)
    assert relative(sampled, wanted) <= 2e-5
    plain = models.sampled(model(), latents, timesteps, negative, negative, cfg=GUIDANCE)
    assert relative(sampled, plain) > 0.01


def test_a_window_sees_the_rows_of_its_frames() -> None:
    clip, latents, timesteps = Clip(), noise(), [900, 500]
    (positive,) = PromptTravelNode.execute(clip, TEXT, 8).result
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    side_by_side = with_windows(model(), handler_of(length=4, overlap=0))
    whole = models.sampled(side_by_side, latents, timesteps, positive, negative)
    second = [
        [positive[0][0][4:], {**positive[0][1], "pooled_output": positive[0][1]["pooled_output"][4:], TRAVEL_FRAMES: 4}]
    ]
    alone = models.sampled(model(), latents[:, :, 4:], timesteps, second, negative)
    assert relative(whole[:, :, 4:], alone) <= 1e-4


def test_each_text_is_encoded_once_and_long_ones_at_one_length() -> None:
    clip = Clip()
    size = clip.pipe.tokenizer.model_max_length
    long = "fox " * (size + 3)
    (entry,) = travel_conditioning(clip, PromptTravel({0: "a fox", 3: long, 5: "a fox"}, hold=0.0), 6)
    assert clip.encoded == 2
    states, others = entry
    assert states.shape[0] == 6 and states.shape[1] % size == 0 and states.shape[1] > size
    assert torch.equal(states[0], states[5]) and not torch.equal(states[0], states[3])
    assert torch.allclose(states[1], torch.lerp(states[0], states[3], 1 / 3), atol=1e-6)
    assert others["pooled_output"].shape[0] == 6 and others["kept"] == "as it is"
    assert torch.allclose(others["pooled_output"][1], torch.lerp(*others["pooled_output"][[0, 3]], 1 / 3), atol=1e-6)


def test_a_latent_counts_the_frames_in_place_of_the_number() -> None:
    (found,) = PromptTravelNode.execute(Clip(), "0: a fox\n5: a hare", 3, {"samples": torch.zeros(6, 4, 8, 8)}).result
    assert len(found[0][0]) == 6


def test_a_travel_of_another_length_than_the_clip_is_said() -> None:
    clip = Clip()
    (positive,) = PromptTravelNode.execute(clip, TEXT, 16).result
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    with pytest.raises(ValueError, match="prompts for 16 frames, and the clip has 8"):
        models.sampled(model(), noise(), [900], positive, negative)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0: a\nb\n4: c", "line 2, 'b', has no frame"),
        ("0: a\n0: b", "frame 0 has two texts"),
        ("0: a\n9: b", "the clip has 8 frames"),
        ("-1: a", "-1"),
        ('{"0": 3}', "expected a text"),
        ('{"0": ', "texts at frames"),
        ("0: (a:`t`)", "backquotes"),
        ("1.5: a", "'1.5' is no frame to put a text at; expected a whole number from 0"),
        ('"0": "a" "4": "b"', "behind the comma"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    if text == '"0": "a" "4": "b"':
        assert read_travel(text).texts == {0: "a", 4: "b"}  # a comma may be missing
        return
    with pytest.raises(ValueError, match=message) as error:
        PromptTravelNode.execute(Clip(), text, 8)
    assert "`" not in str(error.value)


def test_a_text_without_frames_is_that_of_all() -> None:
    assert read_travel("a fox\nin the snow").texts == {0: "a fox, in the snow"}
    assert read_travel('"0" :"a, b",\n"8" :"c \\"d\\""\n').texts == {0: "a, b", 8: 'c "d"'}
    assert read_travel('{"0": "a", "8": "b"}').texts == {0: "a", 8: "b"}
