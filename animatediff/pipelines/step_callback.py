"""The callback after each step: the tensors that it asks for, and those that it changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError, unknown
from animatediff.sampling.conditions import Conditioning, EachFrame, per_frame


def check_tensor_inputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError for a tensor that no callback can ask for."""
    for name in names:
        if name not in known:
            raise unknown("callback_on_step_end_tensor_inputs", name, known)


@dataclass(kw_only=True)
class StepCallback:
    """Calls `callback_on_step_end` as diffusers does.

    `prompt_embeds` are those of each frame, (r*f, n, d), the negative ones first; they may come back without these,
    for steps without guidance. What is given back, or changed in place, holds from the next step on.
    """

    pipe: Any
    function: Callable[..., Any]
    names: Sequence[str]
    groups: Sequence[Conditioning]
    num_frames: int
    _given: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if len(self.groups) > 1 and set(self.names) - {"latents"}:
            raise UserError(
                "clips whose prompts have different lengths have no common `prompt_embeds` for a callback; call once "
                "for each, or ask for `latents` alone in `callback_on_step_end_tensor_inputs`"
            )

    def __call__(self, index: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Latents to go on with."""
        offered = {name: latents if name == "latents" else self._tensor(name) for name in self.names}
        before = {name: offered[name].clone() for name in offered if name.startswith("negative")}
        changed = self.function(self.pipe, index, timestep, dict(offered))
        if changed is None:
            changed = {}
        if not hasattr(changed, "items"):
            raise UserError(f"`callback_on_step_end` returns a dictionary of tensors or None, got {changed!r:.60}")
        for name in sorted(changed, key=lambda name: name != "prompt_embeds"):  # whose rows decide the others'
            value = changed[name]
            if name not in offered:
                raise UserError(
                    f"`callback_on_step_end` returned {name!r}, which it was not given; name it in "
                    "`callback_on_step_end_tensor_inputs`"
                )
            if not isinstance(value, Tensor):
                raise UserError(f"`callback_on_step_end` returned {value!r:.60} as {name}, which is a tensor")
            own = not _same(value, before[name]) if name in before else value is not offered[name]
            if name != "latents" and own:  # what is changed in place is changed already
                self._set(name, value)
        found = changed.get("latents", latents)
        if found.shape != latents.shape:
            raise UserError(f"latents of a callback are {tuple(latents.shape)}, got {tuple(found.shape)}")
        return found

    def _tensor(self, name: str) -> Tensor:
        group = self.groups[0]
        if name == "prompt_embeds":
            group.embeddings = self._each_frame(group)
            return group.embeddings.states.flatten(0, 1)
        if name == "negative_prompt_embeds":
            return per_frame(group.embeddings, [0])[: group.num_negative]
        if name == "add_text_embeds":
            group.pooled = per_frame(group.pooled, [0]) if callable(group.pooled) else group.pooled
            return _there(group.pooled)
        pooled = _there(group.time_ids if name.endswith("time_ids") else group.pooled)
        return pooled if name == "add_time_ids" else _there(pooled)[: group.num_negative]

    def _set(self, name: str, value: Tensor) -> None:
        group = self.groups[0]
        if name == "prompt_embeds":
            self._set_prompts(group, value)
        elif name == "negative_prompt_embeds":
            states = self._each_frame(group).states.clone()
            states[: group.num_negative] = _fitting(value, states[: group.num_negative, 0], name)[:, None]
            group.embeddings = EachFrame(states)
        elif name == "add_text_embeds":
            group.pooled = _fitting(value, _there(group.pooled), name, or_rows=len(group.clips) - group.num_negative)
        elif name == "add_time_ids":
            group.time_ids = _fitting(
                value, _there(group.time_ids), name, or_rows=len(group.clips) - group.num_negative
            )
        else:
            whole = _there(group.time_ids if name.endswith("time_ids") else group.pooled).clone()
            whole[: group.num_negative] = _fitting(value, whole[: group.num_negative], name)
            if name.endswith("time_ids"):
                group.time_ids = whole
            else:
                group.pooled = whole

    def _set_prompts(self, group: Conditioning, value: Tensor) -> None:
        rows, clips = len(group.clips), len(group.clips) - group.num_negative
        if value.ndim != 3 or len(value) not in (rows * self.num_frames, clips * self.num_frames):
            raise UserError(
                f"`prompt_embeds` of a callback are ({rows * self.num_frames}, n, d), or without negative ones "
                f"({clips * self.num_frames}, n, d), got {tuple(value.shape)}"
            )
        states = value.unflatten(0, (-1, self.num_frames))
        if len(states) == clips < rows:  # guidance is off from here on
            kept = group.of(range(group.num_negative, rows))
            for name, part in vars(kept).items():
                setattr(group, name, part)
        group.embeddings = EachFrame(states)

    def _each_frame(self, group: Conditioning) -> EachFrame:
        if isinstance(group.embeddings, EachFrame):
            return group.embeddings
        states = per_frame(group.embeddings, range(self.num_frames))
        return EachFrame(states.unflatten(0, (-1, self.num_frames)))


def _there(given: Any) -> Tensor:
    if not isinstance(given, Tensor):
        raise UserError("prompts that travel have no single pooled embeddings for a callback; ask for `prompt_embeds`")
    return given


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def _fitting(value: Tensor, like: Tensor, name: str, or_rows: int | None = None) -> Tensor:
    if value.shape[1:] != like.shape[1:] or len(value) not in (len(like), or_rows):
        raise UserError(f"{name} of a callback is {tuple(like.shape)}, got {tuple(value.shape)}")
    return value
