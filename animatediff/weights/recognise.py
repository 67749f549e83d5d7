"""Recognise a weight file by the names and shapes in its header, not by its own name, and give the evidence.

Of motion modules, published names may decide between families that no tensor tells apart (`family_evidence.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from animatediff.errors import UserError
from animatediff.weights.base.generation import generation_of
from animatediff.weights.base.ldm import UNET_PREFIX, in_diffusers_names, strip, unet_prefix
from animatediff.weights.families import Family, family_of_metadata
from animatediff.weights.family_evidence import Judgement, judge
from animatediff.weights.keys import (
    EMA_PREFIX,
    dialect_of,
    layout_of,
    motion_prefix,
    motion_shapes,
    without_prefix,
)
from animatediff.weights.kind_rules import CONTROLNETS, FIRST, LAST, OTHER_MODELS, RELATIVES, Rule
from animatediff.weights.kinds import BASE_TITLES, KINDS, a
from animatediff.weights.lora_kinds import lora_facts
from animatediff.weights.names import Names, base_by_shapes
from animatediff.weights.storage.files import Header, read_header
from animatediff.weights.storage.unwrap import BARE


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """The kind of a file, and the evidence for it."""

    kind: str
    """A name in `KINDS`."""
    header: Header
    evidence: list[str] = field(default_factory=list)
    family: Family | None = None
    """Of motion modules, with the position-table length of the file; None where two families remain possible."""
    judgement: Judgement | None = None
    """Of whole motion modules: how sure the family is, and why."""
    dialect: str | None = None
    variant: str | None = None
    """Name within the kind: "rgb" or "scribble" of SparseCtrl encoders, "plus" of IP-Adapters, "LoHa" of LoRAs."""
    base: str | None = None
    """Kind of base model it belongs to: sd1, sd2, sdxl."""

    @property
    def title(self) -> str:
        """Name of the kind, for a sentence."""
        return KINDS[self.kind].title

    @property
    def named(self) -> str:
        """Name of the kind, with that of the variant."""
        return f"{self.title}, {self.variant}" if self.variant else self.title


def recognise(path: str | Path) -> Recognised:
    """Say what a weight file is. Raises UserError for a file without weights (`files.read_header`)."""
    return recognise_header(read_header(path))


def recognise_header(header: Header) -> Recognised:
    """Say what the file with this header is; `kind` is "unknown" where no rule fits."""
    if prefix := motion_prefix(header.tensors):
        header = replace(header, tensors=without_prefix(header.tensors, prefix))
    names = Names(header)
    for detect in _DETECTORS:
        if (found := detect(names)) is not None:
            if prefix:
                average = ", averaged weights" if EMA_PREFIX.search(prefix) else ""
                found.evidence.append(f"its names begin with {prefix}{average}")
            return found
    first = ", ".join(list(header.tensors)[:3]) or "nothing"
    return Recognised(kind="unknown", header=header, evidence=[f"no rule fits its names: {first}"])


TINY_VAES = ("vae_tiny", "vae_tiny_decoder", "vae_tiny_encoder")
_TAESD = re.compile(r"(?<![a-z0-9])taesd(?P<xl>[-_]?xl)?(?![a-z0-9])")


def _with_base_by_name(found: Recognised | None) -> Recognised | None:
    """A tiny VAE with the base model that its published name tells: of SD and of SDXL, all tensors have one shape."""
    if found is None or found.kind not in TINY_VAES:
        return found
    path = found.header.path.absolute()
    for name in (path.name, *(parent.name for parent in path.parents[:3])):  # owner--name/snapshots/REVISION/FILE
        if match := _TAESD.search(name.lower()):
            evidence = [*found.evidence, f"{name} is the name of one for {'SDXL' if match['xl'] else 'SD 1.x and 2.x'}"]
            return replace(found, base="sdxl" if match["xl"] else "sd1", evidence=evidence)
    return found


def check_setting(found: Recognised, setting: str, *, bases: Collection[str] = ()) -> None:
    """Raise UserError for a file of a kind that `setting` does not take, or made for no base model of `bases`.

    bases: the kinds of base model that the one it is to work with may be; empty if unknown. Files of no known kind
    pass: the loader may know better.
    """
    if found.kind == "unknown":
        return
    if setting not in KINDS[found.kind].settings:
        raise wrong_kind(found, next(kind for kind, facts in KINDS.items() if facts.settings[:1] == (setting,)))
    if not bases or found.base is None or found.base in bases or found.kind in ("base_model", "unet"):
        return
    if found.kind in ("motion_lora", *TINY_VAES) and "sdxl" not in (found.base, *bases):
        return  # MotionLoRAs go with the motion module, one of SD 1.x may be on SD 2.x; these two share their latents
    made_for, given = BASE_TITLES[found.base], " or ".join(BASE_TITLES[base] for base in sorted(bases))
    raise UserError(
        f"{found.header.path}: {a(found.title)} for {made_for}, but the base model is {given} ({found.evidence[-1]}); "
        f"take one made for {given}, or another `model`"
    )


def wrong_kind(found: Recognised, wanted: str) -> UserError:
    """The error for a file of another kind than the one that was asked for."""
    name = found.title if KINDS[found.kind].settings else found.named
    text = f"{found.header.path}: {a(name)}, not {a(KINDS[wanted].title)} ({found.evidence[0]})"
    return UserError(text if found.kind == "unknown" else f"{text}; {KINDS[found.kind].advice}")


def _first_rule(names: Names, rules: Iterable[Rule]) -> Recognised | None:
    for rule in rules:
        if (evidence := _fits(names, rule)) is not None:
            return Recognised(
                kind=rule.kind,
                header=names.header,
                evidence=evidence,
                dialect=rule.dialect or (dialect_of(names.header.tensors) if rule.kind == "sparsectrl" else None),
                variant=rule.variant,
                base=rule.base or base_by_shapes(names),
            )
    return None


def _fits(names: Names, rule: Rule) -> list[str] | None:
    """The evidence that a file is of the rule's kind; None if it is not."""
    found = [names.find(pattern) for pattern in rule.has]
    if None in found or any(names.find(pattern) for pattern in rule.lacks):
        return None
    evidence = [f"has {found[0]}"]
    if (wanted := rule.shape) is not None:
        shape = names.shape(wanted.key)
        if len(shape) <= wanted.axis or shape[wanted.axis] not in wanted.sizes:
            return None
        if wanted.num_axes not in (None, len(shape)):
            return None
        evidence.insert(0, f"{names.find(wanted.key)} has shape {list(shape)}")
    return evidence


