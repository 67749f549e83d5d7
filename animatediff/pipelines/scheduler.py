"""Sampler of a pipeline: chosen by name, given by hand, or recommended by the loaded weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from animatediff.sampling import make_scheduler, scheduler_name
from animatediff.weights.families import Family, Recommended


@dataclass
class SamplerChoice:
    """Sampler and recommended settings that follow from a base model, a motion module, few-step LoRAs, and the user."""

    base: Any
    """Scheduler of the base model, or the one given by hand."""
    name: str | None = None
    """Sampler chosen by name."""
    by_hand: bool = False
    """Whether `base` was put in by hand (`pipe.scheduler = ...`), which LoRAs leave alone."""
    few_steps: dict[str, Recommended] = field(default_factory=dict)
    """Recommended settings of few-step LoRAs, by adapter name."""
    disabled: set[str] = field(default_factory=set)
    """Few-step LoRAs that are switched off."""

    def choose(self, name: str) -> None:
        """Take the sampler of this name. Raises UserError for an unknown one."""
        self.name, self.by_hand = scheduler_name(name), False

    def give(self, scheduler: Any) -> None:
        """Take a scheduler as it is."""
        self.base, self.name, self.by_hand = scheduler, None, True

    def recommended(self, family: Family | None) -> Recommended:
        """Settings of the motion module and, before it, of few-step LoRAs that act; None where neither has any."""
        settings = family.recommended if family is not None else Recommended()
        for name, few in self.few_steps.items():
            if name not in self.disabled:
                settings = replace(settings, **_given(vars(few)))
        return settings

    def scheduler(self, family: Family | None) -> Any:
        """A new scheduler, of the noise schedule that the motion module was trained with."""
        betas = family.betas if family is not None else None
        name = self.name or self.recommended(family).scheduler or type(self.base).__name__
        return make_scheduler(name, self.base.config, betas)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
