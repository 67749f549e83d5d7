"""Put the trained parts where the package looks for them, in 8 and 16 bits and the standard layouts.

`python -m recipes.bundled.export --run FOLDER` writes the model; with `--set`, the bundled set. `--only-store` copies
nothing: it stores the files of model and set that are there in 8 bits (`eight_bits.py`), and may be called again.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch

from animatediff.bundled import CAMERA_MOVES, bundled_path, motion_module_path, set_path
from animatediff.weights.families import FAMILIES, Family, Recommended
from animatediff.weights.motion import load_motion_module, save_motion_module
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors
from recipes.bundled.base import write_model
from recipes.bundled.eight_bits import megabytes, store_model, store_set
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
    store_model(args.model, args.motion)
    say_sizes([args.model, args.motion])


def say_sizes(paths: Iterable[Path]) -> None:
    """Print the size of each file or folder, and of all."""
    sizes = {path: megabytes(path) for path in paths}
    for path, size in sizes.items():
        print(f"{path}: {size:.1f} MB")
    print(f"together: {sum(sizes.values()):.1f} MB")


def set_parts() -> dict[str, str]:
    """Where the stages leave the parts of the bundled set, by their place in it."""
    parts = {f"{move}.safetensors": f"motion_lora/{move}/motion_lora.safetensors" for move in CAMERA_MOVES}
    for kind in ("rgb", "scribble"):
        parts[f"sparsectrl_{kind}.safetensors"] = f"sparsectrl_{kind}/sparsectrl.safetensors"
    parts |= {"camera_control.safetensors": "camera_control/camera_control.safetensors"}
    parts |= {"domain_adapter.safetensors": "adapter/domain_adapter.safetensors"}
    return parts | {"paper.safetensors": "paper/lora.safetensors", "neon": "neon/model"}


def export_set(run: Path, folder: Path, model: Path) -> None:
    """Copy the parts that are there, and print which are not. Where their metadata names `run`, it becomes `HOME`.

    `model`: the image model that ships, whose autoencoder and text encoder are not stored twice.
    """
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
    store_set(folder, model)
    say_sizes(sorted(folder.iterdir()))


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", type=Path, default=bundled_path(), help="folder of the image model")
    parser.add_argument("--motion", type=Path, default=motion_module_path(), help="file of the motion module")
    parser.add_argument("--set", action="store_true", help="write the bundled set, not the model")
    parser.add_argument("--set-folder", type=Path, default=set_path(), help="folder of the bundled set")
    parser.add_argument("--only-store", action="store_true", help="store the files that are there in 8 bits")
    args = parser.parse_args(argv)
    if args.only_store:
        store_model(args.model, args.motion)
        store_set(args.set_folder, args.model)
        say_sizes([args.model, args.motion, *sorted(args.set_folder.iterdir())])
    elif args.set:
        export_set(args.run, args.set_folder, args.model)
    else:
        export(args)


if __name__ == "__main__":
    main()
