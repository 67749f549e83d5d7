"""FreeInit (arXiv 2312.07537): sample again from noise whose slow parts come from the clip sampled before.

Trained models meet noise at the last step that still holds a trace of the clip, sampling starts from noise that holds
none. The gap is in the low frequencies, over space and over frames; so these are taken from the clip itself, put back
under its first noise, and the high frequencies are drawn anew.

Filters are those of the authors' code (github.com/TianxingWu/FreeInit, `freeinit_utils.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from animatediff.errors import UserError, unknown

FILTERS = ("butterworth", "gaussian", "ideal", "box")
BUTTERWORTH_ORDER = 4


@dataclass(frozen=True, kw_only=True)
class FreeInit:
    """Settings of FreeInit: number of iterations, and the filter between them. Raises UserError if out of range."""

    iterations: int = 3
    """Times that the clip is sampled; 1 is once, as without FreeInit."""
    filter: str = "butterworth"
    order: int = BUTTERWORTH_ORDER
    """Of the Butterworth filter: the higher, the sharper."""
    spatial_stop: float = 0.25
    """Share of the frequencies along height and width that count as low, above 0, at most 1."""
    temporal_stop: float = 0.25
    """The same over frames."""
    fast: bool = False
    """Fewer steps in the iterations before the last (coarse to fine, section 4.3 of the paper)."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise UserError(f"freeinit={self.iterations}: a clip is sampled at least once, with FreeInit 2 to 5 times")
        if self.filter not in FILTERS:
            raise unknown("freeinit_filter", self.filter, FILTERS)
        for name, stop in (("freeinit_ds", self.spatial_stop), ("freeinit_dt", self.temporal_stop)):
            if not 0 < stop <= 1:
                raise UserError(f"{name}={stop}: expected a share of the frequencies, above 0 and at most 1")

    def low_pass(self, num_frames: int, height: int, width: int) -> Tensor:
        """Transfer function of the low-pass filter, (f, h, w) in 0..1, in the order of `torch.fft`."""
        shape = (num_frames, height, width)
        passes = self._box(shape) if self.filter == "box" else self._round(shape)
        # of noise passed through it the real part is taken: that of an even filter, which keeps it real
        mirrored = passes.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
        return (passes + mirrored) / 2

    def _round(self, shape: tuple[int, int, int]) -> Tensor:
        """By the distance of a frequency from zero, in units of the highest there is."""
        # over frames stretched so that one stop is right for all axes; of odd sizes no frequency counts as zero
        along = [torch.fft.ifftshift(2 * torch.arange(n) / n - 1) for n in shape]
        f, h, w = torch.meshgrid(*along, indexing="ij")
        square = (f * (self.spatial_stop / self.temporal_stop)) ** 2 + h**2 + w**2
        if self.filter == "ideal":
            return (square <= 2 * self.spatial_stop).float()
        square = square / self.spatial_stop**2
        return 1 / (1 + square**self.order) if self.filter == "butterworth" else torch.exp(-square / 2)

    def _box(self, shape: tuple[int, int, int]) -> Tensor:
        """A share of the frequencies along each axis; along width as many as along height."""
        num_frames, height, _ = shape
        over_frames = round(num_frames // 2 * self.temporal_stop)
        over_space = round(height // 2 * self.spatial_stop)
        reach = zip(shape, (over_frames, over_space, over_space), strict=True)
        f, h, w = (slice(max(0, n // 2 - stop), n // 2 + stop) for n, stop in reach)
        passes = torch.zeros(shape)
        passes[f, h, w] = 1
        return torch.fft.ifftshift(passes)

    def steps(self, num_steps: int, iteration: int) -> int:
        """Steps of the schedule of one iteration, from 0.

        >>> [FreeInit(iterations=3, fast=True).steps(25, iteration) for iteration in range(3)]
        [8, 16, 25]
        """
        return max(1, int(num_steps / self.iterations * (iteration + 1))) if self.fast else num_steps


def free_init(
    sample: Callable[[int, Tensor], Tensor],
    noise: Tensor,
    *,
    settings: FreeInit,
    draw: Callable[[], Tensor],
    alpha_cumprod: float,
    stopped: Callable[[], bool] = lambda: False,
    first: tuple[int, Tensor] | None = None,
) -> Tensor:
    """Clean latents of the last time that the clip is sampled.

    sample: (which time, from 0; noise (b, c, f, h, w)) -> clean latents of that shape. draw: new noise. alpha_cumprod:
    share of signal at the last noise level of training. stopped: whether no more is to be sampled. first: the time to
    go on with and its noise, where earlier ones are done.
    """
    passes = settings.low_pass(*noise.shape[2:])
    begun, clean = (0, sample(0, noise)) if first is None else (first[0], sample(*first))
    for iteration in range(begun + 1, settings.iterations):
        if stopped():
            break
        noised = alpha_cumprod**0.5 * clean.float().cpu() + (1 - alpha_cumprod) ** 0.5 * noise.float().cpu()
        clean = sample(iteration, mix(noised, draw(), passes))
    return clean


def mix(low: Tensor, high: Tensor, passes: Tensor) -> Tensor:
    """The low frequencies of one and the high frequencies of the other (b, c, f, h, w), by what passes (f, h, w)."""
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(low, dim=axes) * passes + torch.fft.fftn(high, dim=axes) * (1 - passes)
    return torch.fft.ifftn(spectrum, dim=axes).real.contiguous()
