"""Step 6: put the trained parts where the package looks for them, in float16 and the standard layouts."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.bundled.base import write_model
from animatediff.bundled.run import arguments
from animatediff.weights.families import FAMILIES, Family, Recommended
from animatediff.weights.motion import load_motion_module, save_motion_module

RECOMMENDED = Recommended(num_frames=16, num_inference_steps=16, guidance_scale=4.0)


def export(args: argparse.Namespace) -> None:
    """Write the diffusers folder and the motion module."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(args.run / "image" / "model" / "unet", torch_dtype=torch.float32)
    write_model(args.model, args.run, unet, torch.float16)
    adapter, _ = load_motion_module(args.run / "motion" / "motion_module.safetensors", dtype=torch.float32)
    family = Family(
        name="bundled",
        title="sprite world (bundled)",
        base=None,
        numerics=adapter.numerics,
        betas=None,
        recommended=RECOMMENDED,
        norm_groups=16,
        notes=FAMILIES["custom"].notes,
    )
    save_motion_module(adapter, args.motion, family=family, dtype=torch.float16)
    size = sum(f.stat().st_size for f in [*args.model.rglob("*"), args.motion] if f.is_file())
    print(f"{args.model} and {args.motion.name}: {size / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=0, batch=0)
    parser.add_argument("--model", type=Path, default=bundled_path(), help="folder of the image model")
    parser.add_argument("--motion", type=Path, default=motion_module_path(), help="file of the motion module")
    export(parser.parse_args(argv))


if __name__ == "__main__":
    main()
