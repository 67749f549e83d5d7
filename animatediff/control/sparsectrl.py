"""Former place of `animatediff.models.sparsectrl`."""

from animatediff.moved import former

__getattr__ = former(__name__, "animatediff.models.sparsectrl")
