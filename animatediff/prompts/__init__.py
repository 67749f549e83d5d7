"""Words over time: prompts that travel, prompts with weights, and prompts of any length."""

from animatediff.prompts.travel import Blend, PromptTravel

__all__ = ["Blend", "PromptTravel"]
