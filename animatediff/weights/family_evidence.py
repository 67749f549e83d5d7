"""Which family motion modules belong to: the evidence, how sure it makes, and what it leaves open.

Blocks and tables in the file, config.json beside it, metadata and published names each speak for some families. Where
families stay possible that run differently (GroupNorms over frames, noise schedule), the family has to be given.
Families of one numerics differ in recommended settings alone: there the likeliest is taken, and said to be likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from animatediff.errors import UserError
from animatediff.motion import MotionLayout
from animatediff.weights.families import FAMILIES, FAMILY_KEY, Family, family_named, family_of_metadata
from animatediff.weights.family_names import Named, bare_version, names_of, published_names
from animatediff.weights.keys import ENCODER_KEY, LCM_POSITIONS, Dialect
from animatediff.weights.motion_config import MotionConfig, config_beside
from animatediff.weights.position_tables import Tables, tables_of
from animatediff.weights.storage.files import Header

Confidence = Literal["certain", "likely", "ambiguous"]

SHAPES: dict[str, tuple[int, bool, tuple[int, ...]]] = {
    "v1": (4, False, (24,)),
    "v3": (4, False, (32,)),
    "v2": (4, True, (32,)),
    "lightning": (4, True, (32,)),
    "animatelcm": (4, True, ()),
    "long": (4, True, (64, 128)),
    "sdxl": (3, False, (32,)),
    "hotshot": (3, False, (24,)),
}
"""Family -> number of levels, whether the mid block has a module, lengths of the position tables in published files."""
DIFFUSERS_LENGTH = 32
"""The length that diffusers gives the tables of a converted module unless told otherwise."""
NORMS = {
    "v1": "GroupNorms of the image layers over all frames",
    "v3": "all GroupNorms over single frames",
    "sdxl": "GroupNorms of the motion modules over all frames, a noise schedule of its own",
    "hotshot": "GroupNorms of the image layers over all frames, the base model's noise schedule",
    "pia": "GroupNorms of the image layers over all frames, an image beside the noise",
}
"""Family -> the numerics in which it differs from those of its shape, for messages."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The family of a file of motion modules, as far as it can be told."""

    confidence: Confidence
    candidates: tuple[str, ...]
    """Families that remain, the likeliest first."""
    family: Family | None
    """None where the candidates run differently."""
    evidence: tuple[str, ...]
    reason: str
    """The piece of evidence that decided, or the one that is missing."""
    doubts: tuple[str, ...] = ()
    """Reasons for another family, to be said when the file is loaded as this one unasked."""
    warnings: tuple[str, ...] = ()
    """Contradictions of other facts, to be said whenever the file is loaded."""
    positions: int | None = None
    """Length of the position tables that the file or its configuration states."""
    base: str | None = None
    names: str = ""
    """The names of the file, which may hold the number of steps of a few-step model."""
    config: MotionConfig = field(default_factory=MotionConfig)

    def run_as(self, name: str) -> Family:
        """The family of that name with the facts that the file states: length of its tables, heads, norm groups.

        Raises UserError for an unknown family.
        """
        family = family_named(name)
        if (own := self.family) is not None:
            if own.name == name:
                return own
            family = replace(family, norm_groups=own.norm_groups, num_heads=own.num_heads)
        return self.config.applied(family.with_steps_of(self.names).with_positions(self.positions))

    def title(self) -> str:
        """One line: the family, or those that are possible, with the confidence and its reason."""
        if self.family is None:
            return f"{_either(self.candidates)} (ambiguous: {self.reason})"
        return f"{self.family.name}: {self.family.title} ({self.confidence}: {self.reason})"


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """Facts that families are weighed by."""

    levels: int
    mid: bool
    dialect: Dialect
    tables: Tables | None
    config: MotionConfig
    names: str
    published: Sequence[Named]
    image_encoder: bool = False
    """Whether the file has one."""
    lcm_tables: bool = False
    """Whether its position tables have the name that AnimateLCM's code gives them."""
    nine: bool = False
    """Whether a first layer of nine channels belongs to them."""

    @property
    def positions(self) -> int | None:
        return self.tables.length if self.tables is not None else self.config.positions

    @property
    def chosen_length(self) -> bool:
        """Whether the length of the tables is that of the training: not the default of diffusers' converter."""
        return self.dialect != "diffusers" or self.positions != DIFFUSERS_LENGTH


