"""Prompt travel in the host's own prompt embeddings: those of two texts blended, frame by frame.

A host keeps, for each image of a batch, a schedule `[(end_at_step, cond)]` of its negative prompt, and of its prompt
one for each part between AND, with a weight. A `cond` is a tensor (n, d), of SDXL a mapping of tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from animatediff.errors import UserError


def blend_negative(first: Sequence[Any], second: Sequence[Any], shares: Sequence[float], empty: Any) -> list[Any]:
    """Schedules of each frame: (1 - share) of `first` and share of `second`. New objects: hosts cache the given ones.

    empty: the host's prompt embeddings (1, 77, d) of an empty prompt, that shorter ones are filled up with.
    """
    blended = [_blend(a, b, share, empty) for a, b, share in zip(first, second, shares, strict=True)]
    return _alike(blended, empty)


def blend_prompts(first: Any, second: Any, shares: Sequence[float], empty: Any) -> Any:
    """The same for prompts, in the host's object for them. Raises UserError for parts between AND (`one_part`)."""
    one_part(first)
    one_part(second)
    before, after = ([parts[0].schedules for parts in prompts.batch] for prompts in (first, second))
    schedules = blend_negative(before, after, shares, empty)
    batch = [
        [type(parts[0])(schedule, parts[0].weight)] for parts, schedule in zip(first.batch, schedules, strict=True)
    ]
    return type(first)(shape=first.shape, batch=batch)


def one_part(prompts: Any) -> None:
    """Raise UserError for a prompt in parts: those of all frames would be mixed in one batch."""
    if any(len(parts) > 1 for parts in prompts.batch):
        raise UserError("prompts with AND are not sampled as a clip; write the parts as one prompt")


def _blend(first: Sequence[Any], second: Sequence[Any], share: float, empty: Any) -> list[Any]:
    """One schedule of two, with all the steps at which one of them changes."""
    if share == 0:
        return list(first)
    ends = sorted({entry.end_at_step for entry in (*first, *second)})
    return [
        first[0]._replace(end_at_step=end, cond=_mixed(_at(first, end).cond, _at(second, end).cond, share, empty))
        for end in ends
    ]


def _at(schedule: Sequence[Any], step: int) -> Any:
    return next((entry for entry in schedule if step <= entry.end_at_step), schedule[-1])


def _mixed(first: Any, second: Any, share: float, empty: Any) -> Any:
    if isinstance(first, dict):
        return {name: _mixed(first[name], second[name], share, empty) for name in first}
    if first.ndim == 2:
        length = max(len(first), len(second))
        first, second = _filled(first, length, empty), _filled(second, length, empty)
    return torch.lerp(first.float(), second.float(), share).to(first.dtype)


def _filled(cond: Tensor, length: int, empty: Any) -> Tensor:
    missing = length - len(cond)
    if missing <= 0:
        return cond
    one = empty[0].to(cond)
    return torch.cat([cond, *[one] * (missing // len(one))])


def _alike(schedules: list[list[Any]], empty: Any) -> list[list[Any]]:
    """All frames with as many tokens, for a host fills shorter ones with copies of their last."""

    def tokens(cond: Any) -> Tensor:
        return cond["crossattn"] if isinstance(cond, dict) else cond

    length = max(len(tokens(entry.cond)) for schedule in schedules for entry in schedule)

    def filled(cond: Any) -> Any:
        if isinstance(cond, dict):
            return {**cond, "crossattn": _filled(cond["crossattn"], length, empty)}
        return _filled(cond, length, empty)

    return [[entry._replace(cond=filled(entry.cond)) for entry in schedule] for schedule in schedules]
