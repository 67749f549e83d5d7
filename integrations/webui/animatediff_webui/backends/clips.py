"""Clips through the UNet of a host: motion modules called by hooks, windows as calls of their own, all of it undone.

Hosts call their UNet with a batch of images, those of a clip after each other: one clip, or two and more where the
positive and the negative prompts go together. Here such a batch is a batch of clips.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, Window
from animatediff.motion.ldm import attach_ldm, detach_ldm, refuse_images
from animatediff.sampling.chunks import forwards_replaced
from animatediff_webui import host
from animatediff_webui.job import Job


@contextmanager
def clips_through(unet: nn.Module, job: Job, dtype: torch.dtype) -> Iterator[None]:
    """Inside, `unet` calls the motion modules of `job`, and gets the windows of its clip one after the other.

    dtype: in which the UNet computes, so that its feature maps have it. Left by whatever way, the UNet calls what it
    called before, and the modules are on the CPU. Raises UserError for modules that do not fit this UNet.
    """
    unet = getattr(unet, "_orig_mod", unet)  # what torch.compile keeps inside
    adapter = job.adapter.to(dtype)
    try:
        refuse_images(adapter)
        attach_ldm(unet, adapter)
    except ValueError as error:
        raise UserError(f"{job.model_path}: {error}") from error
    with ExitStack() as undo:
        undo.callback(adapter.to, "cpu")
        undo.callback(detach_ldm, unet)
        calls = ClipCalls(unet.forward, adapter, job.num_frames, job.windows, host.stop_if_interrupted)
        undo.enter_context(forwards_replaced([(unet, _named_as(calls))]))  # of this object, never of its class
        yield


class ClipCalls:
    """Stands in front of a UNet's `forward`: the same arguments, images of whole clips in all that have rows."""

    def __init__(
        self,
        forward: Callable[..., Tensor],
        adapter: MotionAdapter,
        num_frames: int,
        windows: Sequence[Window] = (),
        before_window: Callable[[], None] = lambda: None,
    ) -> None:
        self.forward = forward
        self.adapter = adapter
        self.num_frames = num_frames
        self.windows = windows
        self.before_window = before_window

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """x: (r*f, c, h, w) with r clips of all frames -> the prediction, likewise."""
        rows = len(x)
        self._check(rows, kwargs.get("transformer_options"))
        if any(weight.device != x.device for weight in self.adapter.parameters()):
            self.adapter.to(x.device)  # hosts that are short of memory move models as they like
        if len(self.windows) < 2:
            with self.adapter.frames.during(self.num_frames):
                return self.forward(x, *args, **kwargs)
        total, out = None, x
        for window in self.windows:
            self.before_window()
            cut = Cut(window, rows=rows, num_frames=self.num_frames)
            given = {name: cut.options(value) if name == "transformer_options" else cut(value)
                     for name, value in kwargs.items()}  # fmt: skip
            with self.adapter.frames.during(len(window.frames)):
                out = self.forward(cut(x), *map(cut, args), **given)
            total = torch.zeros((rows, *out.shape[1:]), device=out.device) if total is None else total
            share = window.share.to(out.device).repeat(rows // self.num_frames)[:, None, None, None]
            total.index_add_(0, cut.index(out.device), out.float() * share)
        assert total is not None
        return total.to(out.dtype)

    def _check(self, rows: int, options: Any) -> None:
        """Raise UserError unless the batch is whole clips, as many as there are conditionings in it."""
        parts = options.get("cond_or_uncond") if isinstance(options, dict) else None
        clips = len(parts) if parts else rows // self.num_frames
        if clips < 1 or rows != clips * self.num_frames:
            raise UserError(
                f"the UNet got {rows} images at once, which are no clips of {self.num_frames} frames; switch off what "
                "cuts batches or images into parts (tiled diffusion), as the motion module needs all frames at once"
            )


class Cut:
    """The part of a call's arguments that belongs to the frames of one window, in each of the batch's clips."""

    def __init__(self, window: Window, *, rows: int, num_frames: int) -> None:
        self.rows = rows
        self.num_frames = num_frames
        self.frames = window.frames
        self.places = [clip * num_frames + frame for clip in range(rows // num_frames) for frame in window.frames]

    def index(self, device: torch.device) -> Tensor:
        """Rows of the batch, in the order of the window."""
        return torch.tensor(self.places, device=device)

    def __call__(self, value: Any) -> Any:
        """A tensor's rows, in lists and mappings too; what has other numbers of rows stays as it is."""
        if isinstance(value, Tensor):
            is_rows = value.ndim > 0 and len(value) == self.rows
            return value.index_select(0, self.index(value.device)) if is_rows else value
        if isinstance(value, list | tuple):
            return type(value)([self(part) for part in value])
        return {name: self(part) for name, part in value.items()} if isinstance(value, dict) else value

    def options(self, given: Any) -> Any:
        """Options of the host's transformers: what counts rows or frames in them is cut, patches stay."""
        if not isinstance(given, dict):
            return given
        own = dict(given)
        sigmas, parts = own.get("sigmas"), own.get("cond_or_uncond")
        if isinstance(sigmas, Tensor) and len(sigmas) == self.num_frames:
            own["sigmas"] = sigmas[list(self.frames)]
        if isinstance(own.get("cond_mark"), Tensor):
            own["cond_mark"] = self(own["cond_mark"])
        if parts and "cond_indices" in own:
            size = len(self.frames)
            for name, positive in (("cond_indices", True), ("uncond_indices", False)):
                clips = [clip for clip, part in enumerate(parts) if (part == 0) is positive]
                own[name] = [clip * size + row for clip in clips for row in range(size)]
        return own


def _named_as(calls: ClipCalls) -> Callable[..., Tensor]:
    """`calls` as a function whose parameters are those of the `forward` it stands in front of; hosts look at them."""

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        return calls(*args, **kwargs)

    forward.__signature__ = inspect.signature(calls.forward)  # pyright: ignore[reportFunctionMemberAccess]
    return forward
