"""AnimateDiff: motion modules that make any Stable Diffusion image model move."""

from animatediff.logs import escape_records

__version__ = "0.1.0"

escape_records()
