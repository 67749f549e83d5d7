"""`animatediff train`: run a stage of training, or go on with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from animatediff.cli.errors import reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import show
from animatediff.cli.terminal import SIGNAL_BASE
from animatediff.errors import UserError, renamed
from animatediff.limits import CONFIG, DATA, MEDIA, WEIGHTS

if TYPE_CHECKING:
    from animatediff.training.config import TrainConfig

FAULTS_FOUND = 1
"""Exit code of `--check` where models, weights or this machine do not serve the run."""
FLAGS = {"resume": "--resume", "settings": "--set", "download": "--download", "new_data": "--new-data"}
"""Arguments of the library that have another name here. `resume=False` is `--fresh`."""


@reports_errors()
@takes_limits(MEDIA, CONFIG, WEIGHTS, DATA)
def train(
    config: Annotated[
        Optional[str],  # noqa: UP045 - read by typer at run time
        typer.Argument(metavar="CONFIG", help="YAML: a recipe of configs/training, or your own."),
    ] = None,
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--set", metavar="KEY=VALUE", help="Lay a setting over the file's, as in data.height=64."),
    ] = None,
    resume: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--resume/--fresh",
            help="Insist on a checkpoint to go on from, or start over; otherwise a run that was stopped goes on.",
        ),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a hub id that is not in the hub's cache.")
    ] = False,
    norm: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--norm", help="Norm of the stage motion: per-frame, or over-frames for use in diffusers."),
    ] = None,
    new_data: Annotated[
        bool, typer.Option("--new-data", help="Go on with other data than before, such as with clips added.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only look through the configuration, its models and the data.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only where the weights are.")] = False,
    named: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--config", hidden=True, help="CONFIG, as `train.py` and `animate` take it."),
    ] = None,
) -> None:
    """Train a stage: adapter, motion, motion_lora, sparsectrl, camera or image.

    Several GPUs: torchrun or accelerate launch.
    """
    from animatediff.weights.hub import network

    if (config is None) == (named is None):
        fault = "no configuration" if config is None else f"two configurations, {config} and {named}"
        raise UserError(f"{fault}; give one, as in animatediff train configs/training/bundled/motion-lora.yaml")
    settings = [*(set_ or []), *([] if norm is None else [f"norm={norm}"])]
    with network(download):
        run(config or named or "", settings, resume=resume, new_data=new_data, check=check, quiet=quiet)


def run(
    config: str,
    settings: list[str],
    *,
    resume: bool | None = None,
    new_data: bool = False,
    check: bool = False,
    quiet: bool = False,
) -> None:
    """Train by a configuration file; print where the weights are."""
    from animatediff.cli.progress import messages

    with messages(quiet or not _is_first_process()), _flags_in_messages():
        from animatediff.training.original import as_written
        from animatediff.training.read import load_train_config

        asked = load_train_config(config, settings)
        if check:
            look_through(asked)
            return
        # imported here: it takes seconds, and mistakes in the settings are reported before
        from animatediff.training.loop import train as train_run

        try:
            done = train_run(asked, resume=resume, new_data=new_data, quiet=quiet)
        except UserError as error:
            raise UserError(as_written(str(error), asked.written)) from error
    if not _is_first_process():
        return
    if done.signal is not None:
        with suppress(OSError):  # the terminal may be what has gone
            show(
                f"animatediff: stopped after step {done.step} of {done.steps}, which is saved in {done.folder}; "
                "the same command goes on from there",
                file=sys.stderr,
            )
        raise typer.Exit(SIGNAL_BASE + done.signal)
    show(done.weights)


def look_through(config: TrainConfig) -> None:
    """Check models and data of a configuration and print what was found; exit where a run would be refused."""
    from animatediff.training.check import check_models
    from animatediff.training.data import check_data
    from animatediff.training.models import tokenizer_of
    from animatediff.training.original import as_written

    problems = [as_written(text, config.written) for text in check_models(config)]
    try:
        show(check_data(config.clips(), tokenizer_of(config)))
    except UserError as error:
        if not problems:
            raise
        problems.append(str(error))
    for problem in problems:
        show(f"animatediff: {renamed(problem, FLAGS)}", file=sys.stderr)
    if problems:
        raise typer.Exit(FAULTS_FOUND)


@contextmanager
def _flags_in_messages() -> Iterator[None]:
    """Name the command's flags in error messages, where the library names its arguments."""
    try:
        yield
    except UserError as error:
        raise UserError(renamed(str(error).replace("`resume=False`", "--fresh"), FLAGS)) from error


def _is_first_process() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"
