"""Finishing of rendered frames on their way into a file: enlarged by an upscaler, brought to another rate."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from animatediff.errors import UserError, unknown
from animatediff.files import HERE, Roots, find
from animatediff.limits import MAX_CLIP_PIXELS, MAX_FRAMES, MAX_PIXELS
from animatediff.media.formats import frame_rate, num_frames_at
from animatediff.media.upscale import PUBLISHED, Upscaler, check_published, published_upscaler
from animatediff.render.events import Reporter, noted
from animatediff.render.options import AnimateOptions
from animatediff.render.request import AnimateRequest

FOLDER = "upscale_models"
"""Folder under `models/`."""
OnFrame = Callable[[int, int], None]
"""(frames finished, of how many)."""


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What is done with the frames of a clip once they are there."""

    upscaler: str | None = None
    """A name in `media.upscale.PUBLISHED`, or a weight file."""
    fps_out: float | None = None
    device: str | None = None
    """Of an upscaler in a weight file; None is the best there is."""

    def __bool__(self) -> bool:
        return self.upscaler is not None or self.fps_out is not None

    def check(self, roots: Roots = HERE) -> None:
        """Raise UserError for an upscaler that is not here, or not to be run here, and without OpenCV for rates."""
        if self.fps_out is not None:
            from animatediff.media.flow import opencv

            frame_rate(self.fps_out, "fps_out")
            opencv("interpolation (`fps_out`)", "media")
        if self.upscaler in PUBLISHED:
            check_published(self.upscaler)
        elif self.upscaler is not None:
            from animatediff.weights.addons.upscaler import check_upscaler

            check_upscaler(upscaler_file(self.upscaler, roots))

    def load(self, roots: Roots = HERE) -> Upscaler | None:
        """Load the upscaler, if there is one. Raises UserError as `check`."""
        if self.upscaler is None:
            return None
        if self.upscaler in PUBLISHED:
            return published_upscaler(self.upscaler)
        from animatediff.weights.addons.upscaler import load_upscaler

        return load_upscaler(upscaler_file(self.upscaler, roots), device=self.device or _device())

    def rate(self, fps: float | Fraction) -> Fraction:
        """Frames per second of the result, for those of the clip."""
        return frame_rate(fps if self.fps_out is None else self.fps_out)


def upscaler_file(name: str, roots: Roots = HERE) -> Path:
    """The weight file that `name` means: itself, or one in models/upscale_models. Raises UserError if there is none."""
    found = Path(find(name, (), FOLDER, roots))
    if found.is_file():
        return found
    if found.is_dir():
        raise UserError(f"{found}: is a folder, expected the weight file of an upscaler")
    if found.suffix.lower() in (".pth", ".pt", ".ckpt", ".safetensors") or found.name != name:
        raise UserError(f"{name}: no such file, nor one of this name in models/{FOLDER}")
    raise unknown("upscaler", name, PUBLISHED)


def finish_of(request: AnimateOptions) -> Finish:
    """What a request asks for."""
    return Finish(upscaler=request.upscaler, fps_out=request.fps_out, device=request.device)


@dataclass(frozen=True)
class Finishing:
    """The finish of the clips of a request, ready to be made."""

    request: AnimateRequest
    """With every value filled in."""
    finish: Finish
    upscaler: Upscaler | None

    @classmethod
    def of(cls, request: AnimateRequest, roots: Roots) -> Finishing:
        """Load the upscaler of a request. Raises UserError where it cannot be, and beyond the limits."""
        finish = finish_of(request)
        upscaler = finish.load(roots)
        assert request.num_frames and request.width and request.height and request.fps, "filled in"
        size = request.larger_size(request.width, request.height)
        if finish:
            check_finished(request.num_frames, size, request.fps, finish, 1 if upscaler is None else upscaler.scale)
        return cls(request, finish, upscaler)

    def frames(self, chunks: Generator[np.ndarray], reporter: Reporter) -> Generator[np.ndarray]:
        """The chunks of a clip, uint8 (n, h, w, 3), as they are, or finished, one frame a chunk."""
        if not self.finish:
            return chunks
        return self._finished(chunks, reporter)

    def _finished(self, chunks: Generator[np.ndarray], reporter: Reporter) -> Generator[np.ndarray]:
        request = self.request
        frames = finished(
            (frame for chunk in chunks for frame in chunk),
            self.finish,
            self.upscaler,
            num_frames=request.num_frames or 1,
            fps=request.fps or 1,
            closed_loop=request.closed_loop,
            on_frame=reporter.on("finish"),
        )
        with closing(chunks):
            while True:
                with noted(reporter):
                    if (frame := next(frames, None)) is None:
                        return
                yield frame[None]


def check_finished(num_frames: int, size: tuple[int, int], fps: float | Fraction, finish: Finish, scale: int) -> int:
    """Number of frames of the result. Raises UserError beyond the limits. size: (width, height) of the clip."""
    width, height = size[0] * scale, size[1] * scale
    count = num_frames if finish.fps_out is None else num_frames_at(num_frames, finish.rate(fps) / frame_rate(fps))
    MAX_FRAMES.check(count, f"would have {count:,} frames at {float(finish.rate(fps)):g} a second (`fps_out`)")
    MAX_PIXELS.check(width * height, f"frames of {width} x {height} = {width * height:,} pixels (`upscaler`)")
    pixels = count * width * height
    MAX_CLIP_PIXELS.check(pixels, f"{count:,} frames of {width} x {height} = {pixels:,} pixels")
    return count


def finished(
    frames: Iterable[np.ndarray],
    finish: Finish,
    upscaler: Upscaler | None,
    *,
    num_frames: int,
    fps: float | Fraction,
    closed_loop: bool = False,
    on_frame: OnFrame = lambda done, total: None,
) -> Generator[np.ndarray]:
    """The frames of a clip, uint8 (h, w, 3) or (h, w, 4), finished one after another as they are taken.

    First each is enlarged, then those in between are made: these cost less than enlarging them would. upscaler: as
    `finish.load` returns it; on_frame: called after each frame of the slower of the two, may raise to end.
    """
    total = check_finished(num_frames, (0, 0), fps, finish, 1)
    shown: Iterator[np.ndarray] = iter(frames)
    if upscaler is not None:
        shown = _counted((upscaler(frame) for frame in shown), num_frames, on_frame)
    if finish.fps_out is not None:
        from animatediff.media.interpolate import interpolated

        shown = interpolated(shown, fps, finish.fps_out, num_frames=num_frames, closed_loop=closed_loop)
        if upscaler is None:
            shown = _counted(shown, total, on_frame)
    yield from shown


def _counted(frames: Iterator[np.ndarray], total: int, on_frame: OnFrame) -> Iterator[np.ndarray]:
    for done, frame in enumerate(frames, start=1):
        on_frame(done, max(done, total))
        yield frame


def _device() -> str:
    from animatediff.pipelines.precision import default_device

    return str(default_device())
