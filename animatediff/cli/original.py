"""`python -m scripts.animate` with the flags of the original, dashes or underscores."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from animatediff.cli.errors import reporting
from animatediff.cli.show import show
from animatediff.cli.terminal import ending, prepare
from animatediff.errors import UserError, unknown

UNNEEDED = {
    "--without-xformers": "attention is PyTorch's own, xformers is never used",
    "--xformers": "attention is PyTorch's own, xformers is not needed",
}


SETTINGS = {
    "motion_module": (("--motion-module-path", "--motion-module"), "FILE"),
    "inference_config": (("--inference-config", "--base-config"), "FILE"),
    "num_frames": (("--L",), "FRAMES"),
    "width": (("--W",), "PIXELS"),
    "height": (("--H",), "PIXELS"),
    "out": (("--out",), "FILE"),
    "device": (("--device",), None),
    "dtype": (("--dtype",), None),
    "download": (("--download",), None),
}
"""Option of a request -> its flags here, and their metavar."""
FLAGS = {name: flags[0] for name, (flags, _) in SETTINGS.items()} | {
    "motion_loras": "--motion-lora-path",
    "folder": "--folder",
}


class QuietParser(argparse.ArgumentParser):
    """Report mistakes in the flags as all other errors of a user."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    from animatediff.render.options import BY_NAME

    parser = QuietParser(
        prog="scripts.animate", description="Render the runs of a configuration file.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", "--exp-config", required=True, metavar="FILE", help="YAML of runs")
    add("--pretrained-model-path", metavar="MODEL", help="file, diffusers folder or hub id")
    add("--folder", metavar="FOLDER", action="append", help="where files named by FILE may be; may be repeated")
    add("--motion-lora-path", metavar="FILE", action="append", help="may be repeated")
    add("--motion-lora-scale", metavar="X", type=float, action="append", help="1.0 if left out")
    for setting, (names, metavar) in SETTINGS.items():
        option = BY_NAME[setting]
        if option.entry is bool:
            add(*names, dest=setting, action="store_true", default=None, help=option.usage)
        else:
            add(*names, dest=setting, type=option.entry, choices=option.choices, metavar=metavar, help=option.usage)
    add("--quiet", action="store_true")
    for flag, reason in UNNEEDED.items():
        add(flag, action="store_true", help=f"accepted; {reason}")
    return parser


def check_flags(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Raise UserError for a flag that the parser does not have, naming the nearest one."""
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    for item in arguments:
        name = item.partition("=")[0]
        if item.startswith("--") and name not in known:
            raise unknown("flag", name, known)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The flags; a flag may be written with dashes or underscores. Raises UserError, naming the nearest known flag."""
    parser = _parser()
    dashed = [re.sub(r"^--[^=]+", lambda m: m[0].replace("_", "-"), item) for item in arguments]
    check_flags(parser, dashed)
    return parser.parse_args(dashed)


def overrides(flags: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags give. Raises UserError for MotionLoRA scales that match no file."""
    paths, scales = flags.motion_lora_path or [], flags.motion_lora_scale or []
    if (len(scales) > 1 and len(scales) != len(paths)) or (scales and not paths):
        raise UserError(f"{len(scales)} x --motion-lora-scale for {len(paths)} x --motion-lora-path; give one for each")
    scales = scales * len(paths) if len(scales) == 1 else scales or [1.0] * len(paths)
    given = {name: value for name in SETTINGS if (value := getattr(flags, name)) is not None}
    if paths:
        given["motion_loras"] = [{"path": path, "scale": scale} for path, scale in zip(paths, scales, strict=True)]
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from animatediff.cli.animate import run
    from animatediff.render import resolve

    prepare()
    try:
        with ending(), reporting(FLAGS):
            flags = parse(sys.argv[1:] if arguments is None else arguments)
            for flag, reason in UNNEEDED.items():
                if getattr(flags, flag.removeprefix("--").replace("-", "_")):
                    show(f"{flag} is not needed: {reason}", file=sys.stderr)
            base = resolve({"model": flags.pretrained_model_path})["model"]
            run(
                overrides(flags),
                config=flags.config,
                folders=flags.folder or (),
                pretrained_model_path=base,
                quiet=flags.quiet,
            )
    except typer.Exit as end:
        return end.exit_code
    return 0