def judge(header: Header, layout: MotionLayout, dialect: Dialect) -> Judgement:
    """Weigh the evidence about motion modules of this layout and these names.

    Raises UserError for metadata of ours or a config.json that cannot be read.
    """
    config = config_beside(header)
    seen = _Seen(
        levels=len(layout.down),
        mid=layout.mid is not None,
        dialect=dialect,
        tables=tables_of(header),
        config=config,
        names=", ".join(name for _, name in names_of(header, config.values)),
        published=published_names(header, config.values),
        image_encoder=any(map(ENCODER_KEY.match, header.tensors)),
        lcm_tables=any(key.endswith(LCM_POSITIONS) for key in header.tensors),
        nine=layout.conv_in_channels is not None,
    )
    evidence, warnings = _shape_evidence(seen), _table_warnings(seen)
    stated = family_of_metadata(header.metadata, str(header.path))
    if stated is not None:
        said = f"its metadata says family {stated.name}"
        family = config.applied(stated.with_positions(seen.positions))
        judged = Judgement(
            confidence="certain", candidates=(stated.name,), family=family, evidence=(said, *evidence), reason=said
        )
    else:
        if (name := header.metadata.get(FAMILY_KEY)) is not None:
            evidence.append(f"its metadata says family {name}, which is not known here")
            warnings.append(evidence[-1])
        judged = _weighed(seen, evidence, bare_version(seen.names))
    positions = seen.positions
    if positions is None and stated is not None:
        positions = stated.numerics.max_positions
    base = judged.family.base if judged.family is not None else FAMILIES[judged.candidates[0]].base
    return replace(judged, warnings=tuple(warnings), positions=positions, base=base, config=config, names=seen.names)


def family_missing(judged: Judgement, path: object) -> UserError:
    """The error where two families remain possible: both, how they differ, and the way to say which."""
    return UserError(
        f"{path}: a motion module of family {_either(judged.candidates)}, and it does not say which "
        f"({', '.join(judged.evidence)}); {how_to_say(judged)}"
    )


def how_to_say(judged: Judgement) -> str:
    """How the candidates differ, and how the user says which it is: a sentence for messages."""
    differences = "; ".join(f"{name}: {NORMS[name]}" for name in judged.candidates if name in NORMS)
    return (
        f"they run differently ({differences}): give `family` {_either(judged.candidates)}, or write it into a copy "
        "once and for all (`animatediff convert` with `family`)"
    )


def contradictions(judged: Judgement, name: str, layout: MotionLayout, dialect: str) -> list[str]:
    """What speaks against the family that the user gave; the given one is taken all the same."""
    found = []
    if name in SHAPES:
        levels, mid, _ = SHAPES[name]
        if levels != len(layout.down):
            found.append(f"{name} has {levels} levels, this module has {len(layout.down)}")
        if mid != (layout.mid is not None):
            found.append(
                f"{name} has a module in the mid block, this one has none"
                if mid
                else f"{name} has no module in the mid block, this one has one"
            )
        if dialect == "hotshot" and name != "hotshot":
            found.append("its names are those of HotshotXL")
    own = judged.family
    if not found and own is not None and judged.confidence == "certain" and own.name != name:
        given = FAMILIES[name]
        if _numerics(given) != _numerics(own):
            found.append(f"{judged.reason}, which points to {own.name}")
    return found


