"""Former place of `animatediff.media`."""

from animatediff.moved import former

__getattr__ = former(__name__, "animatediff.media")
