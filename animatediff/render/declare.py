"""One option of a request: its declaration, and the facts for front ends. No torch, numpy or pydantic here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

from animatediff.pipelines.arguments import NEEDS, RANGES, Arguments
from animatediff.ranges import Range

_ARGUMENTS = {item.name: item.default for item in fields(Arguments)}
_UNSET: Any = object()


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a request, and everything that a front end needs to offer it."""

    name: str = ""
    annotation: str = ""
    """Type of the value in a request, as it is written in `AnimateOptions`."""
    help: str
    panel: str
    default: Any = None
    """None is the model's own choice; MISSING where a value must be given."""
    unset: str = ""
    """Meaning of the default in words, where the value does not tell."""
    range: Range | None = None
    """Of each number or word in the value."""
    expected: str = ""
    """The range in words, where its own are not clear enough."""
    flag: str = ""
    """On the command line; without dashes: its positional arguments."""
    short: str = ""
    metavar: str | None = None
    argument: str | None = None
    """Argument of `AnimateDiffPipeline.__call__` that the option decides."""
    as_it_is: bool = False
    """Whether the value is the argument, with no work in between."""
    part_of_model: bool = False
    """Whether it decides which pipeline is loaded; requests that agree in these options share one."""
    per_clip: bool = False
    """Whether there is one value a clip, or one for all."""
    needs: str = ""
    """Subject without which it has no effect: of `render.subjects`, or of `pipelines.subjects` for an argument."""
    folder: str | None = None
    """For names of files: the folder under `models/` where such files are, or "" for files that are anywhere."""
    in_memory: str = ""
    """`image` or `video`, where the value may be one instead of the name of a file."""
    convert: Callable[[Any], Any] | None = None
    """Brings short forms in files and in Python to the form that the request holds."""
    parse: Callable[[Any], Any] | None = None
    """Reads the text of the command line, or the list of texts."""

    @property
    def many(self) -> bool:
        """Whether the value is a list."""
        return self.annotation.startswith("tuple[")

    @property
    def entry(self) -> Any:
        """The type of the value, or of each value of a list, where it is written as text: int, float, bool or str."""
        entry = self.annotation.removeprefix("tuple[").removesuffix(", ...]").removesuffix(" | None")
        return {"int": int, "float": float, "bool": bool}.get(entry, str)

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is MISSING

    @property
    def choices(self) -> tuple[str, ...] | None:
        """The words that it takes; None where it takes others or numbers. Imports the module that holds them."""
        return self.range.choices if self.range is not None else None

    @property
    def usage(self) -> str:
        """The help, with the default where it says something."""
        default = self.unset
        if not default and not self.required and not isinstance(self.default, bool):
            value = self.default[0] if self.many and len(self.default) == 1 else self.default
            default = "" if value is None or value == () else f"{value:g}" if isinstance(value, float) else str(value)
        return f"{self.help.removesuffix('.')} ({default})." if default else self.help


def option(
    help: str,
    *,
    panel: str,
    default: Any = _UNSET,
    unset: str = "",
    expected: str = "",
    flag: str = "",
    short: str = "",
    metavar: str | None = None,
    argument: str | None = None,
    prepared: bool = False,
    part_of_model: bool = False,
    per_clip: bool = False,
    needs: str = "",
    folder: str | None = None,
    in_memory: str = "",
    convert: Callable[[Any], Any] | None = None,
    parse: Callable[[Any], Any] | None = None,
    choices: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    unit: str = "",
) -> Any:
    """Declare an option in `AnimateOptions`.

    argument: of the pipeline, where it has another name there; `prepared`: the value needs work before it is one.
    Default and range are that argument's; `default` and `choices`, `ge`, `gt`, `le`, `unit` are for other options.
    """
    within = Range(vocabulary=choices, ge=ge, gt=gt, le=le, unit=unit)
    return Option(
        help=help,
        panel=panel,
        default=default,
        unset=unset,
        range=None if within == Range() else within,
        expected=expected,
        flag=flag,
        short=short,
        metavar=metavar,
        argument=argument,
        as_it_is=not prepared,
        part_of_model=part_of_model,
        per_clip=per_clip,
        needs=needs,
        folder=folder,
        in_memory=in_memory,
        convert=convert,
        parse=parse,
    )


def declared_in(table: type) -> tuple[Option, ...]:
    """The options that a class declares, in order."""
    return tuple(_complete(name, annotation, vars(table)[name]) for name, annotation in table.__annotations__.items())


def _complete(name: str, annotation: str, declared: Option) -> Option:
    """The option with its name and flag, and with the default and the range of the pipeline's argument."""
    argument = declared.argument or (name if name in _ARGUMENTS else None)
    default, within = declared.default, declared.range or RANGES.get(argument or "")
    if default is _UNSET:
        assert argument is not None, f"{name}: expected a default, because it is no argument of the pipeline"
        default = _ARGUMENTS[argument]
    return replace(
        declared,
        name=name,
        annotation=annotation,
        default=default,
        range=Range() if within is None and "float" in annotation else within,  # finite
        flag=declared.flag or "--" + name.replace("_", "-"),
        argument=argument,
        needs=declared.needs or NEEDS.get(argument or "", ""),
        as_it_is=declared.as_it_is and argument is not None,
    )
