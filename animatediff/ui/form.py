"""The form: a field for every option, read into settings, filled from settings, with errors beside the fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from animatediff.errors import UserError
from animatediff.render.declare import Option
from animatediff.render.options import BY_NAME, CONTROLNET, OPTIONS
from animatediff.render.portable import portable, with_files
from animatediff.render.request import AnimateRequest, build_request
from animatediff.ui import fields, media_fields, rows
from animatediff.ui.fields import Field, Sources
from animatediff.ui.labels import NOT_ON_THE_PAGE, concerned, group, label, worded
from animatediff.ui.library import gr

UNITS = 3
"""ControlNets that the form has room for."""
ROWS = {"loras": 6, "motion_loras": 4, "embeddings": 4, "domain_adapter": 1}
WORDS = {
    "scheduler": ("animatediff.sampling.schedulers", "SCHEDULERS"),
    "family": ("animatediff.weights.families", "FAMILIES"),
}
"""Options with known words that take others too, and the tables of these."""
DEVICES = ("cpu", "cuda", "mps")


def field_of(option: Option) -> Field:
    """The kind of field that suits an option."""
    entry = option.annotation.removeprefix("tuple[").removesuffix(", ...]").removesuffix(" | None")
    if option.name in ("prompt", "negative_prompt"):
        return fields.LongText(option)
    if option.name == "motion_loras":
        return rows.MotionLoras(option, ROWS["motion_loras"])
    if entry in ("WeightRef", "EmbeddingRef"):
        return rows.Weights(option, ROWS.get(option.name, 4) if option.many else 1)
    if "dict[int, str]" in entry:
        return rows.Travel(option)
    if entry == "Keyframe":
        return media_fields.ImagesAtFrames(option)
    if entry == "ImageInput":
        return media_fields.Images(option) if option.many else media_fields.Image(option)
    if entry == "VideoInput":
        return media_fields.Files(option)
    if option.name == "camera":
        return media_fields.PosesOrMoves(option)
    if option.folder is not None:
        is_text = option.folder == "" and option.name != "ip_adapter_encoder"
        return media_fields.TextFile(option) if is_text else fields.Model(option)
    return _plain_field(option, entry)


def _plain_field(option: Option, entry: str) -> Field:
    from importlib import import_module

    if "dict[int, float]" in entry:
        return fields.Curve(option)
    if entry.startswith("tuple[float"):
        return fields.Spread(option)
    if entry == "bool":
        return fields.Switch(option)
    if option.name in WORDS:
        module, table = WORDS[option.name]
        return fields.Word(option, tuple(getattr(import_module(module), table)), own=True)
    if option.name == "device":
        return fields.Word(option, DEVICES, own=True)
    if option.choices is not None:
        several = option.many and option.panel != CONTROLNET  # a unit has one
        return (fields.Words if several else fields.Word)(option, option.choices)
    if entry == "int" and option.many:
        return fields.Numbers(option)
    if entry in ("int", "float"):
        within, given = option.range, option.default
        bounded = within is not None and within.le is not None and within.le <= 100 and given is not None
        lowest = within is not None and (within.ge is not None or within.gt is not None)
        return fields.Share(option) if bounded and lowest else fields.Number(option)
    return fields.Text(option)


class Units:
    """The fields of the ControlNets, as many times as there is room for; an option's entries are those of the units."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.options = options
        self.units = [[field_of(option) for option in options] for _ in range(UNITS)]
        for number, unit in enumerate(self.units):
            for field in unit:
                field.unit = number

    def read(self, values: Mapping[str, Sequence[Any]], sources: Sources) -> dict[str, Any]:
        """The settings of the units that something is set in."""
        found = [
            {field.name: field.read([values[field.name][number]], sources) for field in unit}
            for number, unit in enumerate(self.units)
        ]
        start = {field.name: field.read(field.show(None, sources), sources) for field in self.units[0]}
        used = [unit for unit in found if unit != start]
        settings: dict[str, Any] = {}
        for option in self.options:
            entries = [unit[option.name] for unit in used]
            if option.default == ():
                entries = [entry for entry in entries if entry is not None]
            entries = [start[option.name] if entry is None else entry for entry in entries]
            if entries and tuple(entries) != option.default * len(entries):
                settings[option.name] = entries
        return settings

    def show(self, settings: Mapping[str, Any], sources: Sources) -> dict[str, list[Any]]:
        """The values of the components of each option, unit by unit."""
        count = max((len(settings.get(option.name) or ()) for option in self.options), default=0)
        if count > UNITS:
            raise UserError(f"`controlnet` has {count} entries, and the form has room for {UNITS}")
        values: dict[str, list[Any]] = {}
        for option in self.options:
            given = list(settings.get(option.name) or ())
            if len(given) == 1 and option.default != ():
                given *= count
            shown = []
            for number, unit in enumerate(self.units):
                field = next(field for field in unit if field.name == option.name)
                shown += field.show(given[number] if number < len(given) else None, sources)
            values[option.name] = shown
        return values


COLUMN = 210
"""Pixels that a field needs: two stand beside each other where there is room, one on a phone."""


