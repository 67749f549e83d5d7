"""The published families of motion modules, one row of facts each: what they need in order to run as they were trained.

A family is chosen by what is in a file and around it (`family_evidence.py`). Sources: the inference settings of the
original repository (v1, v2, v3; branch `sdxl`), of AnimateLCM, LongAnimateDiff, PIA and HotshotXL; the golden cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from animatediff.errors import UserError, unknown
from animatediff.limits import MAX_FRAMES
from animatediff.motion import MotionNumerics
from animatediff.parse import load_json
from animatediff.weights.trained_with import trained_metadata

FAMILY_KEY = "animatediff.family"
NUMERICS_KEY = "animatediff.numerics"
"""Metadata of files of ours, for facts that no tensor tells."""

STEPS_IN_NAME = re.compile(r"(?<!\d)([1248])[ _-]?steps?(?![a-z])", re.IGNORECASE)
"""AnimateDiff-Lightning is published for 1, 2, 4 and 8 steps, in files of one shape."""
LIGHTNING_NAME = re.compile(r"lightning", re.IGNORECASE)

LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """Settings that suit a family; None leaves the choice to the base model or to the general defaults."""

    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """Facts about one family of motion modules."""

    name: str
    title: str
    base: str | None
    """Kind of base model it was trained on: sd1, sdxl, or None for any."""
    numerics: MotionNumerics = field(default_factory=MotionNumerics)
    betas: Mapping[str, Any] | None = field(default_factory=lambda: dict(LINEAR))
    """Noise schedule it was trained with, in diffusers' names; None keeps the base model's own."""
    recommended: Recommended = field(default_factory=Recommended)
    norm_groups: int = 32
    """Groups of the GroupNorm at the entrance of each module."""
    num_heads: int = 8
    """Attention heads of each module."""
    notes: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the noise schedule that it was trained with in place of the base model's (`trained_with.py`)."""

    def with_positions(self, num_positions: int | None) -> Family:
        """The same family with the position-table length that a file has; None leaves the family's own."""
        if num_positions is None or num_positions == self.numerics.max_positions:
            return self
        changed = replace(self, numerics=replace(self.numerics, max_positions=num_positions))
        if self.name != "long":
            return changed
        # Its tables are twice as long as the clips it was trained on: 64 for 32 frames, 128 for 64.
        return replace(changed, recommended=replace(self.recommended, num_frames=num_positions // 2))

    def with_steps_of(self, name: str) -> Family:
        """The same family with the number of steps that a file's name hints at: no tensor of a few-step model tells it.

        >>> FAMILIES["lightning"].with_steps_of("animatediff_lightning_8step_comfyui").recommended.num_inference_steps
        8
        """
        found = STEPS_IN_NAME.search(name) if self.name == "lightning" else None
        if found is None:
            return self
        return replace(self, recommended=replace(self.recommended, num_inference_steps=int(found[1])))

    def metadata(self) -> dict[str, str]:
        """Metadata that a file of ours carries, so that its family is known whatever its shape."""
        facts = {
            **asdict(self.numerics),
            "betas": dict(self.betas) if self.betas is not None else None,
            "norm_groups": self.norm_groups,
            "num_heads": self.num_heads,
            "recommended": {k: v for k, v in asdict(self.recommended).items() if v is not None},
        }
        return {FAMILY_KEY: self.name, NUMERICS_KEY: json.dumps(facts), **trained_metadata(self.sampling)}


SD15 = Recommended(num_frames=16, num_inference_steps=25, guidance_scale=7.5, scheduler="ddim")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="v1",
            title="AnimateDiff v1 (mm_sd_v14, mm_sd_v15)",
            base="sd1",
            numerics=MotionNumerics(image_norm_over_frames=True, max_positions=24),
            recommended=SD15,
            notes="the image layers' GroupNorms see all frames; MotionLoRAs were made for v2",
        ),
        Family(
            name="v2",
            title="AnimateDiff v2 (mm_sd_v15_v2) or a model of its shape",
            base="sd1",
            recommended=SD15,
            notes="has a module in the mid block; so has AnimateDiff-Lightning: for it, under another name than its "
            "published one, give `family` lightning",
        ),
        Family(
            name="v3",
            title="AnimateDiff v3 (v3_sd15_mm)",
            base="sd1",
            recommended=SD15,
            notes="made to be used with the domain adapter v3_sd15_adapter, or without, for cleaner images",
        ),
        Family(
            name="long",
            title="LongAnimateDiff",
            base="sd1",
            numerics=MotionNumerics(max_positions=64),
            recommended=replace(SD15, num_frames=32),
            notes="its authors recommend scaling the motion by 1.15",
        ),
        Family(
            name="animatelcm",
            title="AnimateLCM (text to video)",
            base="sd1",
            numerics=MotionNumerics(max_positions=64),
            betas={**LINEAR, "original_inference_steps": 100},
            recommended=Recommended(num_frames=16, num_inference_steps=6, guidance_scale=1.5, scheduler="lcm"),
            notes="a few-step model: use its LCM LoRA at 0.8 to 1.0 with it, 4 to 8 steps, guidance 1 to 2",
        ),
        Family(
            name="animatelcm_i2v",
            title="AnimateLCM-I2V (image to video)",
            base="sd1",
            numerics=MotionNumerics(max_positions=64),
            betas={
                "beta_start": 0.00085,
                "beta_end": 0.014,
                "beta_schedule": "linear",
                "original_inference_steps": 200,
            },
            recommended=Recommended(
                num_frames=16, num_inference_steps=4, guidance_scale=1.0, scheduler="lcm", height=512, width=768
            ),
            notes="animates an image (`image`); a few-step model: use its own LCM LoRA at 0.8 with it, 2 to 4 steps, "
            "guidance 1; `image_motion_scale` says how much the clip moves",
        ),
        Family(
            name="pia",
            title="PIA (animates an image)",
            base="sd1",
            numerics=MotionNumerics(image_norm_over_frames=True),
            recommended=SD15,
            notes="animates an image of the same image model: `image`, how much by `motion_amount`; has a first layer "
            "of nine channels, whose weights for the noise are those of the image model unless `conv_in_from_file`; "
            "trained on 256 x 256",
        ),
        Family(
            name="lightning",
            title="AnimateDiff-Lightning",
            base="sd1",
            recommended=Recommended(
                num_frames=16, num_inference_steps=4, guidance_scale=1.0, scheduler="euler_trailing"
            ),
            notes="a few-step model: made for exactly as many steps as its file name says",
        ),
        Family(
            name="sdxl",
            title="AnimateDiff-SDXL beta (mm_sdxl_v10_beta)",
            base="sdxl",
            numerics=MotionNumerics(motion_norm_over_frames=True),
            betas={"beta_start": 0.00085, "beta_end": 0.020, "beta_schedule": "scaled_linear"},
            recommended=Recommended(num_frames=16, num_inference_steps=50, guidance_scale=8.0, scheduler="ddim"),
            notes="the motion modules' GroupNorm sees all frames",
        ),
        Family(
            name="hotshot",
            title="HotshotXL",
            base="sdxl",
            numerics=MotionNumerics(image_norm_over_frames=True, max_positions=24),
            betas=None,
            recommended=Recommended(
                num_frames=8,
                num_inference_steps=30,
                guidance_scale=7.5,
                scheduler="euler_a",
                height=384,
                width=672,
            ),
            notes="trained on 8 frames; the image layers' GroupNorms see all frames",
        ),
        Family(
            name="custom",
            title="motion module of a layout of its own",
            base=None,
            betas=None,
            notes="keeps the noise schedule of the base model it was made for",
        ),
    )
}
"""Name -> facts. `custom` is for layouts of no published family, and the frame for what a file's metadata says."""


