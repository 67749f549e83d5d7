"""Options of commands whose renders resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from animatediff.render.declare import Option
    from animatediff.render.resume import Resume

RESUME_FLAGS = {"save_every": "--save-every", "resume": "--no-resume"}


def resume_options(panel: str) -> list[Option]:
    """The options, in a panel of the help."""
    from animatediff.pipelines.arguments import SAVE_EVERY_S
    from animatediff.render.declare import Option

    return [
        Option(
            name="save_every", annotation="float", flag=RESUME_FLAGS["save_every"], metavar="SECONDS", panel=panel,
            help=f"Save the state of long renders so often, for the same command to go on with ({SAVE_EVERY_S:g}).",
        ),
        Option(
            name="no_resume", annotation="bool", flag=RESUME_FLAGS["resume"], panel=panel,
            help="Begin anew, where a stopped render left its state.",
        ),
    ]  # fmt: skip


def resume_of(save_every: float | None, no_resume: bool) -> Resume:
    """What the options ask for. Raises UserError for a time out of range."""
    from animatediff.pipelines.arguments import SAVE_EVERY_S
    from animatediff.render.resume import Resume

    return Resume(save_every=SAVE_EVERY_S if save_every is None else save_every, anew=no_resume)