class Form:
    """A field for every option; `values` are those of `components`, in their order."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        listed = [option for option in OPTIONS if option.name not in NOT_ON_THE_PAGE]
        self.units = Units([option for option in listed if option.panel == CONTROLNET])
        of_units = {option.name for option in self.units.options}
        self.fields = {option.name: field_of(option) for option in listed if option.name not in of_units}
        self.names = [option.name for option in listed]
        self.errors: dict[str, Any] = {}
        """Option -> the component under its field that shows what is wrong with it."""
        self.folds: dict[str, Any] = {}
        """Title -> the folded part of the page."""

    # -- components ----------------------------------------------------------------------------------------------------

    def make(self, name: str) -> None:
        """Make the components of an option, and the place of its error, in the current place of the page."""
        self.fields[name].make(self.sources)
        self.errors[name] = error_place()

    def make_unit(self, number: int) -> None:
        """Make the components of one ControlNet."""
        own = self.units.units[number]
        for pair in paired(own):
            with gr.Row(equal_height=False):
                for field in pair:
                    with gr.Column(min_width=COLUMN):
                        field.make(self.sources)
                        if number == 0:
                            self.errors[field.name] = error_place()

    def parts(self, name: str) -> list[Any]:
        """The components of an option."""
        if name in self.fields:
            return self.fields[name].parts
        return [part for unit in self.units.units for field in unit if field.name == name for part in field.parts]

    @property
    def components(self) -> list[Any]:
        """All of them."""
        return [part for name in self.names for part in self.parts(name)]

    def _by_name(self, values: Sequence[Any]) -> dict[str, Sequence[Any]]:
        found, start = {}, 0
        for name in self.names:
            count = len(self.parts(name))
            found[name] = values[start : start + count]
            start += count
        assert start == len(values), "a value for each component"
        return found

    # -- settings ------------------------------------------------------------------------------------------------------

    def settings(self, values: Sequence[Any]) -> dict[str, Any]:
        """The settings that are not left open. Raises UserError, naming the option, for what a field cannot hold."""
        by_name = self._by_name(values)
        found = {name: field.read(by_name[name], self.sources) for name, field in self.fields.items()}
        found |= self.units.read(by_name, self.sources)
        return {name: found[name] for name in self.names if found.get(name) is not None}

    def request(self, values: Sequence[Any], clips: int = 1, **others: Any) -> AnimateRequest:
        """The request of the form. Raises UserError as `settings` and `build_request`.

        clips: how many are rendered, with the seeds after the first one's; others: settings that the page decides.
        """
        given = self.settings(values)
        if not given.get("prompt"):
            raise UserError("`prompt` is empty: say what to show")
        if clips != 1:
            if not (isinstance(clips, int) and 1 < clips <= 64):
                raise UserError(f"`seed`: {clips} clips; expected 1 to 64")
            if len(seeds := given.get("seed", [-1])) > 1:
                raise UserError(f"`seed`: {len(seeds)} seeds make as many clips; give one seed, or set “Clips” to 1")
            given["seed"] = [seeds[0] + number if seeds[0] >= 0 else -1 for number in range(clips)]
        given = {name: value for name, value in given.items() if not self._is_default(name, value)}
        return build_request(given | others)

    def _is_default(self, name: str, value: Any) -> bool:
        field = self.fields.get(name)
        return field is not None and not field.option.required and value == field.option.default

    def shown(self, request: AnimateRequest) -> list[Any]:
        """The values of the components for a request. Raises UserError for what the form has no room for."""
        stored, _ = portable(request.stored(), self.sources.choices.roots)
        full = request.stored()
        uploads = {name for name in self.names if _is_upload(name)}
        settings = {name: full.get(name) if name in uploads else stored.get(name) for name in self.names}
        values = {name: field.show(settings[name], self.sources) for name, field in self.fields.items()}
        values |= self.units.show(settings, self.sources)
        return [value for name in self.names for value in values[name]]

    # -- errors --------------------------------------------------------------------------------------------------------

    def failure(self, message: str, request: AnimateRequest | None = None) -> tuple[dict[Any, Any], str, list[str]]:
        """Updates that show a message beside its fields, the line for all, and the options concerned.

        request: whose files a message may name in place of an option.
        """
        files = {} if request is None else _files_of(request)
        updates: dict[Any, Any] = {}
        names: list[str] = []
        lines = [line for line in message.splitlines() if line]
        for line in lines:
            named = [name for file, name in files.items() if file in line and name in self.names]
            about = [*named, *concerned(line, self.names)]
            if not about:
                continue
            names.append(name := about[0])
            short = worded(line).removeprefix(f"“{label(name)}”").lstrip(": ")
            text = f'<p class="ad-error" role="alert">{escape(short)}</p>'
            updates[self.errors[name]] = gr.HTML(text, visible=True)
            if (title := group(name)) is not None and title in self.folds:
                updates[self.folds[title]] = gr.Accordion(open=True)
        rest = f" (and {len(lines) - 1} more, beside the fields)" if len(lines) > 1 else ""
        return updates, worded(lines[0] if lines else message) + rest, names

    def forgotten(self, names: Sequence[str]) -> dict[Any, Any]:
        """Updates that take the messages of these options away."""
        return {self.errors[name]: gr.HTML("", visible=False) for name in names}


def _files_of(request: AnimateRequest) -> dict[str, str]:
    """File -> the option that names it."""
    found: dict[str, str] = {}

    def note(file: str, setting: str, place: str) -> str:
        found.setdefault(file, setting)
        return file

    with_files(request.stored(), note)
    return found


def _is_upload(name: str) -> bool:
    """Whether an option is filled by files that are dropped onto the page."""
    kinds = (media_fields.Image, media_fields.Images, media_fields.Files, media_fields.TextFile)
    return isinstance(field_of(BY_NAME[name]), kinds)


def error_place() -> Any:
    """The place of a message under a field."""
    return gr.HTML("", visible=False, elem_classes="ad-error-place")


def paired(own: Sequence[Field]) -> list[list[Field]]:
    """Fields two by two; wide ones alone."""
    found: list[list[Field]] = []
    for field in own:
        if not field.wide and found and len(found[-1]) == 1 and not found[-1][0].wide:
            found[-1].append(field)
        else:
            found.append([field])
    return found
