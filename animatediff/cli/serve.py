"""`animatediff serve`: the HTTP service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from animatediff.cli.errors import reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import show
from animatediff.errors import UserError
from animatediff.limits import CONFIG, MEDIA, WEIGHTS
from animatediff.server.settings import BOUNDS

TOKEN = "ANIMATEDIFF_TOKEN"
"""Variable with the token, where no file is given."""
ACCESS, FILES, LOAD = "Who may ask", "Models and files", "Load"


@reports_errors(out="--data")
@takes_limits(MEDIA, CONFIG, WEIGHTS, defaults=BOUNDS)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=ACCESS)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", rich_help_panel=ACCESS)] = 8000,
    token_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help=f"Bearer tokens, one a line (or {TOKEN}).", rich_help_panel=ACCESS),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Listen beyond this machine without a token.", rich_help_panel=ACCESS)
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Further name in Host and Origin; may be repeated.", rich_help_panel=ACCESS),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(metavar="FOLDER", help="Folder like models/; may be repeated.", rich_help_panel=FILES),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Base model of requests that name none.", rich_help_panel=FILES)
    ] = None,
    motion_module: Annotated[
        str | None, typer.Option(metavar="NAME", help="Motion module of such requests.", rich_help_panel=FILES)
    ] = None,
    data: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where queue, uploads and results are kept.", rich_help_panel=FILES)
    ] = "samples/serve",
    device: Annotated[
        list[str] | None,
        typer.Option(help="A worker on this device (cuda:0); may be repeated.", rich_help_panel=LOAD),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Jobs that wait at once.", rich_help_panel=LOAD)] = 32,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps of a job.", rich_help_panel=LOAD)] = 150,
    max_side: Annotated[int, typer.Option(min=8, help="Pixels of a result's sides.", rich_help_panel=LOAD)] = 4096,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Megabytes of a request.", rich_help_panel=LOAD)] = 64,
    min_free_mb: Annotated[
        int, typer.Option(min=0, help="Free megabytes on the disk below which no job is taken.", rich_help_panel=LOAD)
    ] = 256,
    keep_hours: Annotated[
        float, typer.Option(min=0.001, help="Hours that results are kept.", rich_help_panel=LOAD)
    ] = 24.0,
    job_minutes: Annotated[
        float, typer.Option(min=0.01, help="Minutes after which a job is given up.", rich_help_panel=LOAD)
    ] = 60.0,
) -> None:
    """Serve videos over HTTP, in the shape of OpenAI's /v1/videos. docs/http.md shows requests."""
    from animatediff.files import HERE, check_is_folder
    from animatediff.server.settings import Settings, check_access

    folders = tuple(Path(folder).expanduser() for folder in models or ()) or HERE.models
    for folder in folders if models else ():
        check_is_folder(folder, "--models")
    settings = Settings(
        data=Path(data).expanduser(),
        models=folders,
        model=model,
        motion_module=motion_module,
        devices=tuple(device) if device else (None,),
        host=host,
        port=port,
        tokens=_tokens(token_file),
        allowed_hosts=tuple(allow_host or ()),
        max_queue=max_queue,
        max_steps=max_steps,
        max_side=max_side,
        max_upload_mb=max_upload_mb,
        min_free_mb=min_free_mb,
        keep_hours=keep_hours,
        job_minutes=job_minutes,
    )
    check_access(settings, no_auth=no_auth)
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'animatediff[serve]'") from error
    from animatediff.server.run import run

    run(settings, on_ready=lambda place: show(f"animatediff serves {place}/v1/videos; Ctrl-C ends it"))


def _tokens(file: str | None) -> tuple[str, ...]:
    """The tokens of a file, or of the variable. Raises UserError for an empty file, and for a token that is guessed."""
    from animatediff.files import read_text

    if file is not None:
        tokens = tuple(line.strip() for line in read_text(Path(file).expanduser()).splitlines() if line.strip())
        if not tokens:
            raise UserError(f"--token-file {file}: holds no token")
    else:
        tokens = (text,) if (text := os.environ.get(TOKEN, "").strip()) else ()
    for token in tokens:
        if len(token) < 16 or not token.isascii() or any(char.isspace() for char in token):
            raise UserError(
                "a token has at least 16 letters, digits or signs without spaces; one is made by: openssl rand -hex 32"
            )
    return tokens
