"""From noise to latents: samplers by name, the denoising loop, and windows over long clips."""

from animatediff.sampling.loop import Cancelled, clip_noise, denoise
from animatediff.sampling.predict import ClipPredictor, guided, windowed
from animatediff.sampling.schedulers import SCHEDULERS, make_scheduler, scheduler_name

__all__ = [
    "SCHEDULERS",
    "Cancelled",
    "ClipPredictor",
    "clip_noise",
    "denoise",
    "guided",
    "make_scheduler",
    "scheduler_name",
    "windowed",
]
