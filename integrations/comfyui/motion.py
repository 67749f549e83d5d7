"""Motion modules and MotionLoRAs: files to what the link between the nodes carries."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.weight_adapter
from comfy.model_patcher import ModelPatcher

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.weights.families import Family
from animatediff.weights.lora.layers import LayerChange
from animatediff.weights.lora.load import check_lora, motion_lora_changes
from animatediff.weights.lora.source import lora_header
from animatediff.weights.motion import empty_motion_module, find_header, load_motion_module
from animatediff.weights.recognise import Recognised, recognise_header, wrong_kind
from animatediff.weights.storage.files import Header
from animatediff.weights.trained_with import trained_with

from .conditions import Condition
from .layers import in_host, weight_dtype


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A loaded motion module: its weights as a model of the host, with the MotionLoRAs on them, and its facts."""

    patcher: ModelPatcher
    family: Family
    path: Path
    loras: tuple[str, ...] = ()
    """Names of the MotionLoRAs, for messages."""
    conditions: tuple[Condition, ...] = ()
    """What it sees besides the latents: an image, a path of the camera."""

    @property
    def adapter(self) -> MotionAdapter:
        """The motion modules, whose weights are the host's to move."""
        return self.patcher.model

    def __str__(self) -> str:
        return " with ".join([self.path.name, *([" and ".join(self.loras)] if self.loras else [])])


def check_motion_module(path: Path) -> None:
    """Raise UserError for a file that `load_motion` would refuse whatever the family; reads its header alone."""
    found = recognise_header(find_header(path))
    if found.kind != "motion_module":
        raise wrong_kind(found, "motion_module")
    if found.family is not None:  # else it is to be given, and the file is looked at when it is
        empty_motion_module(path)


def load_motion(path: Path, family: str | None, *, conv_in_from_file: bool = False) -> Motion:
    """Load motion modules; `family` None is that of the file.

    conv_in_from_file: PIA's first layer is wholly that of its file. Raises UserError as `load_motion_module`.
    """
    adapter, facts = load_motion_module(
        path, family=family, dtype=weight_dtype(), conv_in_from_file=conv_in_from_file or None
    )
    patcher = in_host(adapter)
    patcher.cached_patcher_init = (_load_again, (path, family, conv_in_from_file))  # for a second GPU
    return Motion(patcher=patcher, family=facts, path=path)


def _load_again(path: Path, family: str | None, conv_in_from_file: bool, **_: Any) -> ModelPatcher:
    return load_motion(path, family, conv_in_from_file=conv_in_from_file).patcher


def lora_of_kind(path: Path, *kinds: str) -> tuple[Header, Recognised]:
    """The header of a LoRA of one of these kinds. Raises UserError for another file, which names the first of them."""
    header = lora_header(path)
    found = recognise_header(header)
    if found.kind not in kinds:
        raise wrong_kind(found, kinds[0])
    check_lora(header)
    return header, found


def with_lora(motion: Motion, path: Path, strength: float) -> Motion:
    """The same motion module with a MotionLoRA on it; `motion` stays as it is.

    The host adds it to the weights when it loads them, and takes it out again exactly. Raises UserError for a file that
    is no MotionLoRA, or one that does not fit.
    """
    header, _ = lora_of_kind(path, "motion_lora")
    changes = motion_lora_changes(header, motion.adapter)
    patcher = motion.patcher.clone()
    patches = dict(patch for change in changes for patch in change_patches(change, change.path))
    missed = patches.keys() - set(patcher.add_patches(patches, strength))
    if missed:  # a bias, of a layer that has none
        raise UserError(f"{path}: changes {sorted(missed)[0]}, which these motion modules do not have")
    family = replace(motion.family, sampling={**motion.family.sampling, **trained_with(header)})
    return replace(motion, patcher=patcher, family=family, loras=(*motion.loras, path.name))


def with_condition(motion: Motion, condition: Condition) -> Motion:
    """The same motion module, which sees one thing more; `motion` stays as it is.

    Raises UserError for modules that cannot see it, or see one of its kind already.
    """
    condition.check(motion)
    if any(before.kind == condition.kind for before in motion.conditions):
        raise UserError(f"this motion module goes through AnimateDiff {condition.kind} already; one of it acts")
    return replace(motion, conditions=(*motion.conditions, condition))


def change_patches(change: LayerChange, layer: str) -> Iterator[tuple[str, Any]]:
    """Pairs of a key and a patch of the host for what a LoRA does to the layer of that name."""
    if change.pair is not None:
        down, up = change.pair
        weights = (up, down, change.alpha, None, change.magnitude, None)
        yield f"{layer}.weight", comfy.weight_adapter.LoRAAdapter(set(), weights)
    elif change.weight is not None:
        yield f"{layer}.weight", ("diff", (change.weight,))
    if change.bias is not None:
        by = 1.0 if change.pair is None else change.alpha / change.rank
        yield f"{layer}.bias", ("diff", (change.bias * by,))
