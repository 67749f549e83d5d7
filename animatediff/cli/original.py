"""`python -m scripts.animate` with the flags of the original, dashes or underscores."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from animatediff.cli.errors import reporting
from animatediff.errors import UserError, unknown

UNNEEDED = {
    "--without-xformers": "attention is PyTorch's own, xformers is never used",
    "--xformers": "attention is PyTorch's own, xformers is not needed",
}


class QuietParser(argparse.ArgumentParser):
    """Mistakes in the flags are errors of the user, told as all others are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    parser = QuietParser(
        prog="scripts.animate", description="Render the runs of a configuration file.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--config", "--exp-config", required=True, metavar="FILE", help="YAML of runs")
    add("--pretrained-model-path", metavar="MODEL", help="file, diffusers folder or hub id")
    add("--motion-module-path", "--motion-module", metavar="FILE", help="in place of the configuration's")
    add("--motion-lora-path", metavar="FILE", action="append", help="may be repeated")
    add("--motion-lora-scale", metavar="X", type=float, action="append", help="1.0 if left out")
    add("--inference-config", "--base-config", metavar="FILE", help="not needed; compared with what the weights say")
    add("--L", type=int, metavar="FRAMES")
    add("--W", type=int, metavar="PIXELS")
    add("--H", type=int, metavar="PIXELS")
    add("--out", metavar="FILE", help="a video file, or a folder of PNG, instead of samples/")
    add("--device")
    add("--dtype", choices=("float32", "float16", "bfloat16"))
    add("--download", action="store_true", help="fetch known files that are missing")
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
    given = {
        "motion_module": flags.motion_module_path,
        "motion_loras": [{"path": p, "scale": s} for p, s in zip(paths, scales, strict=True)] or None,
        "inference_config": flags.inference_config,
        "num_frames": flags.L,
        "width": flags.W,
        "height": flags.H,
        "out": flags.out,
        "device": flags.device,
        "dtype": flags.dtype,
        "download": flags.download or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    from animatediff.cli.animate import run
    from animatediff.render import resolve

    try:
        with reporting():
            flags = parse(sys.argv[1:] if arguments is None else arguments)
            for flag, reason in UNNEEDED.items():
                if getattr(flags, flag.removeprefix("--").replace("-", "_")):
                    print(f"{flag} is not needed: {reason}", file=sys.stderr)
            base = resolve({"model": flags.pretrained_model_path})["model"]
            run(overrides(flags), config=flags.config, pretrained_model_path=base, quiet=flags.quiet)
    except typer.Exit as end:
        return end.exit_code
    return 0
