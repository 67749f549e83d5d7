"""Arguments of a call without effect, and signs and words in its prompts that nothing reads: a warning for each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, fields
from inspect import signature
from typing import TYPE_CHECKING, Any

from animatediff.pipelines.arguments import NEEDS, Arguments
from animatediff.pipelines.conditions.controlnet import ControlNetCondition
from animatediff.pipelines.conditions.i2v import I2VCondition
from animatediff.pipelines.conditions.image import ImageCondition
from animatediff.pipelines.conditions.pia import PIACondition
from animatediff.pipelines.conditions.sparsectrl import SparseCtrlCondition
from animatediff.pipelines.parts import is_sdxl
from animatediff.prompts.unread import unread
from animatediff.prompts.vocabulary import say_unknown
from animatediff.prompts.words import spell_out, words_in
from animatediff.sampling.fast import FEWEST_STEPS
from animatediff.subjects import Subject, without_effect

if TYPE_CHECKING:
    from animatediff.pipelines.job import Job
    from animatediff.pipelines.parts import LoadedParts
    from animatediff.weights.addons.embeddings import LoadedEmbedding

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
        is_there=lambda call: len(call.job.windows.windows) > 1 or call.job.windows.streams,
        lacking="all frames are in one window; it acts where `num_frames` is more than `window`",
    ),
    "freeinit": Subject(
        is_there=lambda call: call.job.free_init.iterations > 1,
        lacking="FreeInit is off; it acts where `freeinit` is 2 or more",
    ),
    "sparse_condition": Subject(
        is_there=lambda call: any(
            isinstance(each, SparseCtrlCondition) or (isinstance(each, ControlNetCondition) and each.by_frames)
            for each in call.job.conditions
        ),
        lacking="no SparseCtrl encoder acts on this clip; it takes `sparsectrl`, and images for it",
    ),
    "controls": Subject(
        is_there=lambda call: any(
            isinstance(each, SparseCtrlCondition | ControlNetCondition) for each in call.job.conditions
        ),
        lacking="neither a ControlNet nor SparseCtrl acts on this clip",
    ),
    "pia": Subject(
        is_there=lambda call: any(isinstance(each, PIACondition) for each in call.job.conditions),
        lacking="no image goes by the way of PIA; it takes its motion module (pia.ckpt) and `images`",
    ),
    "sdxl": Subject(
        is_there=lambda call: is_sdxl(call.parts.base),
        lacking="it is of SDXL, and the base model has one text encoder and is told no sizes",
    ),
    "pag": Subject(
        is_there=lambda call: call.job.pag is not None,
        lacking="perturbed-attention guidance is off; it acts where `pag_scale` is above 0",
    ),
    "strength": Subject(
        is_there=lambda call: call.job.strength < 1,
        lacking="all steps are made; it acts where a `video`, or `latents` with a `strength`, begin part of the way",
    ),
    "callback": Subject(
        is_there=lambda call: call.job.call.callback_on_step_end is not None,
        lacking="there is no callback; add `callback_on_step_end`",
    ),
    "conditioning_frames": Subject(
        is_there=lambda call: call.job.call.conditioning_frames is not None,
        lacking="no images for SparseCtrl are given (`control_images`, in Python `conditioning_frames`)",
    ),
    "shown": Subject(
        is_there=lambda call: any(isinstance(each, ImageCondition) for each in call.job.conditions),
        lacking="no image is given whose colours frames could take; add `images`",
    ),
    "i2v": Subject(
        is_there=lambda call: any(isinstance(each, I2VCondition) for each in call.job.conditions),
        lacking="no image goes by the route i2v; it takes AnimateLCM-I2V as `motion_module`, and an image",
    ),
    "camera": Subject(
        is_there=lambda call: call.job.call.camera is not None,
        lacking="no path of the camera is given; add `camera`",
    ),
    "motion_from": Subject(
        is_there=lambda call: call.job.call.motion_from is not None,
        lacking="no video is given whose movement the clip takes; add `motion_from`",
    ),
    "upscale": Subject(
        is_there=lambda call: call.job.call.upscale is not None,
        lacking="it is of the second pass; add `upscale`",
    ),
    "fast": Subject(
        is_there=lambda call: call.job.fast is not None,
        lacking=f"outputs of so few steps differ too much; it acts from {FEWEST_STEPS} steps on",
    ),
    "resume": Subject(
        is_there=lambda call: call.job.call.resume is not None,
        lacking="no state is saved; add `resume`, a folder for it",
    ),
    "eta": Subject(
        is_there=lambda call: "eta" in signature(call.parts.base.scheduler.step).parameters,
        lacking="this sampler does not take it; ddim does",
    ),
}
"""Subject -> when it is there. Arguments name theirs in `Arguments`."""


def warn_of_no_effect(job: Job, parts: LoadedParts) -> None:
    """Warn of arguments and embeddings that have no effect on a clip, and of signs in its prompts read as text."""
    settings = [
        (item.name, NEEDS[item.name], getattr(job.call, item.name), item.default)
        for item in fields(Arguments)
        if NEEDS[item.name]
    ]
    texts = [
        text
        for prompt in job.texts.prompts
        for text in ([prompt] if isinstance(prompt, str) else [prompt.head, *prompt.texts.values(), prompt.tail])
    ]
    tokenizer = getattr(parts.base, "tokenizer", None)
    texts += job.texts.prompts_2 or ()
    negatives = [*(job.texts.negatives or ()), *(job.texts.negatives_2 or ())]
    spelled = [spell_out(text, tokenizer) for text in [*texts, *negatives]]
    signs = dict.fromkeys(sentence for text in spelled for sentence in unread(text))
    read = [*texts, *(negatives if job.guidance else ())]
    unused = unused_words(parts.embeddings, read, tokenizer)
    off = [
        f"ControlNet {number} has no effect: its strength (`controlnet_scale`) is 0"
        for number, net in enumerate((one for one in job.conditions if isinstance(one, ControlNetCondition)), 1)
        if net.given.scale == 0
    ]
    strange = say_unknown(read, tokenizer, plain=job.call.plain_prompts)
    for sentence in [*without_effect(settings, SUBJECTS, _Call(job, parts)), *signs, *unused, *strange, *off]:
        logger.warning("%s", sentence)


def unused_words(embeddings: Iterable[LoadedEmbedding], texts: Iterable[str], tokenizer: Any) -> list[str]:
    """One sentence for each embedding whose word none of these texts has."""
    used = words_in(texts, tokenizer)
    return [
        f"{one.label}: has no effect: no prompt of this clip has its word, {' or '.join(one.words)}"
        for one in embeddings
        if not used & {word.lower() for word in one.words}
    ]
