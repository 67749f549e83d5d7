"""`animatediff inspect`: kind of a weight file, with the evidence."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from animatediff.cli.errors import reports_errors
from animatediff.errors import printable, renamed

FLAGS = {
    "motion_module": "--motion-module",
    "motion_loras": "--motion-lora",
    "domain_adapter": "--domain-adapter",
    "loras": "--lora",
    "model": "--model",
    "vae": "--vae",
    "embeddings": "--embedding",
    "sparsectrl": "--sparsectrl",
    "controlnet": "--controlnet",
    "family": "--family",
}
"""Settings that evidence, notes and advice name -> flags of `animatediff animate`."""


@reports_errors
def inspect(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Weight files or diffusers folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a file.")] = False,
) -> None:
    """Say what weight files are: kind, family, evidence, size, keys, recommended settings."""
    from animatediff.weights.inspect import describe

    described = [describe(file) for file in files]  # all of them before the first line is printed
    if as_json:
        import json

        for facts in described:
            print(renamed(json.dumps(facts, indent=2, default=str), FLAGS))
        return
    for facts in described:
        for line in _lines(facts):
            print(printable(renamed(line, FLAGS)))  # keys and metadata may hold escape sequences


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as `name: value`, nested ones indented."""
    lines = []
    width = max((len(str(key)) for key in facts), default=0) + 1
    for key, value in facts.items():
        name = f"{indent}{str(key).replace('_', ' ') + ':':<{width}} "
        if isinstance(value, dict):
            lines += [name.rstrip(), *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            texts = [str(item) for item in value] or ["none"]
            lines += [name + texts[0], *(" " * len(name) + text for text in texts[1:])]
        elif value is not None:
            lines.append(f"{name}{value}")
    return lines
