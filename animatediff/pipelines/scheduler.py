"""Sampler of a pipeline: chosen by name, given by hand, or recommended by the loaded weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from animatediff.errors import UserError
from animatediff.sampling import make_scheduler, scheduler_name
from animatediff.sampling.edm import EDM_SAMPLERS, is_edm
from animatediff.sampling.schedulers import full_config, knows_flow, of_flow, scheduler_notes, why_not
from animatediff.weights.families import Family, Recommended
from animatediff.weights.trained_with import BETAS, PLAIN, laid_over, told

logger = logging.getLogger(__name__)

LCM_BASE = Recommended(num_inference_steps=4, guidance_scale=8.0, scheduler="lcm")
"""Settings of base models distilled by LCM with guidance inside (arXiv 2310.04378), as they are published."""


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
    distilled: bool = False
    """Whether the base model takes the guidance scale as an embedding, as models distilled by LCM do."""
    said: set[str] = field(default_factory=set)
    """Warnings that were given, each once."""
    trained_with: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Adapter name -> settings that it was trained with in place of the base model's (`weights.trained_with`)."""
    asked: Mapping[str, Any] = field(default_factory=dict)
    """Such settings that the user gave; they stand, whatever weights say."""

    def choose(self, name: str) -> None:
        """Take the sampler of this name. Raises UserError for an unknown one."""
        self.name, self.by_hand = scheduler_name(name), False

    def give(self, scheduler: Any) -> None:
        """Take a scheduler as it is."""
        self.base, self.name, self.by_hand = scheduler, None, True

    def recommended(self, family: Family | None) -> Recommended:
        """Settings of the motion module, before it of an LCM base model, before both of few-step LoRAs that act.

        None where none of them has any, and no sampler that cannot sample the base model.
        """
        settings = self._wanted(family)
        if self.name is None and settings.scheduler is not None and not self._fits(settings.scheduler):
            settings = replace(settings, scheduler=None)
        return settings

    def _wanted(self, family: Family | None) -> Recommended:
        settings = family.recommended if family is not None else Recommended()
        if self.distilled:
            settings = replace(settings, **_given(vars(LCM_BASE)))
        for name, few in self.few_steps.items():
            if name not in self.disabled:
                settings = replace(settings, **_given(vars(few)))
        return settings

    def _fits(self, name: str) -> bool:
        config = full_config(self.base)
        if is_edm(config):
            return name in EDM_SAMPLERS
        return why_not(config) is None and (not of_flow(config) or knows_flow(name))

    @property
    def refusal(self) -> str | None:
        """The reason why the base model's own scheduler samples no clip, so that another has to be named; or None."""
        reason = None if self.name is not None else why_not(full_config(self.base))
        if reason is None:
            return None
        return (
            f"the base model's scheduler is a {type(self.base).__name__} and samples no clip here: {reason}; if the "
            "model was trained as Stable Diffusion is, choose another `scheduler`, such as euler"
        )

    def scheduler(self, family: Family | None) -> Any:
        """A new scheduler, of the noise schedule that the motion module was trained with; the base's own if refused.

        Statements of the base model that it does not keep are logged, once each.
        """
        if self.refusal is not None:
            return self.base
        settings, notes = self.laid_over(family)
        own = {key: settings.pop(key) for key in BETAS if key in settings}
        betas = {**((family.betas if family is not None else None) or {}), **own} or None
        name = self.name or self.recommended(family).scheduler or type(self.base).__name__
        config = laid_over(full_config(self.base), settings)
        made = make_scheduler(name, config, betas)
        notes += scheduler_notes(name, config, betas)
        wanted = self._wanted(family).scheduler
        if self.name is None and wanted is not None and not self._fits(wanted):
            notes.append(
                f"scheduler {wanted}, recommended for the loaded weights, does not fit the base model; not used"
            )
        self._say(notes)
        return made

    def laid_over(self, family: Family | None) -> tuple[dict[str, Any], list[str]]:
        """Settings that the loaded weights were trained with in place of the base model's, to be laid over them.

        Those of LoRAs come before those of the motion module, which they were trained on. Also what is to be said:
        about weights that contradict each other, and about settings of the user, or a scheduler given by hand, that
        contradict the weights and are kept.
        """
        acting = [(f"{name}: ", given) for name, given in self.trained_with.items() if name not in self.disabled]
        acting += [("the motion module ", family.sampling)] if family is not None and family.sampling else []
        found: dict[str, Any] = {}
        notes = []
        for title, settings in acting:
            for name, value in settings.items():
                if found.setdefault(name, value) != value:
                    notes.append(
                        f"{title}was trained with {name}={value}, other weights with {found[name]}, which is used"
                    )
        config = full_config(self.base)
        if (odd := {name: value for name, value in found.items() if name not in BETAS}) and (
            is_edm(config) or of_flow(config)
        ):
            notes.append(f"the loaded weights were trained with {told(odd)}, which this base model has no place for")
            return {}, notes
        by_hand = {name: config.get(name, PLAIN.get(name)) for name in odd if self.by_hand}
        kept = {**self.asked, **by_hand}
        for name in [name for name, value in found.items() if kept.get(name, value) != value]:
            source = "as the scheduler that was given says" if name in by_hand else "as asked for"
            notes.append(
                f"the loaded weights were trained with {name}={found.pop(name)}; {name}={kept[name]} is used, {source}"
            )
        found |= {} if self.by_hand else dict(self.asked)
        prediction = found.get("prediction_type") or config.get("prediction_type")
        if found.get("rescale_betas_zero_snr") and prediction != "v_prediction":
            del found["rescale_betas_zero_snr"]  # at its last noise level a model of noise has nothing to tell
        return found, notes

    def say_contradictions(self, family: Family | None) -> None:
        """Log, once each, where a scheduler given by hand contradicts the loaded weights."""
        self._say(self.laid_over(family)[1])

    def _say(self, notes: Sequence[str]) -> None:
        for note in notes:
            if note not in self.said:
                logger.warning("%s", note)
        self.said |= set(notes)

    def check(self) -> None:
        """Raise UserError where the base model's own scheduler samples no clip and no other was chosen."""
        if self.refusal is not None:
            raise UserError(self.refusal)


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}
