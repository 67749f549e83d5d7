"""Former place of `animatediff.sampling.controlnet`."""

from animatediff.moved import former

__getattr__ = former(__name__, "animatediff.sampling.controlnet")
