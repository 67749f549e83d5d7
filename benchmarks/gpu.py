"""What a GPU computes, how fast, and in how much memory: the golden cases, a bundled clip, steps of SD 1.5's size.

`make bench-gpu`, or `python benchmarks/gpu.py [--device cuda] [golden] [clip] [train] [offload] [speed]`.
Golden cases are compared with the original implementations by the norm of the difference over the norm of what they
computed: below 1e-5 in float32 (without TF32), near 1e-3 in float16 and 1e-2 in bfloat16. A part that fails is printed,
the others go on.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def golden(args: argparse.Namespace) -> None:
    """Print how far the UNets of all families and the clips of SD 1.5 are from the original implementations."""
    import torch
    from support import golden as cases
    from support.close import relative

    def of_unet(family: str, dtype: Any) -> float:
        motion, tensors = cases.load_attached(family), cases.expected(family)
        motion.unet.to(device=args.device, dtype=dtype)
        return relative(cases.run_unet(motion, tensors).cpu(), tensors["unet.out"])

    def of_clip(family: str, dtype: Any) -> float:
        pipe = cases.load_pipeline(family).to(args.device, dtype)
        pipe.set_progress_bar_config(disable=True)
        return relative(cases.render(pipe, family).cpu(), cases.expected(family)["pipeline.video"])

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    print("| golden case | float32 | float16 | bfloat16 |\n|---|---|---|---|")
    for name, families, measure in (("UNet", cases.FAMILIES, of_unet), ("clip", cases.SD15_FAMILIES, of_clip)):
        for family in families:
            row = [f"{measure(family, dtype):.1e}" for dtype in (torch.float32, torch.float16, torch.bfloat16)]
            print(f"| {name} {family} | {' | '.join(row)} |", flush=True)


def run(*command: str) -> None:
    """Run a command of the tool and print its time and the end of what it said."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "animatediff.cli.main", *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    said = (done.stdout + done.stderr).strip()
    seconds = time.perf_counter() - start
    print(f"{' '.join(command)}: exit {done.returncode}, {seconds:.1f} s\n{said[-1500:]}", flush=True)


def clip(args: argparse.Namespace) -> None:
    """Render the bundled model on the GPU and on the CPU with one seed, and print how far apart the frames are."""
    import torch
    from support.close import relative

    from animatediff.pipelines import AnimateDiffPipeline

    command = ["animate", "a red fox moving right on a green background", "--seed", "1", "--out"]
    run(*command, str(args.out / "gpu.gif"), "--device", args.device)
    frames = {}
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    devices = [*((args.device, dtype) for dtype in dtypes), ("cpu", torch.float32)]
    for name, dtype in devices:
        pipe = AnimateDiffPipeline.from_bundled(torch_dtype=dtype).to(name)
        pipe.set_progress_bar_config(disable=True)
        for _ in range(2):
            start = time.perf_counter()
            frames[name, dtype] = pipe(
                command[1], generator=torch.Generator().manual_seed(1), output_type="pt"
            ).frames.float().cpu()  # fmt: skip
            seconds = time.perf_counter() - start
        print(f"bundled clip {name} {dtype}: {seconds:.2f} s", flush=True)
    wanted = frames.pop(("cpu", torch.float32))
    for (name, dtype), found in frames.items():
        print(f"bundled clip {name} {dtype}: relative difference from the CPU {relative(found, wanted):.1e}")


def train(args: argparse.Namespace) -> None:
    """Train the bundled motion module for a few steps in each number format, on the GPU where there is one."""
    for precision in ("no", "fp16", "bf16"):
        config = args.out / f"train_{precision}.yaml"
        config.write_text(
            "stage: motion\nmodel: bundled\n"
            "data: {kind: sprites, num_frames: 16, height: 64, width: 64, num_items: 256}\nworkers: 4\n"
            f"steps: 40\nbatch_size: 8\nsave_every: 20\nlog_every: 10\nprecision: {precision}\n"
            f"out: {args.out / precision}\n"
        )
        run("train", str(config))


def offload(args: argparse.Namespace) -> None:
    """Time and memory of SD 1.5's size with what saves memory."""
    import torch
    from compare_diffusers import build
    from support.close import relative

    print("| saving | s | peak MiB |\n|---|---|---|")
    wanted = None
    for name in ("none", "model offload", "sequential offload", "group offload", "vae tiling", "windows of 64 frames"):
        pipe = build("ours", torch.float16)
        pipe.set_progress_bar_config(disable=True)
        try:
            if name == "model offload":
                pipe.enable_model_cpu_offload(device=args.device)
            elif name == "sequential offload":
                pipe.enable_sequential_cpu_offload(device=args.device)
            elif name == "group offload":
                pipe.enable_group_offload(onload_device=args.device, offload_type="leaf_level", use_stream=True)
            else:
                pipe.to(args.device)
            if name == "vae tiling":
                pipe.enable_vae_tiling()
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            frames = pipe(
                "a fox", num_frames=64 if "64" in name else 16, height=512, width=512, num_inference_steps=4,
                generator=torch.Generator().manual_seed(0), output_type="pt",
            ).frames  # fmt: skip
            seconds, peak = time.perf_counter() - start, torch.cuda.max_memory_allocated() / 2**20
            frames = frames.float().cpu()
            if wanted is None:
                wanted = frames
            same = f"{relative(frames, wanted):.1e}" if frames.shape == wanted.shape else "-"
            print(f"| {name} | {seconds:.2f} | {peak:.0f} | differs by {same} |", flush=True)
        except Exception:
            traceback.print_exc(limit=-4)
        del pipe
        gc.collect()
        torch.cuda.empty_cache()


def speed(args: argparse.Namespace) -> None:
    """Ours beside diffusers, in float16 and bfloat16 at 512x512 and 16 frames."""
    for dtype in ("float16", "bfloat16"):
        command = [sys.executable, str(ROOT / "benchmarks" / "compare_diffusers.py"), "--device", args.device]
        command += ["--dtype", dtype, "--size", "512", "--frames", "16", "--steps", "8"]
        print(dtype, flush=True)
        subprocess.run(command, cwd=ROOT, check=False)


def main() -> None:
    parts = {"golden": golden, "clip": clip, "train": train, "offload": offload, "speed": speed}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, help="folder for the clip and the trained files")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        args.out = args.out or Path(temporary)
        for name in args.parts:
            print(f"\n## {name}", flush=True)
            start = time.perf_counter()
            try:
                parts[name](args)
            except Exception:
                traceback.print_exc(limit=-6)
            print(f"({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
