"""`comfy.context_windows`: windows over the frames of a clip, predicted by themselves and blended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


class ContextSchedules:
    UNIFORM_LOOPED = "looped_uniform"
    UNIFORM_STANDARD = "standard_uniform"
    STATIC_STANDARD = "standard_static"
    BATCHED = "batched"


class ContextFuseMethods:
    PYRAMID = "pyramid"
    FLAT = "flat"
    LIST_STATIC = (PYRAMID, FLAT)


def get_matching_context_schedule(name: str) -> Any:
    return SimpleNamespace(name=name, func=_beyond_the_end)


def _beyond_the_end(num_frames: int, handler: Any, options: dict[str, Any]) -> list[list[int]]:
    """As the host's uniform windows with a stride: one goes beyond the clip, and frames have none."""
    return [list(range(start, start + handler.context_length)) for start in (0, num_frames - 3)]


def get_matching_fuse_method(name: str) -> Any:
    return SimpleNamespace(name=name)


class Window:
    def __init__(self, index_list: list[int]) -> None:
        self.index_list = index_list

    def get_tensor(self, full: Tensor) -> Tensor:
        return full[self.index_list]


class IndexListContextHandler:
    def __init__(
        self, context_schedule: Any, fuse_method: Any, context_length: int, context_overlap: int, **facts: Any
    ) -> None:
        self.context_schedule, self.fuse_method = context_schedule, fuse_method
        self.context_length, self.context_overlap = context_length, context_overlap
        self.freenoise = facts["freenoise"]
        assert facts["dim"] == 0, "frames are the batch"
        assert not facts["causal_window_fix"], "no frame in front of a window"

    def should_use_context(self, x: Tensor) -> bool:
        return len(x) > self.context_length

    def windows(self, total: int) -> list[Window]:
        assert self.context_schedule.name == ContextSchedules.STATIC_STANDARD, "the stub has this schedule alone"
        length, starts = self.context_length, [0]
        while starts[-1] + length < total:
            starts.append(min(starts[-1] + length - self.context_overlap, total - length))
        return [Window(list(range(start, start + length))) for start in starts]

    def execute(
        self, calc: Any, model: Any, conds: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]
    ) -> list[Tensor]:
        total = [torch.zeros_like(x) for _ in conds]
        weights = torch.zeros(len(x), 1, 1, 1)
        length = self.context_length
        share = torch.tensor([min(place, length - 1 - place) + 1.0 for place in range(length)])[:, None, None, None]
        if self.fuse_method.name == ContextFuseMethods.FLAT:
            share = torch.ones_like(share)
        for window in self.windows(len(x)):
            options["transformer_options"]["context_window"] = window
            part = [[self._sliced(cond, window, len(x)) for cond in several] for several in conds]
            found = calc(model, part, window.get_tensor(x), window.get_tensor(sigma), options)
            for whole, one in zip(total, found, strict=True):
                whole[window.index_list] += one * share
            weights[window.index_list] += share
        return [whole / weights for whole in total]

    def _sliced(self, cond: dict[str, Any], window: Window, total: int) -> dict[str, Any]:
        whole = {key: value for key, value in cond.items() if isinstance(value, Tensor) and len(value) == total}
        return {**cond, **{key: window.get_tensor(value) for key, value in whole.items()}}


def create_prepare_sampling_wrapper(model: Any) -> None:
    """Real hosts count the memory of one window."""


def create_sampler_sample_wrapper(model: Any) -> None:
    """Real hosts shuffle the noise."""
