"""Put the trained parts where the package looks for them, in float16 and the standard layouts.

`python -m recipes.bundled.export --run FOLDER` writes the model; with `--set`, the bundled set.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from animatediff.bundled import CAMERA_MOVES, bundled_path, motion_module_path, set_path
from animatediff.weights.families import FAMILIES, Family, Recommended
from animatediff.weights.motion import load_motion_module, save_motion_module
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from recipes.bundled.base import write_model
from recipes.bundled.fit import arguments

HOME = "outputs/bundled"
"""The folder of a run in the recipes; files that ship name no other."""
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


def set_parts() -> dict[str, str]:
    """Where the stages leave the parts of the bundled set, by their place in it."""
    parts = {f"{move}.safetensors": f"motion_lora/{move}/motion_lora.safetensors" for move in CAMERA_MOVES}
    for kind in ("rgb", "scribble"):
        parts[f"sparsectrl_{kind}.safetensors"] = f"sparsectrl_{kind}/sparsectrl.safetensors"
    parts |= {"domain_adapter.safetensors": "adapter/domain_adapter.safetensors"}
    return parts | {"paper.safetensors": "paper/lora.safetensors", "neon": "neon/model"}


def export_set(run: Path, folder: Path) -> None:
    """Copy the parts that are there, and print which are not. Where their metadata names `run`, it becomes `HOME`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, trained in set_parts().items():
        source, place = run / trained, folder / name
        if not source.exists():
            print(f"{source}: is not there")
            continue
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        files = [source] if source.is_file() else sorted(source.rglob("*.safetensors"))
        for file in files:
            header = read_header(file)
            metadata = {key: text.replace(str(run), HOME) for key, text in header.metadata.items()}
            save_tensors(place / file.relative_to(source), load_tensors(header), metadata)
        print(f"{place}: {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, default=bundled_path(), help="folder of the image model")
    parser.add_argument("--motion", type=Path, default=motion_module_path(), help="file of the motion module")
    parser.add_argument("--set", action="store_true", help="write the bundled set, not the model")
    parser.add_argument("--set-folder", type=Path, default=set_path(), help="folder of the bundled set")
    args = parser.parse_args(argv)
    if args.set:
        export_set(args.run, args.set_folder)
    else:
        export(args)


if __name__ == "__main__":
    main()
