"""config.json beside motion modules: facts that no tensor tells, written by diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.weights.families import Family
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header
from animatediff.weights.storage.folders import STEMS, read_json

MOTION_CLASSES = ("MotionAdapter", "UNetMotionModel", "SparseControlNetModel", "UNet3DConditionModel")
"""Classes with motion modules, diffusers' and HotshotXL's."""


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """Facts in a config.json, None where it says nothing of them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    positions: int | None = None
    num_heads: int | None = None
    norm_groups: int | None = None

    def applied(self, family: Family) -> Family:
        """The family with the heads and norm groups that are stated here."""
        return replace(
            family,
            num_heads=self.num_heads or family.num_heads,
            norm_groups=self.norm_groups or family.norm_groups,
        )


def config_beside(header: Header) -> MotionConfig:
    """The configuration of motion modules in the folder that a weight file belongs to; empty where there is none.

    Raises UserError for one that cannot be read, or whose values cannot be.
    """
    folder = header.path if header.path.is_dir() else header.path.parent
    path = folder / "config.json" if header.config is None else header.path
    if header.config is None and (not path.is_file() or not _belongs(header.path, folder)):
        return MotionConfig()
    values = read_json(path) if header.config is None else header.config
    if values.get("_class_name") not in MOTION_CLASSES and not any(key.startswith("motion_") for key in values):
        return MotionConfig()
    # UNetMotionModel gives its motion modules the norm groups of its image layers.
    groups = "norm_num_groups" if values.get("_class_name") == "UNetMotionModel" else "motion_norm_num_groups"
    return MotionConfig(
        values=values,
        positions=_count(values, "motion_max_seq_length", path),
        num_heads=_count(values, "motion_num_attention_heads", path),
        norm_groups=_count(values, groups, path),
    )


def _belongs(file: Path, folder: Path) -> bool:
    """Whether a folder's config.json is about this file: it has a name of diffusers' own, or no other file there has.

    A repository may hold a single file beside the same weights in diffusers' layout.
    """
    if file == folder or file.name.startswith(STEMS):
        return True
    return not any(child.name.startswith(STEMS) and child.suffix in WEIGHT_SUFFIXES for child in folder.iterdir())


def _count(values: Mapping[str, Any], key: str, path: Path) -> int | None:
    """A positive whole number, also as a list with one for each level. Raises UserError for anything else."""
    value = values.get(key)
    if value is None:
        return None
    numbers = value if isinstance(value, list | tuple) else [value]
    if not numbers or any(type(n) is not int or n < 1 for n in numbers):
        raise UserError(f"{path}: {key} is {value!r}, expected a whole number from 1 on")
    if len(set(numbers)) > 1:
        raise UserError(f"{path}: {key} differs from level to level ({value}), which is not supported")
    return numbers[0]
