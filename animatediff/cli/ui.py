"""`animatediff ui`: the web page."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from animatediff.cli.errors import reporting
from animatediff.cli.show import show


def ui(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 opens the page to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        Optional[int],  # noqa: UP045 - read by typer at run time
        typer.Option("--port", min=1, max=65535, help="Port; the first free one from 7860 on if left out."),
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="Also make a public address, by Gradio's servers.")] = False,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Where results go; the gallery shows it.")
    ] = "samples",
    folder: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--folder", metavar="FOLDER", help="A folder of models besides models/; may be repeated."),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Let it fetch known files that are missing.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Serve the web page: every option as a form, previews, a queue, a gallery of results."""
    with reporting({"host": "--host", "port": "--port", "folder": "--folder", "out": "--output"}):
        from animatediff.ui.launch import start, wait_for_end

        page = start(
            host=host,
            port=port,
            share=share,
            output=output,
            folders=folder or (),
            open_browser=open_browser,
            download=download,
        )
        show(f"The page is at {page.blocks.local_url} (Ctrl-C ends it)")
        if page.blocks.share_url:
            show(f"For everybody who knows it: {page.blocks.share_url}")
        wait_for_end(page)
