"""`animatediff evaluate`: measures of video files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from animatediff.cli.errors import reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import show_json
from animatediff.errors import printable
from animatediff.limits import MEDIA

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from animatediff.evaluation import Report
    from animatediff.evaluation.measure import OnStep

WORLDS = ("sprites",)
PIPED_WIDTH = 160
"""Columns of the table where there is no terminal to ask."""


@reports_errors()
@takes_limits(MEDIA)
def evaluate(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Videos, animated images, or folders of numbered frames.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: a list with one object a file.")] = False,
    world: Annotated[
        Optional[str],  # noqa: UP045 - read by typer at run time
        typer.Option(
            "--world",
            metavar="WORLD",
            help="Recognise object, background and motion too: `sprites`, the world of the bundled model.",
            show_default=False,
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Measure camera motion, stability, amount of motion and loop seam of videos.

    Figures: per frame. Positive: PanRight (the image moves left), TiltUp (it moves down), ZoomIn, RollingClockwise.
    """
    from animatediff.errors import UserError, unknown

    if world is not None and world not in WORLDS:
        raise unknown("--world", world, WORLDS)
    from animatediff.evaluation import SpriteWorld, evaluate_file
    from animatediff.media.flow import opencv

    opencv()  # told once, not once a file
    sprites = SpriteWorld() if world else None
    reports, failures = [], []
    with _progress(files, quiet) as on_step:
        for index, file in enumerate(files):
            try:
                reports.append(evaluate_file(file, sprites, on_step(index)))
            except UserError as error:
                failures.append(str(error))
    if as_json:
        import json

        if reports or not failures:
            show_json(json.dumps([report.as_dict() for report in reports], indent=2))
    elif reports:
        _print(reports)
    if failures:
        raise UserError("\n             ".join(failures))


def _print(reports: list[Report]) -> None:
    from rich.console import Console

    # names of files are no markup, and hold no emoji
    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(_table(reports))
    if any(report.classification for report in reports):
        console.print()
        console.print(_sprites(reports))


def _table(reports: list[Report]) -> Table:
    from rich import box
    from rich.table import Table

    unsure = any(report.measurement.camera.is_unsure and report.moves for report in reports)
    note = (
        "* little of the frame's edge shows this movement: it may be an object's, not the camera's" if unsure else None
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, caption=note, caption_justify="left", padding=0)
    table.add_column("file\n\ncamera", overflow="fold", min_width=len("RollingAnticlockwise*"))
    roll = f"roll\n\n{_degrees()}"
    for name in (
        "pan\npx\n%", "tilt\npx\n%", "zoom\n\n%", roll, "confi-\ndence", "motion\npx\n%", "own\npx\n%",
        "warp\nerror\n%", "loop\nseam",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for report in reports:
        m, camera = report.measurement, report.measurement.camera
        star = "*" if camera.is_unsure and report.moves else ""
        moves = [move.name + star for move in report.moves] or ["still"]
        table.add_row(
            _plain("\n".join([report.path, f"{m.num_frames} frames, {m.width}x{m.height}", *moves])),
            f"{_signed(camera.pan)}\n{_signed(m.pan_percent)}",
            f"{_signed(camera.tilt)}\n{_signed(m.tilt_percent)}",
            _signed(camera.zoom),
            _signed(camera.roll),
            f"{camera.confidence:.2f}{star}",
            f"{m.motion:.2f}\n{m.motion_percent:.2f}",
            f"{m.own_motion:.2f}\n{m.own_motion_percent:.2f}",
            f"{m.warp_error:.2f}",
            f"{m.loop_seam:.2f}",
        )
    return table


def _sprites(reports: list[Report]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("file", "object", "background", "motion"):
        table.add_column(name, overflow="fold")
    for name in ("travel\nright", "travel\ndown", "growth", "turn"):
        table.add_column(name, justify="right")
    for report in reports:
        if (reading := report.classification) is not None:
            table.add_row(
                _plain(report.path),
                reading.obj,
                reading.background,
                reading.motion,
                f"{_signed(reading.travel[0], 1)} px",
                f"{_signed(reading.travel[1], 1)} px",
                f"x {reading.growth:.2f}",
                f"{_signed(reading.turn, 0)}{_degrees()}",
            )
    return table


def _degrees() -> str:
    """The sign for degrees, or, where the terminal's encoding has none, their abbreviation."""
    try:
        "°".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "deg"
    return "°"


def _plain(text: str) -> Text:
    """Text for a table in which brackets are no markup, and control characters escapes."""
    from rich.text import Text

    return Text(printable(text))


def _signed(value: float, digits: int = 2) -> str:
    """With its sign, but for what rounds to zero.

    >>> _signed(1.234), _signed(-0.001)
    ('+1.23', '0.00')
    """
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


@contextmanager
def _progress(files: list[str], quiet: bool) -> Iterator[Callable[[int], OnStep | None]]:
    """For each file by its index a callback that moves a bar on stderr; None with `quiet` or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda index: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=len(files))

        def of_file(index: int) -> OnStep:
            name = printable(f"{index + 1} of {len(files)}, {Path(files[index]).name}")
            bar.update(task, description=name, completed=index)
            return lambda done, total: bar.update(task, completed=index + done / total)

        yield of_file
