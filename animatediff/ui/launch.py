"""Start of the page: folders, renderer, server, and its end."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, check_results_folder, named_folders

MAX_UPLOAD = "512mb"
"""Largest file that is taken from a browser."""


def roots_of(output: Path, folders: Sequence[str | Path] = ()) -> Any:
    """The folders of a page: models/, the given ones, and that of the results. Raises UserError for one that is none.

    output: where results go; made if it is not there.
    """
    named = named_folders(folders)
    check_results_folder(output)
    output.mkdir(parents=True, exist_ok=True)
    return replace(HERE, samples=output, named=(*named, output))


def check_address(host: str, port: int | None) -> None:
    """Raise UserError where no server can listen: no address of this machine, or a port that is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name != "nt")
            trial.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"cannot listen on {host}: `port` {port} is taken; choose another or leave it out"
            ) from error
        raise UserError(
            f"cannot listen on {host} ({error.strerror or error}): `host` is an address of this machine, such as "
            "127.0.0.1, or 0.0.0.0 for all of them"
        ) from error


def start(
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    output: str | Path = HERE.samples,
    folders: Sequence[str | Path] = (),
    open_browser: bool = False,
    download: bool = False,
    renderer: Any = None,
) -> Any:
    """Serve the page from a thread; returns it, with its address in `blocks.local_url`.

    Raises UserError where the port is taken, a folder is none or cannot be written, or Gradio is missing.
    """
    check_address(host, port)
    from animatediff.ui.page import Page
    from animatediff.ui.style import CSS, theme

    output = Path(output)
    roots = roots_of(output, folders)
    if renderer is None:
        from animatediff.render.renderer import Renderer

        renderer = Renderer(roots=roots)
    page = Page(renderer, roots=roots, output=output, download=download)
    try:
        page.blocks.queue(api_open=False).launch(
            server_name=host,
            server_port=port,
            share=share,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            run_history=False,
            footer_links=[],
            allowed_paths=[str(output.resolve()), str(output.absolute())],
            max_file_size=MAX_UPLOAD,
            ssr_mode=False,
            enable_monitoring=False,
            theme=theme(),
            css=CSS,
        )
    except OSError as error:
        where = f"{host}, port {port}" if port else host
        reason = "it is taken" if "empty port" in str(error) else str(error)
        raise UserError(f"cannot listen on {where}: {reason}; choose another with `port`, or leave it out") from error
    return page


def wait_for_end(page: Any) -> None:
    """Serve until the process is interrupted, then end the render at work and the server."""
    try:
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    finally:
        page.close()
