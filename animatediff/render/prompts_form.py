"""Prompts over time in settings: a mapping in place of a prompt, or beside it, becomes one form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from animatediff.errors import UserError
from animatediff.prompts.travel import texts_at


def normal_prompts(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with what is shown at frame 0 as `prompt`, and with the later texts as `prompt_travel`.

    Taken are mappings of frames to texts as a prompt, as entries of a list of prompts, and as `prompt_travel`, with or
    without a prompt for frame 0. Raises UserError for a frame that gets two texts, and as `texts_at`.
    """
    values = dict(values)
    prompts, travels = values.get("prompt"), values.get("prompt_travel")
    listed = list(prompts) if isinstance(prompts, (list, tuple)) else [prompts]
    if any(isinstance(prompt, Mapping) for prompt in listed):
        if travels:
            raise UserError("prompt holds texts at frames, and so does prompt_travel; give one of them")
        travels = [prompt if isinstance(prompt, Mapping) else {} for prompt in listed]
        listed = [None if isinstance(prompt, Mapping) else prompt for prompt in listed]
    if not travels:
        values.pop("prompt_travel", None)
        return values
    travels = [travels] if isinstance(travels, Mapping) else travels
    if not isinstance(travels, (list, tuple)) or not all(isinstance(travel, Mapping) for travel in travels):
        raise UserError(f'prompt_travel={travels!r}: expected texts at frames, as in {{12: "summer", 24: "autumn"}}')
    texts = [texts_at(travel) for travel in travels]
    if len(listed) == 1 and len(texts) > 1:
        listed = listed * len(texts)
    if len(texts) not in (1, len(listed)):
        raise UserError(f"{len(listed)} prompts want 1 or {len(listed)} mappings in prompt_travel, got {len(texts)}")
    starts = []
    for index, prompt in enumerate(listed):
        travel = texts[index % len(texts)]
        if prompt is None:
            if not travel:
                raise UserError("prompt_travel has no text for any frame, and there is no prompt")
            prompt = travel[min(travel)]
        elif travel.get(0, prompt) != prompt:
            raise UserError(
                f"frame 0 has two texts, the prompt {prompt!r} and {travel[0]!r} of prompt_travel; keep one of them"
            )
        starts.append(prompt)
    later = [{frame: text for frame, text in sorted(travel.items()) if frame} for travel in texts]
    values.pop("prompt_travel", None)
    values["prompt"] = starts
    if any(later):
        values["prompt_travel"] = later
    return values
