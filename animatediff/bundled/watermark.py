"""Former place of `animatediff.sprites.watermark`."""

from animatediff.moved import former

__getattr__ = former(__name__, "animatediff.sprites.watermark")
