"""Words over time: prompts that travel, prompts with weights, and prompts longer than the text encoder reads at once."""

from animatediff.prompts.travel import Blend, PromptTravel

__all__ = ["Blend", "PromptTravel"]
