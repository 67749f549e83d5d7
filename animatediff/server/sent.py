"""The names under which a client sent the settings of a job: messages name those, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from animatediff.errors import OUT_OF_MEMORY, UserError, renamed
from animatediff.limits import FLAGS
from animatediff.server.errors import ApiError, refused
from animatediff.server.schema import NAMES

_BEGINS = re.compile(r"([a-z][a-z0-9_]*)(?![\w/-])")
_NAMED = re.compile(r"(?:`|\b(?=\w+=)|\bunknown |\ba )([a-z][a-z0-9_]*)")
"""A setting in backquotes, before its value, or as a noun: `width`, width=63, unknown blend, a prompt."""
_TWICE = re.compile(r"\b([a-z][\w.]*) (?:and|x) \1(?![\w.])")
"""`width` and `height`, where both are the size."""
_VALUE = re.compile(r"`([a-z][a-z0-9_]*)`(?==)")
_OF_SERVER = {name: f"{flag} of the server" for name, flag in FLAGS.items()}
"""Limits, which no client sets."""


@dataclass
class Sent:
    """Fields that decided settings, where they are others than those of `NAMES`."""

    fields: dict[str, str] = field(default_factory=dict)
    """Setting -> field: num_frames -> seconds, steps -> extra_params.steps, image -> input_reference."""
    said: dict[str, str] = field(default_factory=dict)
    """Setting -> the field with its value, where the setting was worked out from it: num_frames -> seconds=4."""

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Sent:
        """That of a job."""
        return cls(**asked.get("sent", {}))

    def stored(self) -> dict[str, Any]:
        """The same as JSON."""
        return asdict(self)

    def put(self, field: str, settings: Iterable[str], said: str | None = None) -> None:
        """Note that a field decides settings. said: `field=value`, where they are worked out from it."""
        for setting in settings:
            self.fields[setting] = field
            if said is not None:
                self.said[setting] = said

    def name(self, setting: str) -> str:
        """The field that a client used for a setting, or would use."""
        return self.fields.get(setting, NAMES[setting])

    def renamed(self, text: str) -> str:
        """A text with fields in the places of settings in backquotes, but for a value that no field has."""
        text = _VALUE.sub(lambda found: found[1] if found[1] in self.said else found[0], text)
        return _TWICE.sub(r"\1", renamed(text, {**_OF_SERVER, **NAMES, **self.fields}))

    def refused(self, error: UserError) -> ApiError:
        """The reply for an error of the library: `param` is the field of the first setting that it names."""
        text = str(error)
        first = next((found[1] for found in _NAMED.finditer(text) if found[1] in NAMES), None)
        begin = _BEGINS.match(text)
        if begin and begin[1] in NAMES:  # without backquotes
            first = begin[1]
            text = (first if first in self.said else self.name(first)) + text[begin.end() :]
        text = self.renamed(text)
        if first in self.said:
            text = f"{self.said[first]}: {text}"
        return refused(text, None if first is None else self.name(first))

    @property
    def out_of_memory(self) -> str:
        """What a client can do where its job ran out of memory."""
        return self.renamed(OUT_OF_MEMORY)
