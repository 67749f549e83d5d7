"""`animatediff animate`: from prompts, a configuration, or a result to files. Made from the table of options."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from animatediff.cli.errors import reporting
from animatediff.cli.limits import given_limits, limit_parameters
from animatediff.cli.show import saying_replaced, show
from animatediff.errors import UserError, renamed
from animatediff.limits import CONFIG, MEDIA, WEIGHTS

if TYPE_CHECKING:
    from animatediff.files import Roots
    from animatediff.render.declare import Option
    from animatediff.render.request import AnimateRequest
    from animatediff.render.resume import Resume

FOLDERS = "ANIMATEDIFF_FOLDERS"
"""Variable with the folders that stand for `--folder` in every call, as PATH has them."""
logger = logging.getLogger(__name__)

CONNECTING = {"a", "an", "and", "at", "by", "for", "from", "in", "into", "is", "of", "on", "the", "to", "with"}
"""Words that are no prompt of their own."""

HELP = """Render prompts to animations. Settings left out are what the model recommends.

Without --model and --motion-module the small bundled model renders. Results go to samples/ unless --out is given.
"""


def command() -> Any:
    """The command, with a parameter for every option."""
    from animatediff.cli.resume import RESUME_FLAGS, resume_of, resume_options
    from animatediff.render.declare import Option
    from animatediff.render.options import FLAGS, MACHINE, OPTIONS, OUTPUT

    def animate(
        *,
        config: str | None,
        result: str | None,
        folder: list[str] | None,
        list_words: bool,
        plan: bool,
        save_every: float | None,
        no_resume: bool,
        quiet: bool,
        **given: Any,
    ) -> None:
        with reporting({**FLAGS, "folder": "--folder", **RESUME_FLAGS}), given_limits(given) as asked:
            if list_words:
                _print_words()
            else:
                run(
                    settings(asked),
                    config=config,
                    result=result,
                    folders=folder or (),
                    plan=plan,
                    quiet=quiet,
                    resume=resume_of(save_every, no_resume),
                )

    instead = "In place of prompts"
    own = [
        Option(
            name="config", annotation="str", flag="--config", short="-c", metavar="FILE", panel=instead,
            help="Render the runs of a YAML file, the original's or ours.",
        ),
        Option(
            name="result", annotation="str", flag="--from", metavar="FILE", panel=instead,
            help="Repeat an earlier result: a video, or the .json beside it.",
        ),
        Option(
            name="folder", annotation="tuple[str, ...]", default=(), flag="--folder", metavar="FOLDER", panel=instead,
            help="Where files named by --config or --from may be, besides models/, here and its own; may be repeated.",
        ),
        Option(
            name="list_words", annotation="bool", flag="--list-words", panel=instead,
            help="Print the words that the bundled model knows.",
        ),
        Option(
            name="plan", annotation="bool", flag="--plan", panel=MACHINE,
            help="Print what a driving video comes to, and what the clips need in memory; render nothing.",
        ),
        Option(
            name="quiet", annotation="bool", flag="--quiet", short="-q", panel=OUTPUT,
            help="Print only where the files are.",
        ),
    ]  # fmt: skip
    parameters = [parameter(option) for option in (*own[:-2], *OPTIONS, *resume_options(OUTPUT), *own[-2:])]
    vars(animate)["__signature__"] = Signature([*parameters, *limit_parameters(MEDIA, CONFIG, WEIGHTS)])
    app = typer.Typer(add_completion=False)
    app.command("animate", help=HELP)(animate)
    return typer.main.get_command(app)


def parameter(option: Option) -> Parameter:
    """The option as typer takes parameters."""
    from animatediff.render.options import FLAGS

    text = renamed(option.usage, FLAGS)
    if option.flag.startswith("-"):
        flags = [flag for flag in (option.flag, option.short) if flag]
        shown = typer.Option(
            *flags, help=text, rich_help_panel=option.panel, metavar=option.metavar, show_default=False
        )
    else:
        shown = typer.Argument(help=text, metavar=option.metavar, show_default=False)
    entry = option.entry
    kind = bool if entry is bool else (list[entry] if option.many else entry) | None
    default = False if entry is bool else None
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown])


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that flags give, by the names of a request; those that are not given are left out.

    given: the value of every option as the command line has it. Raises UserError, naming the setting.
    """
    from animatediff.render.options import BY_NAME

    values = {}
    for name, value in given.items():
        if value is None or value is False or value == []:
            continue
        parse = BY_NAME[name].parse
        try:
            values[name] = parse(value) if parse is not None and value else value
        except UserError as error:
            raise UserError(f"`{name}`: {error}") from error
    return values


