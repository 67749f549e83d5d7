"""FreeInit (arXiv 2312.07537): sample again from noise whose slow parts come from the clip sampled before.

Trained models meet noise at the last step that still holds a trace of the clip, sampling starts from noise that holds
none. The gap is in the low frequencies, over space and over frames; so these are taken from the clip itself, put back
under its first noise, and the high frequencies are drawn anew.
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
    spatial_stop: float = 0.25
    """Share of the frequencies along height and width that count as low, above 0, at most 1."""
    temporal_stop: float = 0.25
    """The same over frames."""

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
        # frequencies in units of the highest there is; over frames stretched so that one stop is right for all axes
        along = [2 * torch.fft.fftfreq(n) for n in (num_frames, height, width)]
        f, h, w = torch.meshgrid(*along, indexing="ij")
        f = f * (self.spatial_stop / self.temporal_stop)
        square = (f**2 + h**2 + w**2) / self.spatial_stop**2
        if self.filter == "butterworth":
            return 1 / (1 + square**BUTTERWORTH_ORDER)
        if self.filter == "gaussian":
            return torch.exp(-square / 2)
        if self.filter == "ideal":
            return (square <= 1).float()
        return (torch.stack((f.abs(), h.abs(), w.abs())).amax(0) <= self.spatial_stop).float()


def free_init(
    sample: Callable[[int, Tensor], Tensor],
    noise: Tensor,
    *,
    settings: FreeInit,
    draw: Callable[[], Tensor],
    alpha_cumprod: float,
) -> Tensor:
    """Clean latents of the last time that the clip is sampled.

    sample: (which time, from 0; noise (b, c, f, h, w)) -> clean latents of that shape. draw: new noise. alpha_cumprod:
    share of signal at the last noise level of training.
    """
    passes = settings.low_pass(*noise.shape[2:])
    clean = sample(0, noise)
    for iteration in range(1, settings.iterations):
        noised = alpha_cumprod**0.5 * clean.float().cpu() + (1 - alpha_cumprod) ** 0.5 * noise.float().cpu()
        clean = sample(iteration, mix(noised, draw(), passes))
    return clean


def mix(low: Tensor, high: Tensor, passes: Tensor) -> Tensor:
    """The low frequencies of one and the high frequencies of the other (b, c, f, h, w), by what passes (f, h, w)."""
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(low, dim=axes) * passes + torch.fft.fftn(high, dim=axes) * (1 - passes)
    return torch.fft.ifftn(spectrum, dim=axes).real.contiguous()
