"""Options as fields of a form: the components of each, and its value from them and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from animatediff.errors import UserError
from animatediff.render.declare import Option
from animatediff.ui.choices import Choices, automatic
from animatediff.ui.labels import info, label, worded
from animatediff.ui.library import gr
from animatediff.ui.uploads import Uploads

BUNDLED, WITH_BUNDLED = "bundled", ("model", "motion_module")
"""Name of the bundled model, and the options that take it."""


@dataclass(frozen=True)
class Sources:
    """Where names of files that a browser sends lead."""

    choices: Choices
    uploads: Uploads


class Field:
    """One option: its components are made by `make`, read by `read` and filled by `show`, in the same order."""

    wide = False
    """Whether it takes a row of its own."""

    def __init__(self, option: Option) -> None:
        self.option, self.name = option, option.name
        self.unit = 0
        """Which of several like it, from 0."""
        self.parts: list[Any] = []
        """Its components."""

    @property
    def described(self) -> dict[str, Any]:
        """Label and explanation of its main component."""
        return {"label": label(self.name), "info": info(self.name), "elem_id": self.anchor}

    @property
    def anchor(self) -> str:
        """Identity of its main component in the page."""
        return f"option-{self.name}" + (f"-{self.unit}" if self.unit else "")

    @property
    def placeholder(self) -> str:
        """Words where nothing is given: the model's recommendation."""
        return worded(self.option.unset) or ("auto" if self.option.default is None else "")

    def make(self, sources: Sources) -> None:
        """Make the components in the current place of the page."""
        raise NotImplementedError

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        """The setting that the components hold, None where it is left out. Raises UserError for what it cannot be."""
        return values[0]

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        """The values of the components for a setting; None is the default. Raises UserError where there is no room."""
        return [setting]


class Text(Field):
    """A text, or one text for all clips."""

    lines = 1

    @property
    def wide(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.lines > 1

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Textbox("", lines=self.lines, placeholder=worded(self.option.unset), **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        text = str(values[0] or "")
        return text if text.strip() else None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        if isinstance(setting, list | tuple):
            if len(setting) > 1:
                raise UserError(f"`{self.name}` has {len(setting)} texts, and the form has room for one")
            setting = setting[0] if setting else None
        return [setting or ""]


class LongText(Text):
    """The same on several lines."""

    @property
    def lines(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 3 if self.option.required else 2

    def make(self, sources: Sources) -> None:
        hint = "a fox moving right on a green background" if self.option.required else ""
        self.parts = [
            gr.Textbox(
                "", lines=self.lines, max_lines=12, placeholder=hint, label=label(self.name), elem_id=self.anchor
            )
        ]


class Numbers(Field):
    """Whole numbers, separated by commas. Texts, because browsers round seeds above 2**53."""

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Textbox(self.show(None, sources)[0], **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        texts = [text.strip() for text in str(values[0] or "").split(",") if text.strip()]
        try:
            return [int(text) for text in texts] or None
        except ValueError:
            raise UserError(f"`{self.name}`: expected whole numbers, separated by commas, got {values[0]!r}") from None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [", ".join(map(str, self.option.default if setting is None else setting))]


class Number(Field):
    """A number; empty is the model's recommendation."""

    @property
    def default(self) -> Any:
        """The value at the beginning, one of a list of one."""
        given = self.option.default
        return given[0] if isinstance(given, tuple) else given

    def make(self, sources: Sources) -> None:
        if self.default is None:  # of which Gradio's own field would make 0
            self.parts = [gr.Textbox("", placeholder=self.placeholder, max_lines=1, **self.described)]
        else:
            self.parts = [gr.Number(self.default, step=self.step, **self.described)]

    @property
    def step(self) -> float:
        """By how much the arrows change it."""
        multiple = self.option.range.multiple_of if self.option.range is not None else None
        whole = "int" in self.option.annotation
        return multiple or (1 if whole else 0.05 if self.default is not None and self.default <= 1 else 0.5)

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        value = values[0]
        if isinstance(value, str):
            text = value.strip().replace(",", ".")
            if text in ("", self.placeholder):
                return None
            try:
                value = float(text)
            except ValueError:
                raise UserError(f"`{self.name}`: expected a number, or nothing, got {value!r}") from None
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        if self.default is None:
            return ["" if setting is None else f"{setting:g}"]
        return [self.default if setting is None else setting]


class Share(Number):
    """A number between bounds, on a slider."""

    def make(self, sources: Sources) -> None:
        within = self.option.range
        assert within is not None and within.le is not None and self.default is not None
        step = 1 if "int" in self.option.annotation else 0.01
        lowest = within.ge if within.ge is not None else (within.gt or 0) + step
        self.parts = [gr.Slider(lowest, within.le, self.default, step=step, **self.described)]


class Switch(Field):
    """Yes or no."""

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Checkbox(bool(self.option.default), **self.described)]

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [bool(self.option.default if setting is None else setting)]


class Word(Field):
    """One of the words that an option takes; `own`: others too."""

    def __init__(self, option: Option, words: Sequence[str], *, own: bool = False) -> None:
        super().__init__(option)
        self.words, self.own = words, own

    @property
    def default(self) -> str:
        """The word at the beginning."""
        given = self.option.default
        return (given[0] if isinstance(given, tuple) else given) or ""

    def make(self, sources: Sources) -> None:
        choices = [*([] if self.default else [(self.placeholder, "")]), *((word, word) for word in self.words)]
        self.parts = [gr.Dropdown(choices, value=self.default, allow_custom_value=self.own, **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        word = str(values[0] or "").strip()
        return None if word in ("", self.placeholder) and not self.default else word or None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [self.default if setting is None else setting]


class Words(Field):
    """Some of the words that an option takes."""

    def __init__(self, option: Option, words: Sequence[str]) -> None:
        super().__init__(option)
        self.words = words

    def make(self, sources: Sources) -> None:
        value = self.show(None, sources)[0]
        self.parts = [gr.Dropdown(list(self.words), value=value, multiselect=True, **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return list(values[0] or []) or None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [list(self.option.default if setting is None else setting)]


class Curve(Field):
    """A number, or numbers at frames."""

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Textbox(self.show(None, sources)[0], **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        from animatediff.frames import parse_curve

        if not (text := str(values[0] or "").strip()):
            return None
        try:
            return parse_curve(text)
        except UserError as error:
            raise UserError(f"`{self.name}`: {error}") from error

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        setting = self.option.default if setting is None else setting
        if setting is None:
            return [""]
        if isinstance(setting, dict):
            return [",".join(f"{frame}={value:g}" for frame, value in setting.items())]
        return [f"{setting:g}"]


class Spread(Field):
    """Strengths at neighbouring frames, such as `0.5,0.3`."""

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Textbox("", placeholder=self.option.metavar, **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return str(values[0] or "").strip() or None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [",".join(f"{value:g}" for value in setting or ())]


class Model(Field):
    """A file of models/ by its name."""

    wide = True

    def choices(self, sources: Sources) -> list[tuple[str, str]]:
        """(title, value) of what may be chosen."""
        bundled = [("bundled (the small model that ships)", BUNDLED)] if self.name in WITH_BUNDLED else []
        return [(automatic(self.name), ""), *bundled, *sources.choices.of(self.name)]

    def make(self, sources: Sources) -> None:
        self.parts = [gr.Dropdown(self.choices(sources), value="", allow_custom_value=True, **self.described)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        name = str(values[0] or "").strip()
        return None if name in ("", automatic(self.name)) else sources.choices.file_of(name, self.name)

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [setting or ""]
