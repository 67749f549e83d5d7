"""`animatediff`: one command a job."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from animatediff.cli import animate, batch, upscale
from animatediff.cli.convert import convert
from animatediff.cli.data import data
from animatediff.cli.errors import reporting
from animatediff.cli.evaluate import evaluate
from animatediff.cli.inspect import inspect
from animatediff.cli.serve import serve
from animatediff.cli.show import show
from animatediff.cli.terminal import ending, prepare
from animatediff.cli.train import train
from animatediff.cli.ui import ui
from animatediff.errors import did_you_mean, printable

MADE = {"animate": animate.command, "batch": batch.command, "upscale": upscale.command}


class Commands(TyperGroup):
    """The commands; those with parameters made from the table of options are made when their word is typed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The name, the command, and the arguments that are left for it."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            ctx.fail(
                f"No such command {printable(args[0])!r}; {did_you_mean(args[0], self.commands)}commands are "
                f'{", ".join(self.commands)}. A prompt is rendered by: animatediff animate "a fox moving right"'
            )
        name, found, rest = super().resolve_command(ctx, args)
        return name, MADE[name]() if name in MADE else found, rest


app = typer.Typer(
    name="animatediff",
    cls=Commands,
    help="Motion modules that make any Stable Diffusion image model move.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from animatediff import __version__

        show(f"animatediff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Motion modules that make any Stable Diffusion image model move."""


@app.command("animate", help=animate.HELP)
def _animate() -> None:
    """Stand for the command in the list of commands."""


@app.command("batch", help=batch.HELP)
def _batch() -> None:
    """Likewise."""


@app.command("upscale", help=upscale.HELP)
def _upscale() -> None:
    """Likewise."""


app.command()(inspect)
app.command()(convert)
app.command()(train)
app.command()(data)
app.command()(evaluate)
app.command()(ui)
app.command()(serve)


def main() -> None:
    """Entry point of the `animatediff` command."""
    prepare()
    try:
        with ending(), reporting():
            app()
    except typer.Exit as end:
        raise SystemExit(end.exit_code) from None


if __name__ == "__main__":
    main()
