"""Step 5: put the trained parts where the package looks for them, in float16 and the standard layouts."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.bundled.image import new_scheduler
from animatediff.bundled.motion import MAX_POSITIONS, load_unet
from animatediff.bundled.pool import load_vae
from animatediff.bundled.run import arguments
from animatediff.bundled.text import load_text
from animatediff.bundled.tokenizer import save_tokenizer
from animatediff.motion import MotionAdapter, MotionNumerics
from animatediff.weights.families import FAMILIES, Family, Recommended
from animatediff.weights.motion import save_motion_module

FAMILY = Family(
    name="bundled",
    title="sprite world (bundled)",
    base=None,
    numerics=MotionNumerics(max_positions=MAX_POSITIONS),
    betas=None,
    recommended=Recommended(num_frames=16, num_inference_steps=16, guidance_scale=4.0),
    norm_groups=16,
    notes=FAMILIES["custom"].notes,
)


def export(args: argparse.Namespace) -> None:
    """Write the diffusers folder and, if it is trained, the motion module."""
    from diffusers import StableDiffusionPipeline

    _, text = load_text(args.run)
    save_tokenizer(args.model / "tokenizer")
    from transformers import CLIPTokenizer

    absent: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    pipe = StableDiffusionPipeline(
        vae=load_vae(args.run).half(), text_encoder=text.half(), unet=load_unet(args).half(),
        tokenizer=CLIPTokenizer.from_pretrained(args.model / "tokenizer"), scheduler=new_scheduler(),
        **absent, requires_safety_checker=False,
    )  # fmt: skip
    for part in ("vae", "text_encoder", "unet"):
        shutil.rmtree(args.model / part, ignore_errors=True)
    pipe.save_pretrained(args.model)
    for config in args.model.glob("*/config.json"):  # no path of the machine that trained it
        lines = [line for line in config.read_text().splitlines(keepends=True) if '"_name_or_path"' not in line]
        config.write_text("".join(lines))
    save_tokenizer(args.model / "tokenizer")
    checkpoint = args.run / f"{args.name}.pt"
    if checkpoint.exists():
        adapter = MotionAdapter.from_unet(pipe.unet)
        adapter.load_state_dict(torch.load(checkpoint, weights_only=True)["parts"]["average"]["module"])
        save_motion_module(adapter, args.motion, family=FAMILY, dtype=torch.float16)
    size = sum(f.stat().st_size for f in [*args.model.rglob("*"), args.motion] if f.is_file())
    print(f"{args.model} and {args.motion.name}: {size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=0, batch=0)
    parser.add_argument("--model", type=Path, default=bundled_path(), help="folder of the image model")
    parser.add_argument("--motion", type=Path, default=motion_module_path(), help="file of the motion module")
    parser.add_argument("--name", default="motion", help="name of the motion checkpoint")
    export(parser.parse_args(argv))


if __name__ == "__main__":
    main()