def _weighed(seen: _Seen, evidence: list[str], version: str | None) -> Judgement:
    """Judge by shape, tables and names."""
    possible = [name for name, (levels, mid, _) in SHAPES.items() if (levels, mid) == (seen.levels, seen.mid)]
    if seen.nine and seen.levels == 4:
        sure: Confidence = "likely" if seen.mid else "certain"  # published ones have the blocks of v3
        return _taken("pia", sure, "a first layer of nine channels, as PIA alone has", seen, evidence)
    if seen.dialect == "hotshot" and "hotshot" in possible:
        return _taken("hotshot", "certain", "names that HotshotXL alone has", seen, evidence)
    if seen.image_encoder:
        return _taken("animatelcm_i2v", "certain", "an image encoder, as AnimateLCM-I2V alone has", seen, evidence)
    if seen.lcm_tables and "animatelcm" in possible:
        reason = "position tables under the name that AnimateLCM's code gives them"
        return _taken("animatelcm", "certain", reason, seen, evidence)
    names = [named for named in seen.published if named.family in possible]
    for named in seen.published:
        if named.family not in possible:
            evidence.append(f"{named.where} ({named.name}) says {named.family}, which has other blocks")
    if not possible:
        reason = "no published family has these blocks"
        warning = f"{reason}: run with all GroupNorms over single frames and the base model's noise schedule"
        judged = _taken("custom", "likely", reason, seen, evidence)
        return replace(judged, doubts=(f"{warning}, unless `family` says otherwise",))
    if seen.mid:
        return _of_one_numerics(names, seen, evidence)
    return _of_two_numerics(possible, names, seen, evidence, version)


def _of_one_numerics(names: Sequence[Named], seen: _Seen, evidence: list[str]) -> Judgement:
    """Modules of v2's shape: v2, Lightning, AnimateLCM and LongAnimateDiff run alike, with other settings."""
    positions = seen.positions
    if positions is None and seen.dialect == "original":
        usual, reason = "animatelcm", "no position tables, as AnimateLCM is published"
    elif positions in SHAPES["long"][2]:
        usual, reason = "long", f"tables of {positions} frames, as LongAnimateDiff is published"
    else:
        usual, reason = "v2", "a module in the mid block"
    named = next((n for n in names if n.family != "lightning" or positions in (None, 32)), None)
    if named is None:
        others = {"v2": "Lightning and AnimateLCM in other layouts", "animatelcm": "v2", "long": "AnimateLCM"}[usual]
        judged = _taken(usual, "likely", f"{reason}; {others} may look the same", seen, evidence)
        if usual != "animatelcm":
            return judged
        doubt = (
            f"taken as AnimateLCM, for few steps: {reason}; copies of v2 may have none either: `family` v2 overrides"
        )
        return replace(judged, doubts=(doubt,))
    if named.family == usual:
        evidence.append(f"{named.where} says {usual}, too")
        return _taken(usual, "certain", f"{reason}, and {named.where} agrees", seen, evidence)
    title = FAMILIES[named.family].title
    evidence.append(f"{named.where} says {title}, which no tensor tells from {usual}; `family` {usual} overrides")
    return _taken(named.family, "likely", f"by {named.where}, {named.name}", seen, evidence)


def _of_two_numerics(
    possible: Sequence[str], names: Sequence[Named], seen: _Seen, evidence: list[str], version: str | None
) -> Judgement:
    """Modules without mid block: v1 or v3, the SDXL beta or HotshotXL, which no block tells apart but run differently.

    A published length tells, where it was chosen for the training; the default of diffusers' converter hints; a
    published name breaks a tie. A name against a length that tells is not believed, and that is said.
    """
    by_length, sure, reason = _told_by_tables(possible, seen)
    told = {named.family for named in names}
    by_name = names[0] if len(told) == 1 else None
    if len(told) > 1:
        evidence.append("names of several families: " + ", ".join(f"{n.where} says {n.family}" for n in names))
    if by_length is not None and (by_name is None or by_name.family == by_length or sure):
        if by_name is not None:
            agrees = by_name.family == by_length
            evidence.append(f"{by_name.where} says {by_name.family}" + (", too" if agrees else ""))
            if not agrees:
                doubt = (
                    f"{by_name.where} says {by_name.family}, but it has {reason}; `family` {by_name.family} overrides"
                )
                return replace(_taken(by_length, "likely", reason, seen, evidence), doubts=(doubt,))
            sure = True
        return _taken(by_length, "certain" if sure else "likely", reason, seen, evidence)
    if by_name is not None:
        others = _either([name for name in possible if name != by_name.family])
        evidence.append(f"{by_name.where} says {by_name.family}; `family` {others} overrides")
        doubt = (
            f"taken as {by_name.family} because {by_name.where} ({by_name.name}) says so, which nothing in the file "
            f"does; `family` {others} overrides"
        )
        judged = _taken(by_name.family, "likely", f"by {by_name.where}, {by_name.name}", seen, evidence)
        return replace(judged, doubts=(doubt,))
    if version in possible:
        evidence.append(f"a {version} in its name may number anything: if it means the family, give `family` {version}")
    return Judgement(
        confidence="ambiguous",
        candidates=tuple(possible),
        family=None,
        evidence=tuple(evidence),
        reason=reason,
    )


