"""Former place of `animatediff.render`."""

from animatediff.moved import former

__getattr__ = former(__name__, "animatediff.render")
