"""`animatediff convert`: motion weights from one layout to another."""

from __future__ import annotations

import os
from typing import Annotated, Optional, cast

import typer

from animatediff.cli.errors import reporting, reports_errors
from animatediff.cli.limits import takes_limits
from animatediff.cli.show import saying_replaced, show
from animatediff.limits import CONFIG, WEIGHTS


@reports_errors()
@takes_limits(WEIGHTS, CONFIG)
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="A weight file, also by its name alone in models/, or a diffusers folder."),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="A .safetensors or .ckpt file, or a folder.")],
    to: Annotated[
        str, typer.Option("--to", help="Layout of DST: original (one file), diffusers (a folder), internal, kohya.")
    ] = "original",
    dtype: Annotated[
        Optional[str],  # noqa: UP045 - read by typer at run time
        typer.Option("--dtype", help="float32, float16 or bfloat16; SRC's own if left out."),
    ] = None,
    family: Annotated[
        Optional[str],  # noqa: UP045 - read by typer at run time
        typer.Option("--family", metavar="NAME", help="Family to write into DST, in place of the recognised one."),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch SRC, a hub id, if it is not here.")] = False,
    norm: Annotated[
        Optional[str],  # noqa: UP045 - read by typer at run time
        typer.Option(
            "--norm", help="Norm of a motion module to write into DST: per-frame, or over-frames (diffusers')."
        ),
    ] = None,
) -> None:
    """Convert motion modules, SparseCtrl encoders and LoRAs between the original's, diffusers' and kohya's layout.

    Other weight files can change format and precision. DST says which family it is, whatever its name.
    """
    from animatediff.errors import unknown
    from animatediff.files import find_weights

    layouts, dtypes = ("original", "diffusers", "internal", "kohya"), ("float32", "float16", "bfloat16")
    norms = ("per-frame", "over-frames")
    for option, value, known in (("--to", to, layouts), ("--dtype", dtype, dtypes), ("--norm", norm, norms)):
        if value is not None and value not in known:
            raise unknown(option, value, known)
    import torch

    from animatediff.weights.convert import Layout, MotionNorm
    from animatediff.weights.convert import convert as convert_file
    from animatediff.weights.hub import network

    precision = None if dtype is None else getattr(torch, dtype)
    flags = {"family": "--family", "download": "--download", "norm": "--norm"}
    with reporting(flags), network(download), saying_replaced([] if os.path.isdir(target) else [target]):
        done = convert_file(
            find_weights(source),
            target,
            to=cast(Layout, to),
            dtype=precision,
            family=family,
            norm=cast("MotionNorm | None", norm),
        )
        show(done)
