"""Few-step weights: what was distilled to render in a few steps, with the sampler, steps and guidance that it needs.

The published LCM-LoRAs look like other LoRAs: layers of the UNet alone, as LoRAs also have that want other samplers
(TCD, Hyper-SD). So their metadata is asked first and the name of the file, or of its folder where the file has the name
that all have, last; and it is said how it was seen. AnimateDiff-Lightning is the same among motion modules
(`recognise.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from animatediff.weights.families import Recommended
from animatediff.weights.storage.files import Header

LCM = Recommended(num_inference_steps=6, guidance_scale=1.5, scheduler="lcm")
"""Its authors: 4 to 8 steps, guidance 1 to 2, the LCM sampler."""
MOST_STEPS = 8
"""Recommended steps up to this number are those of a few-step model."""

_LCM = re.compile(r"(?<![a-z])(animate)?lcm((?![a-z])|(?=lora))", re.IGNORECASE)
_TEXT_LAYERS = re.compile(r"^(lora_te\d?_|text_encoder)")
_ANY_NAME = re.compile(r"^(pytorch_lora_weights|adapter_model|diffusion_pytorch_model)", re.IGNORECASE)
_TITLES = ("modelspec.title", "modelspec.description", "ss_output_name", "name", "title", "description")
"""Metadata in which training tools write what a file is."""


@dataclass(frozen=True)
class FewSteps:
    """A LoRA that wants few steps."""

    title: str
    recommended: Recommended
    evidence: str
    """Evidence by which it was recognised."""


def few_step_lora(header: Header) -> FewSteps | None:
    """Recognise an LCM-LoRA by its header, with the settings it needs; None for any other LoRA of the image model."""
    if any(_TEXT_LAYERS.match(key) or "motion_modules" in key for key in header.tensors):
        return None  # LCM-LoRAs change the image layers of the UNet alone
    for key in _TITLES:
        if (value := header.metadata.get(key)) and _LCM.search(value):
            return FewSteps("LCM-LoRA", LCM, f"by its metadata, {key}: {value[:80]}")
    name = own_name(header.path)
    if _LCM.search(name):
        return FewSteps("LCM-LoRA", LCM, f"by its name, {name}, as no tensor tells it from other LoRAs")
    return None


def own_name(path: Path) -> str:
    """The name of a file, or of the folder or hub repository around it where every such file has the same name."""
    if not _ANY_NAME.match(path.name):
        return path.name
    for parent in path.parents:
        if parent.name.startswith("models--"):  # the hub's cache: models--owner--name/snapshots/{hash}/file
            return parent.name.removeprefix("models--").replace("--", "/")
    return path.parent.name


def few_steps(recommended: Recommended) -> str | None:
    """Describe the default settings of a few-step model; None for any other."""
    if recommended.num_inference_steps is None or recommended.num_inference_steps > MOST_STEPS:
        return None
    number = recommended.num_inference_steps
    return (
        f"scheduler {recommended.scheduler}, {number} step{'s' * (number > 1)}, guidance {recommended.guidance_scale:g}"
    )
