"""What a call of the pipeline may ask for; everything is checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from animatediff.errors import UserError
from animatediff.pipelines.vae import OUTPUT_TYPES
from animatediff.prompts import PromptTravel


def as_list(value: str | Sequence[str]) -> list[str]:
    """One string or several, as a list."""
    return [value] if isinstance(value, str) else list(value)


def travelling(prompt: Any) -> list[str | PromptTravel]:
    """One prompt or several as a list, with mappings of frames to texts as what they mean.

    Raises UserError for what is no prompt.
    """
    listed = [prompt] if isinstance(prompt, (str, Mapping, PromptTravel)) else list(prompt)
    for one in listed:
        if not isinstance(one, (str, Mapping, PromptTravel)):
            raise UserError(f"a prompt is a text, or a mapping of frames to texts; got {one!r}")
    return [PromptTravel(one) if isinstance(one, Mapping) else one for one in listed]


def check_call(
    prompts: Sequence[str | PromptTravel],
    negatives: list[str] | None,
    num_frames: int,
    height: int,
    width: int,
    num_inference_steps: int,
    decode_chunk_size: int,
    output_type: str,
) -> None:
    """Raise UserError for the first value that is out of range."""
    if not prompts:
        raise UserError("there is no prompt: give a text, or a list of at least one")
    if negatives is not None and len(negatives) not in (1, len(prompts)):
        raise UserError(f"{len(prompts)} prompts want 1 or {len(prompts)} negative prompts, got {len(negatives)}")
    for name, value in (
        ("num_frames", num_frames),
        ("num_inference_steps", num_inference_steps),
        ("decode_chunk_size", decode_chunk_size),
    ):
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    for name, value in (("height", height), ("width", width)):
        if value < 8 or value % 8:
            near = max(8, round(value / 8) * 8)
            raise UserError(f"{name} must be a positive multiple of 8 pixels, got {value}; {near} is near")
    for prompt in prompts:
        if isinstance(prompt, PromptTravel):
            prompt.check(num_frames)
    check_output(output_type)


def check_output(output_type: str) -> None:
    """Raise UserError for an output type that is not known."""
    if output_type not in OUTPUT_TYPES:
        raise UserError(f"unknown output_type {output_type!r}; known are {', '.join(OUTPUT_TYPES)}")


def check_clip_skip(clip_skip: int | None, text_encoders: Sequence[Any], *, last: int) -> None:
    """Raise UserError unless the text encoders have more layers than are passed over.

    last: layers that are passed over anyway (SDXL reads the last but one, SD 1.x the last).
    """
    most = min(encoder.config.num_hidden_layers for encoder in text_encoders) - 1 - last
    if clip_skip is not None and not 0 <= clip_skip <= most:
        raise UserError(f"clip_skip must be 0 to {most} with the text encoder of this model, got {clip_skip}")


def check_window(
    window: int | None, overlap: int | None, num_frames: int, default_window: int, max_positions: int
) -> tuple[int, int]:
    """Length and overlap of the windows of a clip; one window where the motion module knows enough positions.

    Raises UserError for a window beyond the trained positions, and for an overlap that is not smaller than the window.
    """
    if window is None:
        window = num_frames if num_frames <= max_positions else min(default_window, max_positions)
    if not 1 <= window <= max_positions:
        raise UserError(f"window must be 1 to {max_positions} frames with this motion module, got {window}")
    if overlap is None:
        overlap = window // 4
    if not 0 <= overlap < window:
        raise UserError(f"overlap must be at least 0 and less than the window of {window} frames, got {overlap}")
    return window, overlap