def _told_by_tables(possible: Sequence[str], seen: _Seen) -> tuple[str | None, bool, str]:
    """(the family that the tables speak for, whether that is sure, the reason)."""
    usual = {name: SHAPES[name][2] for name in possible}
    tables, length = seen.tables, seen.positions
    if length is None:
        lengths = " and ".join(f"{name} has {usual[name][0]}" for name in possible)
        return None, False, f"no position tables ({lengths})"
    if tables is not None and tables.period is not None:
        by = next((name for name in possible if tables.period in usual[name]), None)
        return by, False, f"its tables repeat {tables.period} frames" + (f", as long as those of {by}" if by else "")
    by = next((name for name in possible if length in usual[name]), None)
    of = "positions" if tables is None else "tables"
    if by is None or by == "hotshot":
        # Mirrors of HotshotXL under AnimateDiff's names exist; so may fine-tunes of the SDXL beta on 24 frames.
        note = "a length of no published family" if by is None else "with AnimateDiff's names, not HotshotXL's"
        return None, False, f"{of} of {length} frames, {note}"
    default = "" if seen.chosen_length else ", though diffusers makes them that long by default"
    return by, seen.chosen_length, f"{of} of {length} frames, as {by} has{default}"


def _taken(name: str, confidence: Confidence, reason: str, seen: _Seen, evidence: Sequence[str]) -> Judgement:
    family = seen.config.applied(FAMILIES[name].with_positions(seen.positions).with_steps_of(seen.names))
    return Judgement(confidence=confidence, candidates=(name,), family=family, evidence=tuple(evidence), reason=reason)


def _shape_evidence(seen: _Seen) -> list[str]:
    lines = [f"{seen.levels} levels, {'a' if seen.mid else 'no'} module in the mid block"]
    lines.append("no position tables" if seen.tables is None else str(seen.tables))
    if seen.config.positions is not None:
        lines.append(f"config.json says {seen.config.positions} positions")
    for what, number in (("attention heads", seen.config.num_heads), ("norm groups", seen.config.norm_groups)):
        if number is not None:
            lines.append(f"config.json says {number} {what}")
    return lines


def _table_warnings(seen: _Seen) -> list[str]:
    tables, stated = seen.tables, seen.config.positions
    if tables is None:
        return []
    warnings = []
    if tables.kind == "zeros":
        warnings.append("its position tables hold nothing but zeros; sinusoids are used, as in every published module")
    if len(tables.lengths) > 1:
        warnings.append(f"its position tables have {_either(tables.lengths)} frames; {tables.length} are used")
    if stated is not None and stated != tables.length:
        warnings.append(f"config.json says {stated} positions, its tables have {tables.length}, which are used")
    return warnings


def _numerics(family: Family) -> tuple[Any, ...]:
    betas: Mapping[str, Any] = family.betas or {}
    schedule = tuple(betas.get(key) for key in ("beta_start", "beta_end", "beta_schedule"))
    return family.numerics.image_norm_over_frames, family.numerics.motion_norm_over_frames, schedule


def _either(names: Sequence[object]) -> str:
    return " or ".join(map(str, names))
