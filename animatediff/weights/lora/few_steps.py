"""Few-step weights: what was distilled to render in a few steps, with the sampler, steps and guidance that it needs.

The published LCM-LoRAs look like other LoRAs: layers of the UNet alone, as LoRAs also have that want other samplers
(TCD, Hyper-SD). So their metadata is asked first and the name of the file, or of its folder where the file has the name
that all have, last; and it is said how it was seen. AnimateDiff-Lightning is the same among motion modules
(`recognise.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from animatediff.weights.families import Recommended
from animatediff.weights.storage.files import Header

LCM = Recommended(num_inference_steps=6, guidance_scale=1.5, scheduler="lcm")
"""Its authors: 4 to 8 steps, guidance 1 to 2, the LCM sampler."""
MOST_STEPS = 16
"""Recommended steps up to this number are those of a few-step model."""

ONE_CFG = 1.0
"""Guidance scale that switches guidance off (0 in the examples of their authors, for diffusers)."""


@dataclass(frozen=True)
class _Published:
    """A family of few-step LoRAs, by the name that its files have."""

    title: str
    name: re.Pattern[str]
    recommended: Recommended
    """Settings; the number of steps where the name says none."""


def _published(title: str, name: str, scheduler: str, steps: int, guidance: float = ONE_CFG) -> _Published:
    recommended = Recommended(num_inference_steps=steps, guidance_scale=guidance, scheduler=scheduler)
    return _Published(title, re.compile(name, re.IGNORECASE), recommended)


_PUBLISHED = (  # settings of the model cards; the first whose name is found counts
    _published("AnimateLCM-I2V LoRA", r"(?<![a-z])animate[-_ ]?lcm(?![a-z]).*(?<![a-z])i2v(?![a-z])", "lcm", 4),
    _Published("LCM-LoRA", re.compile(r"(?<![a-z])(animate)?lcm((?![a-z])|(?=lora))", re.IGNORECASE), LCM),
    _published("Hyper-SD LoRA that keeps guidance", r"hyper[-_ ]?sd.*cfg", "ddim_trailing", 8, 5.0),
    _published("Hyper-SD LoRA of one step", r"hyper[-_ ]?sd.*(?<!\d)1[-_ ]?step", "tcd", 1),
    _published("Hyper-SD LoRA", r"hyper[-_ ]?sd", "ddim_trailing", 4),
    _published("SDXL-Lightning LoRA", r"sd_?xl[-_ ]?lightning", "euler_trailing", 4),
    _published("Turbo LoRA", r"sd_?(xl)?[-_ ]?turbo|turbo[-_ ]?lora", "euler_trailing", 4),
    _published("PCM LoRA in the manner of LCM", r"(?<![a-z])pcm[-_].*lcm[-_ ]?like", "lcm", 4),
    _published("PCM LoRA with guidance", r"(?<![a-z])pcm[-_].*normal[-_ ]?cfg", "ddim_trailing", 4, 7.5),
    _published("PCM LoRA", r"(?<![a-z])pcm[-_](sd|small|lora|\d)", "ddim_trailing", 4),
    _published("TCD LoRA", r"(?<![a-z])tcd((?![a-z])|(?=lora))", "tcd", 4),
    _published("DMD2 LoRA", r"(?<![a-z])dmd2(?![a-z])", "lcm", 4),
    _published("Flash LoRA", r"(?<![a-z])flash[-_](sd|sdxl)(?![a-z])", "lcm", 4),
)
_STEPS = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])", re.IGNORECASE)
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
    """Recognise a few-step LoRA by what its metadata or name say, with its settings; None for any other LoRA."""
    if any(_TEXT_LAYERS.match(key) or "motion_modules" in key for key in header.tensors):
        return None  # they change the image layers of the UNet alone
    name = own_name(header.path)
    texts = [(header.metadata.get(key, ""), f"its metadata, {key}: ", "") for key in _TITLES]
    for text, source, doubt in [*texts, (name, "its name, ", ", as no tensor tells it from other LoRAs")]:
        found = next((known for known in _PUBLISHED if known.name.search(text)), None)
        if found is not None:
            steps = _STEPS.search(text) or _STEPS.search(name)
            wanted = found.recommended
            if steps is not None and found.recommended is not LCM:
                wanted = replace(wanted, num_inference_steps=int(steps[1]))
            return FewSteps(found.title, wanted, f"by {source}{text[:80]}{doubt}")
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
    if recommended.scheduler is None:  # any will do
        return None
    number = recommended.num_inference_steps
    return (
        f"scheduler {recommended.scheduler}, {number} step{'s' * (number > 1)}, guidance {recommended.guidance_scale:g}"
    )
