"""`animatediff batch`: the rows of a file to a folder of results. Made from the table of options."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from inspect import Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from animatediff.cli.animate import parameter, roots_of, settings
from animatediff.cli.errors import USER_ERROR, reporting
from animatediff.cli.limits import given_limits, limit_parameters
from animatediff.cli.progress import progress_bar, time_left
from animatediff.cli.show import show
from animatediff.errors import UserError
from animatediff.limits import BATCH, CONFIG, MEDIA, WEIGHTS
from animatediff.training.signals import StopRequest

if TYPE_CHECKING:
    from animatediff.batch import OnRay, Progress, Report
    from animatediff.render.events import Event
    from animatediff.render.resume import Resume

HELP = """Render the rows of a file: YAML, JSON, JSONL or CSV. Options are for rows that do not give their own.

Results go to samples/NAME OF THE FILE/ unless --out is given. The same command goes on where an earlier run ended:
what is done is not rendered again, what failed is tried again. A row has an id, or a name, or out, the name of its
result; other columns are options.
"""
FAILED = 1
"""Exit code where some rows failed."""
SIGNAL_BASE = 128
SEVERAL = "Many clips"
ADDRESS = re.compile(r"auto|local|ray://\S+|[^/\s]+:\d+")
"""What stands behind `--ray` as the address of a cluster."""


def command() -> Any:
    """The command, with a parameter for every option that rows can share."""
    from animatediff.cli.resume import RESUME_FLAGS, resume_of, resume_options
    from animatediff.render.declare import Option
    from animatediff.render.options import FLAGS, OPTIONS

    flags = {
        **FLAGS,
        "prompt": "--prompt",
        "folder": "--folder",
        "out": "--out",
        "ray": "--ray",
        "workers": "--workers",
        **RESUME_FLAGS,
    }

    def batch(
        *,
        jobs: str | None,
        results: str | None,
        format: str | None,
        separator: str | None,
        keep_going: bool,
        check: bool,
        ray: str | None,
        workers: int | None,
        folder: list[str] | None,
        save_every: float | None,
        no_resume: bool,
        quiet: bool,
        **given: Any,
    ) -> None:
        from animatediff.batch import OnRay

        with reporting(flags), given_limits(given) as asked:
            if not jobs:
                raise UserError("no file of rows is given: animatediff batch jobs.csv")
            if workers is not None and (workers < 1 or ray is None):
                raise UserError("`workers` is a number of workers on Ray, at least 1; it goes with `ray`")
            run(
                Path(jobs),
                settings(asked),
                results=Path(results) if results else None,
                format=format or "mp4",
                separator="|" if separator is None else separator,
                keep_going=keep_going,
                check=check,
                on_ray=None if ray is None else OnRay(address=ray, workers=workers),
                folders=folder or (),
                quiet=quiet,
                resume=resume_of(save_every, no_resume),
            )

    own = [
        Option(name="jobs", annotation="str", flag="JOBS", metavar="JOBS", panel=SEVERAL, help="File of rows."),
        Option(
            name="results", annotation="str", flag="--out", short="-o", metavar="FOLDER", panel=SEVERAL,
            help="Folder of the results (samples/NAME OF THE FILE).",
        ),
        Option(
            name="format", annotation="str", flag="--format", metavar="NAME", panel=SEVERAL,
            help="Of results that have no `out`: mp4, webm, gif, webp, apng, png, or folder (mp4).",
        ),
        Option(
            name="separator", annotation="str", flag="--separator", metavar="TEXT", panel=SEVERAL,
            help="Between the entries of a list in a cell of CSV (|).",
        ),
        Option(
            name="keep_going", annotation="bool", flag="--keep-going", short="-k", panel=SEVERAL,
            help="Where some rows are bad, render the others.",
        ),
        Option(name="check", annotation="bool", flag="--check", panel=SEVERAL, help="Check all rows; render none."),
        Option(
            name="ray", annotation="str", flag="--ray", metavar="[ADDRESS]", panel=SEVERAL,
            help="Spread the rows over a Ray cluster, auto or HOST:PORT; without address a Ray is started here.",
        ),
        Option(
            name="workers", annotation="int", flag="--workers", metavar="N", panel=SEVERAL,
            help="Workers on Ray (one a GPU; where there is none, one a machine).",
        ),
        Option(
            name="folder", annotation="tuple[str, ...]", default=(), flag="--folder", metavar="FOLDER", panel=SEVERAL,
            help="Where files named by rows may be, besides models/, here and the file's own; may be repeated.",
        ),
        *resume_options(SEVERAL),
        Option(
            name="quiet", annotation="bool", flag="--quiet", short="-q", panel=SEVERAL,
            help="Print only where the files are.",
        ),
    ]  # fmt: skip
    shared = [replace(item, flag=flags[item.name]) for item in OPTIONS if item.name not in ("out", "name")]
    parameters = [parameter(option) for option in (*own, *shared)]
    vars(batch)["__signature__"] = Signature([*parameters, *limit_parameters(BATCH, CONFIG, MEDIA, WEIGHTS)])
    app = typer.Typer(add_completion=False)
    app.command("batch", cls=_Command, help=HELP)(batch)
    return typer.main.get_command(app)


class _Command(TyperCommand):
    """A command whose `--ray` may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments."""
        given = [*args, ""]
        for number, arg in enumerate(args):
            if arg == "--":
                break
            if arg == "--ray" and not ADDRESS.fullmatch(given[number + 1]):
                args = [*args[:number], "--ray=local", *args[number + 1 :]]
        return super().parse_args(ctx, args)


def run(
    path: Path,
    values: Mapping[str, Any],
    *,
    results: Path | None = None,
    format: str = "mp4",
    separator: str = "|",
    keep_going: bool = False,
    check: bool = False,
    on_ray: OnRay | None = None,
    folders: Sequence[str] = (),
    quiet: bool = False,
    resume: Resume | None = None,
) -> None:
    """Render the rows of a file that are not done; print the files' names, and what failed.

    Raises typer.Exit with code 1 where rows failed, 2 where nothing was rendered for bad rows, 128 + N where signal N
    ended the run.
    """
    from animatediff.batch import BadRowsError, read_jobs, render_jobs
    from animatediff.cli.progress import messages

    roots = roots_of(folders)
    with messages(quiet):
        jobs = read_jobs(path, values, separator=separator, format=format, roots=roots)
    folder = results or roots.samples / path.stem
    try:
        with StopRequest() as stop, messages(quiet), _rows(quiet) as (on_progress, on_event):
            report = render_jobs(
                jobs,
                folder,
                keep_going=keep_going,
                check=check,
                on_ray=on_ray,
                on_progress=on_progress,
                on_event=on_event,
                cancel=lambda: stop.number is not None,
                resume=resume,
            )
    except BadRowsError as error:
        show(f"animatediff: {error}", file=sys.stderr)
        show("--keep-going renders the other rows", file=sys.stderr)
        raise typer.Exit(USER_ERROR) from None
    _summary(report, quiet, check)
    if stop.number is not None:
        raise typer.Exit(SIGNAL_BASE + stop.number)
    if report.failed:
        raise typer.Exit(FAILED)


def _summary(report: Report, quiet: bool, check: bool) -> None:
    """Say how many rows came to which end, and name those that failed."""
    for fault in report.failed:
        show(f"failed: {fault}", file=sys.stderr)
    if quiet:
        return
    left = "would be rendered" if check else "not rendered, the same command goes on with them"
    counts = (
        (len(report.rendered), "rendered"),
        (report.num_done, "done before"),
        (len(report.failed), f"failed, listed in {report.folder / 'failed.jsonl'}"),
        (report.num_left, left),
    )
    show(f"{report.folder}: " + "; ".join(f"{count} {what}" for count, what in counts if count), file=sys.stderr)


@contextmanager
def _rows(quiet: bool) -> Iterator[tuple[Callable[[Progress], None], Callable[[Event], None] | None]]:
    """What to do when a row has ended, and at the steps of the one at work: a line each, and bars on a terminal."""

    def line(progress: Progress) -> None:
        if progress.outcome.error is not None:
            return
        place = f"{progress.step} of {progress.total}"
        left = f", {text}" if (text := time_left(progress.time_left)) and progress.step < progress.total else ""
        file = progress.outcome.file
        show(file if quiet else f"{file}  (seed {progress.outcome.seed}; {place}{left})")

    with progress_bar(quiet) as on_event:
        yield line, on_event
