"""`python train.py` with the flags of the original, dashes or underscores."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence

import typer

from animatediff.cli.errors import reporting
from animatediff.cli.original import QuietParser, check_flags
from animatediff.cli.show import show
from animatediff.cli.terminal import ending, prepare

LAUNCHERS = {
    "pytorch": "torchrun says what it needs by itself",
    "slurm": "start the processes with `srun torchrun ...`, which says what it needs by itself",
}


def _parser() -> argparse.ArgumentParser:
    parser = QuietParser(prog="train.py", description="Train by a configuration file.", allow_abbrev=False)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="training YAML, the original's or ours")
    add("--launcher", choices=tuple(LAUNCHERS), help="accepted; not needed")
    add("--wandb", action="store_true", help="log to wandb as well")
    add("--set", metavar="KEY=VALUE", action="append", help="lay a setting of ours over the file's; may be repeated")
    add("--download", action="store_true", help="fetch a model of the hub that is not here")
    add("--fresh", action="store_true", help="start over where a run was stopped")
    add("--new-data", action="store_true", help="go on with other data than before, such as with clips added")
    add("--quiet", action="store_true")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from animatediff.cli.train import run
    from animatediff.weights.hub import network

    prepare()
    try:
        with ending(), reporting({"download": "--download"}):
            given = sys.argv[1:] if arguments is None else list(arguments)
            given = [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), item) for item in given]
            parser = _parser()
            check_flags(parser, given)
            flags = parser.parse_args(given)
            if flags.launcher:
                show(f"--launcher is not needed: {LAUNCHERS[flags.launcher]}", file=sys.stderr)
            settings = [*(["log=[wandb]"] if flags.wandb else []), *(flags.set or [])]
            with network(flags.download):
                run(
                    flags.config,
                    settings,
                    resume=False if flags.fresh else None,
                    new_data=flags.new_data,
                    quiet=flags.quiet,
                )
    except typer.Exit as end:
        return end.exit_code
    return 0
