"""Load published-size single files with random weights: time and peak memory against the size of the file.

python benchmarks/full_size.py [--folder FOLDER] [--step] [sd1 sdxl]
Each load runs in a process of its own, so that the peak is that of the load alone; the files are deleted afterwards.
`--step` goes on to a motion module file and renders 4 frames of 256x256 with one step of the sampler, in bfloat16 where
the CPU computes in it, else in float32.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEY_SHAPES = ROOT / "tests" / "data" / "key_shapes.json.gz"
LISTS = {"sd1": "sd15_single_file", "sdxl": "sdxl_single_file"}
MOTION_LISTS = {"sd1": "mm_sd_v15_v2", "sdxl": "mm_sdxl_v10_beta"}
DTYPES = {"sd1": ("BF16", "bfloat16"), "sdxl": ("F16", "float16")}
BLOCK = 1 << 23
"""Numbers drawn at random; the file repeats them, shifted, so that writing takes no longer than the disk."""


def write_random_file(path: Path, name: str, generation: str) -> int:
    """Write the file whose keys and shapes are listed as `name`, tensor by tensor. Returns its size in bytes."""
    import torch

    shapes = json.loads(gzip.decompress(KEY_SHAPES.read_bytes()))[name]
    shapes = shapes.get("parameters", shapes) | shapes.get("position_buffers", {})
    code, dtype = DTYPES[generation]
    numbers = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(getattr(torch, dtype))
    block = numbers.view(torch.uint8).numpy().tobytes()
    header, offset = {}, 0
    for key, shape in shapes.items():
        size = 2 * prod(shape)
        header[key] = {"dtype": code, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        left = offset
        while left:
            left -= file.write(block[: min(left, len(block))])
    return path.stat().st_size


def load(path: Path, dtype: str) -> dict[str, float]:
    """Load a single file in this process. Returns seconds, and MiB of resident memory: before, peak, of the weights."""
    import torch

    from animatediff.weights.base.single_file import build, load_base_single_file  # noqa: F401  # imports are not the load

    for name in ("diffusers", "transformers", "accelerate"):
        __import__(name)
    from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: F401
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    parts = load_base_single_file(path, dtype=None if dtype == "file" else getattr(torch, dtype))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    modules = [part for part in parts.values() if isinstance(part, torch.nn.Module)]
    weights = sum(p.numel() * p.element_size() for module in modules for p in module.parameters()) / 2**20
    return {"seconds": seconds, "before": before, "peak": peak, "weights": weights}


def one_step(path: Path, motion: Path) -> dict[str, float]:
    """Load both files and render 4 frames with one step. Returns seconds of both, and the peak in MiB."""
    import torch

    from animatediff.pipelines import AnimateDiffPipeline

    start = time.perf_counter()
    pipe = AnimateDiffPipeline.from_single_file(path)
    pipe.load_motion_module(motion)
    loaded = time.perf_counter()
    pipe.set_progress_bar_config(disable=True)
    out = pipe(
        "a fox", num_frames=4, height=256, width=256, num_inference_steps=1, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert out.frames.shape == (1, 4, 3, 256, 256) and bool(out.frames.isfinite().all())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    bits = 8 * pipe.unet.dtype.itemsize
    return {"loading": loaded - start, "rendering": time.perf_counter() - loaded, "peak": peak, "bits": bits}


def render(generations: list[str], parent: Path | None) -> None:
    """Print a row for each generation: loading both files, one step of the sampler and decoding, and the peak."""
    print(f"{'model':6} {'dtype':9} {'load s':>8} {'render s':>9} {'peak MiB':>9}")
    for generation in generations:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            paths = [Path(folder) / "model.safetensors", Path(folder) / "motion.safetensors"]
            for path, lists in zip(paths, (LISTS, MOTION_LISTS), strict=True):
                write_random_file(path, lists[generation], generation)
            command = [sys.executable, __file__, "--render", *map(str, paths)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found = json.loads(out.splitlines()[-1])
        dtype = "bfloat16" if found["bits"] == 16 else "float32"
        print(f"{generation:6} {dtype:9} {found['loading']:8.1f} {found['rendering']:9.1f} {found['peak']:9.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("generations", nargs="*", default=list(LISTS), help="sd1, sdxl")
    parser.add_argument("--folder", type=Path, help="where the random files are written (7 GB for sdxl)")
    parser.add_argument("--step", action="store_true", help="render with a motion module, instead of only loading")
    parser.add_argument("--load", nargs=2, metavar=("FILE", "DTYPE"), help=argparse.SUPPRESS)
    parser.add_argument("--render", nargs=2, metavar=("FILE", "MOTION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        print(json.dumps(load(Path(arguments.load[0]), arguments.load[1])))
        return
    if arguments.render:
        print(json.dumps(one_step(Path(arguments.render[0]), Path(arguments.render[1]))))
        return
    if arguments.step:
        render(arguments.generations, arguments.folder)
        return
    print(
        f"{'model':6} {'dtype':9} {'file MiB':>9} {'seconds':>8} {'peak MiB':>9} {'above start':>12} {'/ weights':>10}"
    )
    for generation in arguments.generations:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            path = Path(folder) / "model.safetensors"
            size = write_random_file(path, LISTS[generation], generation) / 2**20
            for dtype in ("file", "float32") if generation == "sd1" else ("file",):
                command = [sys.executable, __file__, "--load", str(path), dtype]
                found = json.loads(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                )
                above = found["peak"] - found["before"]
                print(
                    f"{generation:6} {dtype:9} {size:9.0f} {found['seconds']:8.1f} {found['peak']:9.0f} {above:12.0f} "
                    f"{above / found['weights']:10.2f}"
                )


if __name__ == "__main__":
    main()