def run(
    values: dict[str, Any],
    *,
    config: str | None = None,
    result: str | None = None,
    folders: Sequence[str] = (),
    pretrained_model_path: str | None = None,
    plan: bool = False,
    quiet: bool = False,
    resume: Resume | None = None,
) -> None:
    """Render what the settings ask for, on top of a configuration or an earlier result; print the files' names.

    folders: in which the files may be that the configuration or the result names (`Roots.named`). plan: print what the
    clips need in memory instead. resume: how the state of long renders is saved.
    """
    from animatediff.render import build_request, load_config, load_result, resolve

    if config and result:
        raise UserError("--config and --from both say what to render; give one of them")
    roots = roots_of(folders)
    values = resolve(values, roots=roots)
    from animatediff.cli.progress import messages, progress_bar

    with messages(quiet):
        _hint_at_quotes(values.get("prompt", ()))
        if config:
            requests = load_config(config, values, pretrained_model_path=pretrained_model_path, roots=roots)
        elif result:
            requests = [load_result(result, values, roots=roots)]
        elif "prompt" in values or "prompt_travel" in values:
            requests = [build_request(values)]
        else:
            raise UserError(
                'nothing to render: give a prompt, as in `animatediff animate "a fox moving right"`, or --config'
            )

    source = config or result
    recorded = roots if source is None else replace(roots, named=(*roots.named, Path(source).parent))
    if plan:
        with messages(quiet):
            _print_plans(requests, recorded)
        return
    with saying_replaced(_named(requests), quiet), messages(quiet), progress_bar(quiet) as on_progress:
        # imported here: it is seconds, and mistakes in the settings are told before
        from animatediff.render.render import render, render_runs

        if config and len(requests) == 1 and requests[0].out:
            done = render(requests[0], on_progress=on_progress, roots=recorded, resume=resume)
        elif config:
            if any(request.out for request in requests):
                raise UserError(f"`out` takes the clips of one run, and {config} holds {len(requests)}")
            done = render_runs(requests, Path(config).stem, on_progress=on_progress, roots=recorded, resume=resume)
        else:
            done = render(requests[0], on_progress=on_progress, roots=recorded, resume=resume)
    for file, request, seam in zip(done.files, done.requests, done.seams, strict=True):
        of_loop = "" if seam is None else f"; loop seam {seam:.2f}, 1 is seamless"
        show(file if quiet else f"{file}  (seed {request.seed[0]}{of_loop})")
    for sheet in [] if quiet else done.sheets:
        show(sheet)
    if done.grid is not None:
        show(done.grid)


def _print_plans(requests: Sequence[AnimateRequest], roots: Roots) -> None:
    from animatediff.pipelines.plan import too_little
    from animatediff.render.drive import plan_drive
    from animatediff.render.options import FLAGS
    from animatediff.render.renderer import Renderer

    renderer = Renderer(roots=roots)
    for request in requests:
        if request.drive is not None:
            drive = plan_drive(request, roots=roots)
            show(renamed(str(drive), FLAGS))
            request = drive.checked()
        plan = renderer.plan(request)
        show(renamed(str(plan), FLAGS))
        if not plan.fits:
            raise UserError(too_little(plan))


def _named(requests: Sequence[AnimateRequest]) -> Iterator[str]:
    """The files that `--out` names."""
    from animatediff.render.names import numbered

    for request in requests:
        if request.out is not None:
            yield from (numbered(request.out, index, request.num_clips) for index in range(request.num_clips))


def roots_of(folders: Sequence[str]) -> Roots:
    """The folders of a call, with `folders` and those of the variable ANIMATEDIFF_FOLDERS.

    Raises UserError for a folder that is none.
    """
    from animatediff.files import HERE, named_folders

    named = named_folders(folders)
    usual = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    return replace(HERE, named=(*named, *usual))


def _hint_at_quotes(prompts: Sequence[str]) -> None:
    """Warn of a prompt that the shell cut into words, each of which makes a clip."""
    single = [text for text in prompts if len(text.split()) == 1]
    if len(single) > 2 or (len(prompts) > 1 and any(text.lower() in CONNECTING for text in single)):
        logger.warning(
            "%d prompts make %d clips, and some are single words; if they are one prompt, put it in quotes: "
            'animatediff animate "%s"',
            len(prompts),
            len(prompts),
            " ".join(prompts),
        )


def _print_words() -> None:
    from animatediff.sprites import words

    show("objects:     " + ", ".join(words.OBJECTS))
    show("backgrounds: " + ", ".join(words.BACKGROUNDS))
    show("motions:     " + ", ".join(words.MOTIONS))
    for motion, phrases in words.MOTION_PHRASES.items():
        said = sorted({text for text in phrases if text and "{" not in text} - {motion})
        show(f"  {motion} is also said as: " + ", ".join(said))
    show("also with verbs, as in `a fox runs to the right`:")
    for name, verbs in words.VERBS.items():
        show(f"  {name}: " + ", ".join(verbs))
    show("for example: " + "\n             ".join(words.EXAMPLES))
