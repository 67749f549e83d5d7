"""`animatediff data`: check and show training data before training."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from animatediff.cli.errors import reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import saying_replaced, show
from animatediff.errors import UserError
from animatediff.limits import CONFIG, DATA, MEDIA


@reports_errors(out="--preview")
@takes_limits(MEDIA, CONFIG, DATA)
def data(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="CSV or JSONL file, folder, or shards: 'data-{0000..0009}.tar'.")
    ] = "",
    kind: Annotated[
        str, typer.Option(help="csv, jsonl, folder, pictures, webdataset or sprites, where PATH does not tell.")
    ] = "auto",
    set_: Annotated[
        Optional[list[str]],  # noqa: UP045 - read by typer at run time
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the data section: num_frames=8, camera=ZoomIn."),
    ] = None,
    preview: Annotated[
        str, typer.Option(metavar="FILE", help="Write clips as training sees them, side by side: .mp4, .gif, .png, ...")
    ] = "",
    clips: Annotated[int, typer.Option(min=1, max=64, help="How many clips the preview shows.")] = 16,
) -> None:
    """Check training data: what is there, what cannot be used, and whether that is too much to train."""
    from animatediff.cli.progress import messages
    from animatediff.training.data.config import build_data_config

    config = build_data_config({"path": path, "kind": kind, **dict(_setting(text) for text in set_ or [])})
    if preview:
        from animatediff.media import check_writable
        from animatediff.media.formats import format_of

        format_of(preview)
        check_writable(preview)
    with messages(quiet=False):
        from animatediff.training.data import check_data  # torch: imported once the settings are right

        show(check_data(config))
        if preview:
            from animatediff.training.data.preview import write_preview

            with saying_replaced([preview]):
                made = write_preview(config, preview, clips)
            for number, text in enumerate(made.texts, 1):
                show(f"  {number:2d}  {text or '(no caption)'}")
            show(preview)


def _setting(text: str) -> tuple[str, Any]:
    """Name and value of KEY=VALUE; the value is YAML, for numbers and lists."""
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected KEY=VALUE, such as --set num_frames=8")
    try:
        return key.strip().removeprefix("data."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not valid YAML") from error
