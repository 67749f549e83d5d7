"""Arguments of a call that have no effect, and signs in its prompts that nothing reads: a warning for each."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING

from animatediff.pipelines.arguments import NEEDS, Arguments
from animatediff.pipelines.conditions.sparsectrl import SparseCtrlCondition
from animatediff.prompts.unread import unread
from animatediff.subjects import Subject, without_effect

if TYPE_CHECKING:
    from animatediff.pipelines.job import Job
    from animatediff.pipelines.parts import LoadedParts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Call:
    job: Job
    parts: LoadedParts


SUBJECTS: dict[str, Subject[_Call]] = {
    "guidance": Subject(
        is_there=lambda call: call.job.guidance,
        lacking="guidance is off; it acts where `guidance_scale` is above 1",
    ),
    "windows": Subject(
        is_there=lambda call: len(call.job.windows.windows) > 1,
        lacking="all frames are in one window; it acts where `num_frames` is more than `window`",
    ),
    "freeinit": Subject(
        is_there=lambda call: call.job.free_init.iterations > 1,
        lacking="FreeInit is off; it acts where `freeinit` is 2 or more",
    ),
    "sparse_condition": Subject(
        is_there=lambda call: any(isinstance(each, SparseCtrlCondition) for each in call.job.conditions),
        lacking="no SparseCtrl encoder acts on this clip; it takes `sparsectrl`, and images for it",
    ),
    "conditioning_frames": Subject(
        is_there=lambda call: call.job.call.conditioning_frames is not None,
        lacking="no images for SparseCtrl are given (`control_images`, in Python `conditioning_frames`)",
    ),
    "upscale": Subject(
        is_there=lambda call: call.job.call.upscale is not None,
        lacking="it is of the second pass; add `upscale`",
    ),
    "eta": Subject(
        is_there=lambda call: "eta" in signature(call.parts.base.scheduler.step).parameters,
        lacking="this sampler does not take it; ddim does",
    ),
}
"""Subject -> when it is there. Arguments name theirs in `Arguments`."""


def warn_of_no_effect(job: Job, parts: LoadedParts) -> None:
    """Warn of each argument of a call that has no effect, and of signs in its prompts that are read as text."""
    settings = [
        (item.name, NEEDS[item.name], getattr(job.call, item.name), item.default)
        for item in fields(Arguments)
        if NEEDS[item.name]
    ]
    texts = [
        text
        for prompt in job.prompts
        for text in ([prompt] if isinstance(prompt, str) else [prompt.head, *prompt.texts.values(), prompt.tail])
    ]
    signs = dict.fromkeys(sentence for text in [*texts, *(job.negatives or ())] for sentence in unread(text))
    for sentence in [*without_effect(settings, SUBJECTS, _Call(job, parts)), *signs]:
        logger.warning("%s", sentence)
