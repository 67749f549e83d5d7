"""`animatediff upscale`: files made before, enlarged, brought to another rate, or in another format."""

from __future__ import annotations

from inspect import Signature
from typing import Any

import typer

from animatediff.cli.errors import reporting
from animatediff.cli.limits import given_limits, limit_parameters
from animatediff.cli.show import saying_replaced, show
from animatediff.errors import UserError
from animatediff.limits import MEDIA, WEIGHTS

HELP = """Enlarge videos, bring them to another frame rate, or convert them.

Takes videos, animated images and folders of images; sound and transparency stay where the new format holds them.
Without --upscaler and --fps-out it converts to the format of --out, or encodes anew at --quality. Results lie beside
each file under free names unless --out names one.
"""
TAKEN = ("upscaler", "fps_out", "out", "codec", "quality", "max_size", "loop", "device")
"""Options of `animate` that it has too."""


def command() -> Any:
    """The command, its options made from the table of options."""
    from animatediff.cli.animate import parameter
    from animatediff.render.declare import Option
    from animatediff.render.options import BY_NAME, FLAGS, LONG, OUTPUT

    def upscale(*, files: list[str] | None, closed_loop: bool, quiet: bool, **given: Any) -> None:
        flags = {name: FLAGS[name] for name in TAKEN} | {"closed_loop": "--closed-loop"}
        with reporting(flags), given_limits(given) as asked:
            values = {name: value for name, value in asked.items() if value is not None}
            for name, value in values.items():
                if (within := BY_NAME[name].range) is not None:
                    within.check(f"`{name}`" if within.vocabulary else name, value)
            _run(files or [], values, closed_loop=closed_loop, quiet=quiet)

    own = {
        "files": Option(
            name="files", annotation="tuple[str, ...]", default=(), flag="VIDEO", metavar="VIDEO...", panel=OUTPUT,
            help="Videos, animated images, or folders of images.",
        ),
        "closed_loop": Option(
            name="closed_loop", annotation="bool", flag="--closed-loop", panel=LONG,
            help="The first frame follows the last: what lies between them is interpolated too.",
        ),
        "quiet": Option(
            name="quiet", annotation="bool", flag="--quiet", short="-q", panel=OUTPUT,
            help="Print only where the files are.",
        ),
    }  # fmt: skip
    options = [own["files"], *(BY_NAME[name] for name in TAKEN), own["closed_loop"], own["quiet"]]
    vars(upscale)["__signature__"] = Signature([*map(parameter, options), *limit_parameters(MEDIA, WEIGHTS)])
    app = typer.Typer(add_completion=False)
    app.command("upscale", help=HELP)(upscale)
    return typer.main.get_command(app)


def _run(files: list[str], values: dict[str, Any], *, closed_loop: bool, quiet: bool) -> None:
    if not files:
        raise UserError("no video is given, as in `animatediff upscale fox.mp4 --upscaler realesr-animevideov3-x2`")
    from animatediff.cli.progress import messages, progress_bar
    from animatediff.render.finish import Finish
    from animatediff.render.upscale_file import Target, upscale_files

    finish = Finish(**{name: values[name] for name in ("upscaler", "fps_out", "device") if name in values})
    target = Target(
        **{name: values[name] for name in ("out", "codec", "quality", "max_size", "loop") if name in values}
    )
    places = [target.of(index, len(files)) for index in range(len(files))]
    with saying_replaced(places, quiet), messages(quiet), progress_bar(quiet) as on_event:
        done = upscale_files(files, finish, target, closed_loop=closed_loop, on_event=on_event)
    for one in done:
        width, height = one.size
        of_loop = "" if one.seam is None else f"; loop seam {one.seam:.2f}, 1 is seamless"
        facts = f"{one.num_frames} frames, {width}x{height}, {one.fps:g} a second{of_loop}"
        show(one.file if quiet else f"{one.file}  ({facts})")
