"""`animatediff inspect`: kind of a weight file, with the evidence."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from animatediff.cli.errors import USER_ERROR, reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import show, show_json
from animatediff.errors import UserError, renamed
from animatediff.limits import CONFIG, WEIGHTS
from animatediff.limits import FLAGS as LIMIT_FLAGS


@reports_errors()
@takes_limits(WEIGHTS, CONFIG)
def inspect(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Weight files, also by name in models/, or diffusers folders.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a file.")] = False,
) -> None:
    """Say what weight files are: kind, family, evidence, size, keys, what to do with them, recommended settings.

    A file that cannot be read is reported in its place, and the others are shown; the exit code is then 2.
    """
    from animatediff.files import find_weights
    from animatediff.render.options import FLAGS as OPTION_FLAGS
    from animatediff.weights.inspect import describe

    flags = LIMIT_FLAGS | OPTION_FLAGS
    failed = False
    for file in files:
        try:
            facts = describe(find_weights(file))
        except (UserError, OSError) as error:
            failed = True
            facts = {"file": file, "error": str(error) if isinstance(error, UserError) else f"{file}: {error}"}
            sys.stdout.flush()
            show(f"animatediff: {renamed(facts['error'], flags)}", file=sys.stderr)
        if as_json:
            show_json(renamed(json.dumps(facts, indent=2, default=str), flags))
        elif "error" not in facts:
            for line in _lines(facts):
                show(renamed(line, flags).replace("\n", "\\n"))  # a line end in a name would begin a false line
    if failed:
        raise typer.Exit(USER_ERROR)


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as `name: value`, nested ones indented."""
    lines = []
    width = max((len(str(key)) for key in facts), default=0) + 1
    for key, value in facts.items():
        name = f"{indent}{str(key).replace('_', ' ') + ':':<{width}} "
        if isinstance(value, dict):
            lines += [name.rstrip(), *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            texts = [_line(item) if isinstance(item, dict) else str(item) for item in value] or ["none"]
            lines += [name + texts[0], *(" " * len(name) + text for text in texts[1:])]
        elif value is not None:
            lines.append(f"{name}{value}")
    return lines


def _line(facts: dict[str, Any]) -> str:
    """One file of a folder: its name, what it is, and what to do with it."""
    parts = [facts[name] for name in ("error", "what", "what_to_do") if name in facts]
    return f"{facts['file']}: {'; '.join(parts)}"
