"""Limits as options of the command line, made from the table; `--help-all` shows them, `--help` the others alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any

import typer
from typer.core import TyperOption

from animatediff.cli.show import show
from animatediff.limits import LIMITS, limits

PANEL = "Limits"
HELP_ALL = "help_all"
"""Name of the parameter of `--help-all`, which typer passes on though its callback has done all."""


def limit_parameters(*rooms: str, defaults: Mapping[str, int] | None = None) -> list[Parameter]:
    """Parameters for typer: one for each limit of these rooms. defaults: those of the command, where they differ."""
    help_all = typer.Option(
        "--help-all",
        help="Show this message and the limits (--max-frames, ...), and exit.",
        is_eager=True,
        callback=_show_all,
        show_default=False,
    )
    return [
        Parameter(HELP_ALL, Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, help_all]),
        *_limits(rooms, defaults or {}),
    ]


def _show_all(context: typer.Context, wanted: bool) -> None:
    """Print the help with the limits, and end."""
    if not wanted:
        return
    for parameter in context.command.params:
        if parameter.name in LIMITS and isinstance(parameter, TyperOption):
            parameter.hidden = False
    show(context.get_help())
    raise typer.Exit


def _limits(rooms: tuple[str, ...], defaults: Mapping[str, int]) -> list[Parameter]:
    return [
        Parameter(
            limit.name,
            Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                int | None,
                typer.Option(
                    limit.flag,
                    help=f"{limit.help.removesuffix('.')} ({defaults.get(limit.name, limit.default):,}).",
                    metavar="N",
                    rich_help_panel=PANEL,
                    show_default=False,
                    hidden=True,
                ),
            ],
        )
        for limit in LIMITS.values()
        if limit.room in rooms
    ]


@contextmanager
def given_limits(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A context with the limits among the values of a command in force; gives the other values."""
    chosen = {name: value for name, value in given.items() if name in LIMITS and value is not None}
    with limits(**chosen):
        yield {name: value for name, value in given.items() if name not in LIMITS and name != HELP_ALL}


def takes_limits(
    *rooms: str, defaults: Mapping[str, int] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command with an option for each limit of these rooms besides its own; within `reports_errors`."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def wrapped(**given: Any) -> None:
            with given_limits(given) as others:
                command(**others)

        own = signature(command, eval_str=True)
        parameters = [*own.parameters.values(), *limit_parameters(*rooms, defaults=defaults)]
        vars(wrapped)["__signature__"] = own.replace(parameters=parameters)
        return wrapped

    return decorated
