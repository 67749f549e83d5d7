"""From noise to latents: samplers by name, the denoising loop, and windows over long clips."""

from animatediff.errors import Cancelled
from animatediff.models.residuals import Residuals
from animatediff.sampling.controls import Control, UNetInputs, active_timesteps
from animatediff.sampling.free_init import FreeInit, free_init
from animatediff.sampling.guidance import GuidedClips
from animatediff.sampling.loop import clip_noise, denoise, one_generator_each
from animatediff.sampling.noise import NOISES, draw_noise
from animatediff.sampling.predict import ClipPredictor, windowed
from animatediff.sampling.schedule import Schedule
from animatediff.sampling.schedulers import SCHEDULERS, make_scheduler, scheduler_name, set_steps
from animatediff.sampling.timesteps import begin_at, check_strength, noised

__all__ = [
    "NOISES",
    "SCHEDULERS",
    "Cancelled",
    "ClipPredictor",
    "Control",
    "FreeInit",
    "GuidedClips",
    "Residuals",
    "Schedule",
    "UNetInputs",
    "active_timesteps",
    "begin_at",
    "check_strength",
    "clip_noise",
    "denoise",
    "draw_noise",
    "free_init",
    "make_scheduler",
    "noised",
    "one_generator_each",
    "scheduler_name",
    "set_steps",
    "windowed",
]