def family_named(name: str) -> Family:
    """The family of that name. Raises UserError, with the nearest known name, for any other."""
    if name in FAMILIES:
        return FAMILIES[name]
    raise unknown("family of motion modules", name, FAMILIES)


def family_of_metadata(metadata: Mapping[str, str], label: str) -> Family | None:
    """The family that a file of ours states about itself, or None if it states nothing.

    Raises UserError for a statement that cannot be read.
    """
    name, facts = metadata.get(FAMILY_KEY), metadata.get(NUMERICS_KEY)
    if facts is None:
        return FAMILIES.get(name) if name is not None else None
    try:
        stated = load_json(facts)
        MAX_FRAMES.check(int(stated["max_positions"]), f"max_positions is {stated['max_positions']}")
        numerics = MotionNumerics(
            image_norm_over_frames=bool(stated["image_norm_over_frames"]),
            motion_norm_over_frames=bool(stated["motion_norm_over_frames"]),
            max_positions=int(stated["max_positions"]),
            conv_in_from_file=bool(stated.get("conv_in_from_file", False)),
        )
        return replace(
            FAMILIES.get(name or "", FAMILIES["custom"]),
            name=name or "custom",
            title=FAMILIES[name].title if name in FAMILIES else f"motion module of family {name}",
            numerics=numerics,
            betas=None if stated["betas"] is None else dict(stated["betas"]),
            norm_groups=int(stated["norm_groups"]),
            num_heads=int(stated.get("num_heads", 8)),  # not in files of version 0.1
            recommended=Recommended(**stated["recommended"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{label}: its metadata {NUMERICS_KEY} cannot be read ({error}); was it edited?") from error
