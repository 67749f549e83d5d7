"""The options as fields of a pydantic model: types, ranges, short forms, and the JSON schema."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, create_model
from pydantic_core import PydanticCustomError

from animatediff.errors import UserError
from animatediff.ranges import Range
from animatediff.render import request_inputs
from animatediff.render.declare import Option
from animatediff.render.options import OPTIONS, PROMPTS, AnimateOptions
from animatediff.render.values import listed

UNKNOWN_WORD, REFUSED = "unknown_word", "out_of_range"
_WORDS = dict.fromkeys(("Method", "Preprocessor", "Resize"), str)
"""Names that type checkers know for vocabularies; here they are texts, checked against the vocabulary itself."""


def options_model(name: str, base: type[BaseModel]) -> type[BaseModel]:
    """A model with a field for each option."""
    hints = get_type_hints(AnimateOptions, {**vars(request_inputs), **_WORDS}, include_extras=True)
    declared: dict[str, Any] = {item.name: (_type(item, hints[item.name]), _field(item)) for item in OPTIONS}
    return create_model(name, __base__=base, **declared)


def _field(option: Option) -> Any:
    facts: dict[str, Any] = {"description": option.help, "json_schema_extra": partial(_add_to_schema, option)}
    if not option.required:
        facts["default"] = option.default
    return Field(**facts)


def _type(option: Option, hint: Any) -> Any:
    typed = Annotated[_checked(option, hint), BeforeValidator(partial(_given, option))]
    return Annotated[typed, Field(min_length=1)] if option.many and option.default != () else typed


def _given(option: Option, value: Any) -> Any:
    """The value in its long form; an empty text is nothing where there may be nothing."""
    value = request_inputs.whole_text(value) if option.panel == PROMPTS else value
    empty = value is None or (isinstance(value, str) and not value.strip())
    if option.many:
        if empty and option.default == ():
            return ()
        return (option.convert or listed)(value)
    if empty and "None" in option.annotation:
        return None
    value = request_inputs.file_name(value) if option.folder is not None else value
    return value if option.convert is None else option.convert(value)


def _checked(option: Option, hint: Any) -> Any:
    """The type with the option's range on each number or word in it."""
    if get_origin(hint) is tuple:
        return tuple[tuple(part if part is ... else _checked(option, part) for part in get_args(hint))]
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(_checked(option, part) for part in get_args(hint))]  # noqa: UP007 - made at run time
    if hint is str and option.folder is not None:
        return request_inputs.PathName
    if option.range is not None and hint in (int, float, str):
        return Annotated[hint, AfterValidator(_in_range(option, option.range))]
    return hint


def _in_range(option: Option, within: Range) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        try:
            within.check(option.name, value)
        except UserError:
            if within.vocabulary is not None:
                raise PydanticCustomError(UNKNOWN_WORD, "unknown word") from None
            near = _near(within, value)
            raise PydanticCustomError(
                REFUSED, "expected {expected}", {"expected": f"{option.expected or within}{near}"}
            ) from None
        return value

    return check


def _near(within: Range, value: Any) -> str:
    """The multiples that are nearest, where that is what is wrong."""
    step = within.multiple_of
    if not step or not isinstance(value, int) or value % step == 0:
        return ""
    lower = max(step, value // step * step)
    return f" (nearest: {lower} or {lower + step})"


def _add_to_schema(option: Option, schema: dict[str, Any]) -> None:
    """Panel, unit and range, which pydantic does not know."""
    schema["panel"] = option.panel
    if "minLength" in schema and option.many:  # pydantic does not see through the validator that this is a list
        schema["minItems"] = schema.pop("minLength")
    entry = schema["items"] if option.many else schema
    within = option.range
    if within is None:
        return
    if within.unit:
        schema["unit"] = within.unit
    if (words := within.choices) is not None:
        entry["enum"] = [*words, None] if "None" in option.annotation and not option.many else [*words]
    bounds = {
        "minimum": within.ge,
        "exclusiveMinimum": within.gt,
        "maximum": within.le,
        "multipleOf": within.multiple_of,
    }
    entry |= {key: bound for key, bound in bounds.items() if bound is not None}
