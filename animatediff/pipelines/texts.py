"""Texts of a call, one a clip: prompts and negative prompts, or their embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines.argument_types import told
from animatediff.pipelines.arguments import Arguments
from animatediff.prompts import PromptTravel

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Prompts of a call, one a clip. Raises UserError where the call has too few, too many or contradicting ones."""

    num_clips: int
    prompts: Sequence[str | PromptTravel] = ()
    """Empty where there are embeddings."""
    prompts_2: Sequence[str] | None = None
    """For SDXL's second text encoder; None are the same."""
    negatives: Sequence[str] | None = None
    """None where the call has none."""
    negatives_2: Sequence[str] | None = None
    embeds: Tensor | None = None
    """(b, n, d)."""
    negative_embeds: Tensor | None = None
    pooled: Tensor | None = None
    """(b, d)."""
    negative_pooled: Tensor | None = None

    @classmethod
    def of(cls, call: Arguments, *, sdxl: bool) -> Texts:
        """Read the texts of a call, those for SDXL's second text encoder only for SDXL."""
        prompts, embeds = _prompts(call), call.prompt_embeds
        _check_embeds(call, sdxl=sdxl)
        count, each = len(prompts) if embeds is None else len(embeds), call.num_videos_per_prompt or 1

        def texts(given: Any, name: str) -> list[str] | None:
            if given is None:
                return None
            listed = [given] if isinstance(given, str) else list(given)
            if len(listed) not in (1, count):
                raise UserError(f"{count} prompts want 1 or {count} {name}, got {len(listed)}")
            return repeated(listed * count if len(listed) == 1 else listed, each)

        def tensor(name: str) -> Tensor | None:
            given = getattr(call, name)
            if given is None:
                return None
            if len(given) != count:
                raise UserError(f"{count} prompts want `{name}` of as many rows, got {tuple(given.shape)}")
            return given.repeat_interleave(each, 0)

        negatives = texts(call.negative_prompt, "negative prompts")
        negatives_2 = texts(call.negative_prompt_2, "`negative_prompt_2`") if sdxl else None
        if negatives_2 is not None and negatives is None and call.negative_prompt_embeds is None:
            negatives = [""] * len(negatives_2)
        return cls(
            num_clips=count * each,
            prompts=repeated(prompts, each) if embeds is None else (),
            prompts_2=texts(call.prompt_2, "`prompt_2`") if sdxl else None,
            negatives=negatives,
            negatives_2=negatives_2,
            embeds=tensor("prompt_embeds"),
            negative_embeds=tensor("negative_prompt_embeds"),
            pooled=tensor("pooled_prompt_embeds") if sdxl else None,
            negative_pooled=tensor("negative_pooled_prompt_embeds") if sdxl else None,
        )

    def clips(self, chosen: Sequence[int]) -> Texts:
        """The texts of some of the clips, which have no embeddings."""

        def some(texts: Sequence[T] | None) -> list[T] | None:
            return None if texts is None else [texts[clip] for clip in chosen]

        return replace(
            self,
            num_clips=len(chosen),
            prompts=some(self.prompts) or (),
            prompts_2=some(self.prompts_2),
            negatives=some(self.negatives),
            negatives_2=some(self.negatives_2),
        )

    def check(self, num_frames: int) -> None:
        """Raise UserError for a text at a frame that the clip does not have."""
        for prompt in self.prompts:
            if isinstance(prompt, PromptTravel):
                prompt.check(num_frames)


def repeated(values: Sequence[T], times: int) -> list[T]:
    """Each value so many times.

    >>> repeated("ab", 2)
    ['a', 'a', 'b', 'b']
    """
    return [value for value in values for _ in range(times)]


def _prompts(call: Arguments) -> list[str | PromptTravel]:
    """Prompts as a list, with mappings of frames to texts as `PromptTravel`."""
    prompt: Any = call.prompt
    if prompt is None:
        if call.prompt_embeds is None:
            raise UserError("there is no prompt: give a text, a list of at least one, or `prompt_embeds`")
        return []
    if call.prompt_embeds is not None:
        raise UserError("`prompt` and `prompt_embeds` are given; give one of the two")
    single = isinstance(prompt, str) or not isinstance(prompt, Sequence)
    listed: list[Any] = [prompt] if single else [*prompt]
    for one in listed:
        if not isinstance(one, (str, Mapping, PromptTravel)):
            raise UserError(f"a prompt is a text, or a mapping of frames to texts; got {told(one)}")
    if not listed:
        raise UserError("there is no prompt: give a text, or a list of at least one")
    return [PromptTravel(one) if isinstance(one, Mapping) else one for one in listed]


def _check_embeds(call: Arguments, *, sdxl: bool) -> None:
    if call.negative_prompt is not None and call.negative_prompt_embeds is not None:
        raise UserError("`negative_prompt` and `negative_prompt_embeds` are given; give one of the two")
    for name, axes in (
        ("prompt_embeds", 3), ("negative_prompt_embeds", 3), ("pooled_prompt_embeds", 2),
        ("negative_pooled_prompt_embeds", 2),
    ):  # fmt: skip
        if (given := getattr(call, name)) is not None and given.ndim != axes:
            shape = "(b, n, d)" if axes == 3 else "(b, d)"
            raise UserError(f"`{name}` is {shape}, one row a prompt, got {tuple(given.shape)}")
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        pooled = name.replace("prompt", "pooled_prompt")
        if sdxl and (getattr(call, name) is None) != (getattr(call, pooled) is None):
            raise UserError(f"SDXL takes `{name}` and `{pooled}` together; encode_prompt returns both")
    if call.prompt_embeds is not None and call.prompt_2 is not None and sdxl:
        raise UserError("`prompt_2` and `prompt_embeds` are given; give one of the two")
    if call.negative_prompt_embeds is not None and call.negative_prompt_2 is not None and sdxl:
        raise UserError("`negative_prompt_2` and `negative_prompt_embeds` are given; give one of the two")
    positive, negative = call.prompt_embeds, call.negative_prompt_embeds
    if positive is not None and negative is not None and positive.shape != negative.shape:
        raise UserError(
            f"`prompt_embeds` and `negative_prompt_embeds` have one shape; got {tuple(positive.shape)} and "
            f"{tuple(negative.shape)}"
        )
