"""AnimateDiff: motion modules that make any Stable Diffusion image model move."""

__version__ = "0.1.0"
