"""The request of a user: validated and frozen, the same for every front end. Its fields are the options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError, model_validator

from animatediff.errors import UserError, brief, nearest, unknown
from animatediff.pipelines.clip import larger
from animatediff.prompts.travel import PromptTravel, joined
from animatediff.render.options import BY_NAME, FIELDS, IN_MEMORY, PATH_FIELDS, PER_CLIP, AnimateOptions
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.request_checks import CHECKS, images_of, of_controlnet
from animatediff.render.request_fields import UNKNOWN_WORD, options_model
from animatediff.render.request_inputs import (
    Count,
    EmbeddingRef,
    Entry,
    Finite,
    Keyframe,
    Name,
    Size,
    WeightRef,
    is_note,
    noted,
)

__all__ = [
    "FIELDS",
    "PATH_FIELDS",
    "AnimateRequest",
    "Count",
    "EmbeddingRef",
    "Finite",
    "Name",
    "Size",
    "WeightRef",
    "build_request",
    "unknown_key",
]

NOT_STORED = ("out", "name", "download")
"""Settings that decide no frame of a result: where it is written, and whether the network may be asked."""

if TYPE_CHECKING:

    class _Options(AnimateOptions, Entry):
        def __init__(self, **values: Any) -> None: ...

else:
    _Options = options_model("Options", Entry)


class AnimateRequest(_Options):
    __doc__ = AnimateOptions.__doc__

    @model_validator(mode="before")
    @classmethod
    def _one_form_of_prompts(cls, values: Any) -> Any:
        return normal_prompts(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _consistent(self) -> AnimateRequest:
        for check in CHECKS:
            check(self)
        return self

    def __eq__(self, other: object) -> bool:
        """Whether two requests ask for the same; images and videos in memory are compared by their pixels."""
        if not isinstance(other, AnimateRequest):
            return NotImplemented
        return all(noted(getattr(self, name)) == noted(getattr(other, name)) for name in FIELDS)

    __hash__ = _Options.__hash__

    @property
    def num_clips(self) -> int:
        """Number of clips that are asked for."""
        return max(len(getattr(self, name)) for name in PER_CLIP)

    def clip(self, index: int) -> AnimateRequest:
        """The request for clip `index` alone."""
        one = {name: (values[index % len(values)],) for name in PER_CLIP if (values := getattr(self, name))}
        return self.model_copy(update=one)

    def prompt_of(self, index: int = 0) -> str | PromptTravel:
        """The prompt of clip `index`, with head and tail, or its texts at frames."""
        clip = self.clip(index)
        head, tail = self.prompt_head or "", self.prompt_tail or ""
        if not any(clip.prompt_travel):
            return joined(head, clip.prompt[0], tail)
        return PromptTravel(
            {0: clip.prompt[0], **clip.prompt_travel[0]},
            head=head,
            tail=tail,
            interpolation=self.prompt_interpolation,
            hold=self.prompt_hold,
            loop=self.prompt_loop or self.closed_loop,
        )

    @property
    def all_loras(self) -> tuple[WeightRef, ...]:
        """The domain adapter, LoRAs and MotionLoRAs, in the order in which they are loaded."""
        return (*filter(None, (self.domain_adapter,)), *self.loras, *self.motion_loras)

    @property
    def images(self) -> list[tuple[int, Any]]:
        """(frame, file or image in memory) of all images that the clip shows."""
        return images_of(self)

    def of_controlnet(self, name: str, index: int) -> Any:
        """The entry of a setting for one of the ControlNets."""
        return of_controlnet(self, name, index)

    def larger_size(self, width: int, height: int) -> tuple[int, int]:
        """The size of the result, for a first pass of this size in pixels; multiples of 8."""
        factor = self.upscale or 1.0
        return larger(width, factor), larger(height, factor)

    def stored(self) -> dict[str, Any]:
        """Record of the settings that decide the frames of a result, as plain JSON values.

        Images and videos in memory are noted by kind, size and SHA-256 of their pixels.
        """
        notes = {name: noted(getattr(self, name)) for name in IN_MEMORY}
        plain = self.model_copy(update=notes)
        return plain.model_dump(mode="json", exclude=set(NOT_STORED), exclude_defaults=True)


def unknown_key(key: Any, known: Iterable[str], where: str) -> UserError:
    """The error for a setting that does not exist, with the nearest one that does."""
    found = brief(key)
    close = nearest(key, known) if isinstance(key, str) else None
    if close is None and isinstance(key, str):
        close = nearest(key, [word.lower() for word in known])
    hint = f"did you mean {close!r}?" if close else f"known settings: {', '.join(sorted({*known}))}"
    return UserError(f"{where}unknown setting {found}; {hint}")


def build_request(values: Mapping[str, Any], where: str = "", lines: Mapping[str, int] | None = None) -> AnimateRequest:
    """Validate `values`. Raises UserError that names the place (`where`, line), the setting, and expected values."""
    lines = lines or {}
    prefix = f"{where}: " if where else ""
    for key in values:
        if key not in FIELDS:
            raise unknown_key(key, FIELDS, prefix)
    if gone := [f"`{name}`" for name in IN_MEMORY if is_note(values.get(name))]:
        names = ", ".join(gone)
        raise UserError(f"{prefix}was made with images or videos in memory, which are not kept; give {names} again")
    try:
        return AnimateRequest.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("\n".join(_sentences(error, where, lines))) from error


def _sentences(error: ValidationError, where: str, lines: Mapping[str, int]) -> list[str]:
    sentences = []
    for item in error.errors(include_url=False)[:5]:
        location = [str(part) for part in item["loc"]]
        name = location[0] if location else ""
        line = f", line {lines[name]}" if name in lines else ""
        place = f"{where}{line}: " if where else ""
        setting = name + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location[1:])
        text = item["msg"].removeprefix("Value error, ")
        text = text[:1].lower() + text[1:]
        if item["type"] == "extra_forbidden":
            entries = {"embeddings": EmbeddingRef, "keyframes": Keyframe}
            known = entries.get(name, WeightRef).model_fields
            sentences.append(str(unknown_key(location[-1], known, f"{place}{name}: ")))
        elif item["type"] == UNKNOWN_WORD:
            sentences.append(f"{place}{unknown(setting, item['input'], BY_NAME[name].choices or ())}")
        elif item["type"] == "missing":
            sentences.append(f"{place}{setting} is missing")
        elif name == "prompt" and item["type"] == "too_short":
            sentences.append(f"{place}no prompt: expected at least one")
        elif not name:
            sentences.append(f"{place}{text}")
        else:
            sentences.append(f"{place}{setting}={brief(item['input'])}: {text}")
    return sentences
