"""From names to frames."""

from animatediff.pipelines.animatediff import AnimateDiffPipeline
from animatediff.pipelines.output import AnimateDiffOutput, Defaults, Progress

__all__ = ["AnimateDiffOutput", "AnimateDiffPipeline", "Defaults", "Progress"]
