"""What a stream takes: arguments and samplers that go with a queue of frames at different steps (`sampling.fifo`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.prompts import PromptTravel
from animatediff.sampling.fifo import ONE_STEP

_OFF: dict[str, Any] = {
    "closed_loop": False, "stride": 1, "noise": "default", "freeinit": 1, "fast": "off",
    "enforce_inference_steps": False,
}  # fmt: skip
REFUSED = (
    "video", "images", "motion_from", "conditioning_frames", "controlnet_inputs", "latents", "timesteps", "sigmas",
    "denoising_end", "upscale", "resume", "callback_on_step_end", *_OFF,
)  # fmt: skip
"""Arguments about a clip as a whole, whose frames are all at one step."""


def check_stream(call: Arguments, scheduler: Any, *, endless: bool) -> None:
    """Raise UserError, once for all, for arguments and samplers that do not go with a queue."""
    given = [name for name in REFUSED if getattr(call, name) not in _off(name)]
    given += ["camera"] if endless and call.camera is not None else []
    if given:
        names, them = " and ".join(f"`{name}`" for name in given), "it" if len(given) == 1 else "them"
        raise UserError(
            f"{names}: not with `long_mode` fifo, whose frames are made one after the other and each at another step; "
            f"leave {them} out, or take `long_mode` unet"
        )
    name = type(scheduler).__name__
    if name not in ONE_STEP:
        raise UserError(
            f"{name} keeps its predictions of earlier steps for all frames together, and with `long_mode` fifo each "
            f"frame is at another step; choose another `scheduler`: {', '.join(ONE_STEP.values())}"
        )


def without_end(call: Arguments, num_frames: int) -> Arguments:
    """The arguments of a call without end: its frames behind the last that a prompt or a curve names are like that one.

    num_frames: so many at least. Raises UserError for frames that are counted from the end.
    """
    frames = [frame for prompt in _prompts(call) for frame in _frames_of(prompt)]
    scale: Any = call.motion_scale
    if isinstance(scale, Mapping):
        if min(scale, default=0) < 0:
            raise UserError(f"motion_scale: frame {min(scale)} counts from the end, and this stream has none")
        frames += list(scale)
    elif isinstance(scale, Sequence):
        raise UserError("motion_scale: one value a frame, but this stream has no last frame; give frames and values")
    return replace(call, num_frames=max(num_frames, *(frame + 1 for frame in frames), 1))


def _off(name: str) -> tuple[Any, ...]:
    return (None, _OFF[name]) if name in _OFF else (None,)


def _prompts(call: Arguments) -> list[Any]:
    given: Any = call.prompt
    return list(given) if isinstance(given, list | tuple) else [given]


def _frames_of(prompt: Any) -> list[int]:
    if isinstance(prompt, PromptTravel):
        if prompt.loop:
            raise UserError("a prompt that loops goes back to its first text at the end, and this stream has none")
        return list(prompt.texts)
    return list(PromptTravel(prompt).texts) if isinstance(prompt, Mapping) else []