def _motion_module(header: Header) -> Recognised | None:
    internal = motion_shapes(header.shapes)
    if not internal:
        return None
    dialect = dialect_of(header.tensors)
    evidence = [f"{len(internal)} tensors of motion modules in the {dialect} grammar"]
    layout = layout_of(internal)
    if layout is None:
        stated = family_of_metadata(header.metadata, str(header.path))
        missing = "but blocks or modules are missing: is it whole?"
        if stated is None:
            return Recognised(kind="unknown", header=header, evidence=[*evidence, missing])
        said = f"its metadata says family {stated.name}"
        evidence = [*evidence, said, missing]
        return Recognised(
            kind="motion_module", header=header, evidence=evidence, family=stated, dialect=dialect, base=stated.base
        )
    judged = judge(header, layout, dialect)
    return Recognised(
        kind="motion_module",
        header=header,
        evidence=[*evidence, *judged.evidence],
        family=judged.family,
        judgement=judged,
        dialect=dialect,
        base=judged.base,
    )


def _base_model(names: Names) -> Recognised | None:
    header = names.header
    for model, patterns in OTHER_MODELS:
        found = [names.find(pattern) for pattern in patterns]
        if None not in found:
            return Recognised(kind="base_other", header=header, evidence=[f"has {found[0]}"], variant=model)
    if (prefix := unet_prefix(header.tensors)) is None:
        return None
    key = next(key for key in header.tensors if key.startswith(prefix))
    try:
        generation = generation_of(header)
    except UserError as error:
        reason = str(error).removeprefix(f"{header.path}: ")
        return Recognised(kind="base_unsuited", header=header, evidence=[f"{reason} (has {key})"])
    others = names.find(r"^(first_stage_model|cond_stage_model|conditioner|vae|text_encoder(_2)?|text_model)\.")
    return Recognised(
        kind="base_model" if others or prefix == UNET_PREFIX else "unet",
        header=header,
        evidence=[f"has {key}", f"the UNet of {BASE_TITLES[generation]}"],
        dialect="diffusers" if in_diffusers_names(strip(header.tensors, prefix)) else "original",
        base=generation,
    )


def _embedding(names: Names) -> Recognised | None:
    header = names.header
    small = all(1 <= len(info.shape) <= 2 for info in header.tensors.values())
    small = small and (len(header.tensors) <= 4 or not any("." in key for key in header.tensors))
    widths = {info.shape[-1] for info in header.tensors.values() if info.shape}
    if small and header.tensors and widths <= {768, 1024, 1280}:
        evidence = [f"{len(header.tensors)} vectors of width {sorted(widths)}"]
        if list(header.tensors) == [BARE]:
            evidence.append("a bare tensor, whose word is the file's name; an aesthetic gradient looks the same")
        base = {frozenset({768}): "sd1", frozenset({1024}): "sd2"}.get(frozenset(widths), "sdxl")
        return Recognised(kind="textual_inversion", header=header, evidence=evidence, base=base)
    if key := names.find(r"^string_to_param\.|^emb_params$|^<.*>$"):
        return Recognised(kind="textual_inversion", header=header, evidence=[f"has {key}"])
    return None


def _training_state(names: Names) -> Recognised | None:
    """A checkpoint that a run of training here goes on from: weights, and an optimizer beside them."""
    key = names.find(r"^weights\.")
    note = next((note for note in names.header.notes if "optimi" in note), None)
    if key is None or note is None:
        return None
    return Recognised(kind="training_state", header=names.header, evidence=[f"has {key}, and {note}"])


def _lora(names: Names) -> Recognised | None:
    facts = lora_facts(names)
    return None if facts is None else Recognised(header=names.header, **facts)


_DETECTORS: tuple[Callable[[Names], Recognised | None], ...] = (
    _training_state,
    lambda names: _first_rule(names, FIRST),
    _lora,
    lambda names: _first_rule(names, CONTROLNETS),
    lambda names: _first_rule(names, RELATIVES),
    lambda names: _motion_module(names.header),
    _base_model,
    lambda names: _with_base_by_name(_first_rule(names, LAST)),
    _embedding,
)
