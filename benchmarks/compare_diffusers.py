"""Our pipeline against the installed diffusers `AnimateDiffPipeline`: same random weights, same sizes, one run.

`make bench`, or `python benchmarks/compare_diffusers.py [--steps 2] [--frames 8] [--size 256] [--dtype float32]`;
`make bench-gpu` measures on a GPU (`--device cuda`), where memory is what PyTorch allocated there at most.
SD 1.5 and mm_sd_v15_v2 shapes, guidance on; bfloat16 where the CPU computes in it, else float32 (emulated bfloat16 is a
hundred times slower). Each side runs in a process of its own. Ratios below 1 are in our favour.

`--in-turn float32 bfloat16 float16` measures both UNets and both ways to decode in one process, with the same weights,
by the time of the processor and in turn, so that what else the machine does hardly counts: for one thread, in a few
minutes. `ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16` before it leaves out the instructions that only newer CPUs have.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from watch import rss_mib  # the folder is no package

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("diffusers", "ours")
GOALS = {"step": 0.85, "import": 0.5, "memory": 1.0}


def components(dtype: Any) -> dict[str, Any]:
    """SD 1.5 with random weights, drawn once and repeated."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from animatediff.weights.base.model_configs import shipped_config
    from animatediff.weights.base.single_file import tokenizers

    with torch.device("meta"):
        parts = {
            "unet": UNet2DConditionModel.from_config(shipped_config("sd1", "unet")),
            "vae": AutoencoderKL.from_config(shipped_config("sd1", "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**shipped_config("sd1", "text_encoder"))),
        }
    for part in parts.values():
        fill(part, dtype)
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    return {**parts, **tokenizers("sd1"), "scheduler": scheduler}


def fill(module: Any, dtype: Any) -> None:
    """Give a module on the meta device random weights."""
    import torch

    module.to(dtype).to_empty(device="cpu")
    numbers = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(dtype)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.view(-1).copy_(numbers.repeat(tensor.numel() // len(numbers) + 1)[: tensor.numel()])
        else:  # position ids
            tensor.copy_(torch.arange(tensor.numel()).view_as(tensor))
        if "norm" in name and name.endswith("weight") and tensor.ndim == 1:
            tensor.fill_(1)
    for _, buffer in module.named_buffers():
        if not buffer.is_floating_point():
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))
    module.eval().requires_grad_(False)


def build(side: str, dtype: Any) -> Any:
    """The pipeline of one side."""
    import torch

    if side == "ours":
        from diffusers import StableDiffusionPipeline

        from animatediff.motion import MotionAdapter
        from animatediff.pipelines import AnimateDiffPipeline
        from animatediff.weights.families import FAMILIES

        image = StableDiffusionPipeline(
            **components(dtype), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        with torch.device("meta"):
            adapter = MotionAdapter.from_unet(image.unet, mid_block=True)
        fill(adapter, dtype)
        pipe: Any = AnimateDiffPipeline(image)
        pipe.set_motion_adapter(adapter, FAMILIES["v2"])
        return pipe
    import diffusers

    with torch.device("meta"):
        motion = diffusers.MotionAdapter(use_motion_mid_block=True, motion_max_seq_length=32)
    fill(motion, dtype)
    return diffusers.AnimateDiffPipeline(**components(dtype), motion_adapter=motion, feature_extractor=None)


def measure(side: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a step (the first left out), seconds to decode, and MiB beyond what was held before the call."""
    import torch

    from animatediff.pipelines.precision import as_dtype

    gpu = args.device != "cpu"
    pipe = build(side, as_dtype(args.dtype, args.device)).to(args.device)
    pipe.set_progress_bar_config(disable=True)
    if side == "diffusers":
        pipe.vae.disable_slicing()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if gpu else rss_mib()
    moments: list[float] = []

    def note(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        if gpu:
            torch.cuda.synchronize()
        moments.append(time.perf_counter())
        return values

    settings: dict[str, Any] = {
        "num_frames": args.frames, "height": args.size, "width": args.size, "num_inference_steps": args.steps + 1,
        "guidance_scale": 7.5, "generator": torch.Generator().manual_seed(0), "output_type": "pil",
    }  # fmt: skip
    with torch.inference_mode():
        pipe(prompt="a fox", negative_prompt="blurry", callback_on_step_end=note, **settings)
    end = time.perf_counter()
    steps = [b - a for a, b in itertools.pairwise(moments)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {"step": statistics.median(steps), "decode": end - moments[-1], "memory": peak - before}


def both_unets(dtype: Any) -> tuple[Any, Any]:
    """Our pipeline, and the UNet of diffusers' with the same weights."""
    import diffusers
    import torch

    from animatediff.weights.diffusers_motion import diffusers_state

    pipe = build("ours", dtype)
    with torch.device("meta"):
        image = diffusers.UNet2DConditionModel.from_config(pipe.unet.config)
        motion = diffusers.MotionAdapter(use_motion_mid_block=True, motion_max_seq_length=32)
        theirs = diffusers.UNetMotionModel.from_unet2d(image, motion, load_weights=False)
    adapter = pipe.attachment.adapter
    state = {name: value for name, value in pipe.unet.state_dict().items() if "motion_modules" not in name}
    theirs.load_state_dict({**state, **diffusers_state(adapter)}, assign=True)
    return pipe, theirs.eval().requires_grad_(False)


def in_turn(name: str, args: argparse.Namespace) -> None:
    """Print seconds of the processor for a step and for decoding, of diffusers and ours, and their ratios."""
    import torch
    from diffusers import AutoencoderKL

    from animatediff.pipelines.memory_layout import lay_out
    from animatediff.pipelines.precision import as_dtype
    from animatediff.pipelines.vae import decode_images
    from animatediff.sampling import ClipPredictor
    from animatediff.sampling.conditions import Conditioning

    dtype = as_dtype(name, "cpu")
    pipe, theirs = both_unets(dtype)
    vae: Any = AutoencoderKL.from_config(pipe.vae.config)
    vae.to(dtype).eval().load_state_dict(pipe.vae.state_dict())
    side, frames = args.size // 8, args.frames
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, frames, side, side, generator=generator)
    text = torch.randn(2, 77, 768, generator=generator).to(dtype)
    given = Conditioning(clips=[0, 0], num_negative=1, embeddings=text)
    predictor = ClipPredictor(unet=pipe.unet, frames=pipe.attachment.frames)
    timestep, places = torch.tensor(500), range(frames)
    flat = latents[0].transpose(0, 1).to(dtype)
    chunk = pipe.job("a fox", num_frames=frames, height=args.size, width=args.size).decode_chunk_size

    def their_step() -> Any:
        return theirs(latents.to(dtype), timestep, text.repeat_interleave(frames, 0), return_dict=False)[0]

    def our_decode() -> Any:
        return torch.cat([decode_images(pipe.vae, part * 0.18215) for part in flat.split(chunk)])

    def their_decode() -> Any:  # 16 at a time, as its pipeline does
        return torch.cat([(vae.decode(part).sample / 2 + 0.5).clamp(0, 1) for part in flat.split(16)])

    lay_out(pipe.unet)  # as a call does; the weights of diffusers' UNet stay as they are
    pairs = {
        "step": (their_step, lambda: predictor(latents, timestep, places, given)),
        "decode": (their_decode, our_decode),
    }
    with torch.inference_mode():
        for measured, sides in pairs.items():
            taken: list[tuple[float, ...]] = [tuple(map(processor_seconds, sides)) for _ in range(args.steps + 1)]
            diffusers, ours = (min(times) for times in zip(*taken[1:], strict=True))
            print(f"| {name} | {measured} | {diffusers:.2f} | {ours:.2f} | {ours / diffusers:.2f} |", flush=True)


def processor_seconds(work: Callable[[], object]) -> float:
    """Time of the processor that some work takes in this process, on all its threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def seconds(command: list[str], times: int = 5) -> float:
    """Median wall time of a command."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=SIDES, help="measure one side in this process, print JSON")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed, after one that is not")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="pixels, both ways")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bfloat16", "float16", "float32"))
    parser.add_argument("--device", default="cpu", help="cpu, or a GPU such as cuda")
    parser.add_argument("--quick", action="store_true", help="only the times of import and --help")
    parser.add_argument(
        "--in-turn", nargs="+", metavar="DTYPE", help="both sides in one process, in each of these types"
    )
    args = parser.parse_args()
    if args.in_turn:
        print(f"| {args.frames} frames of {args.size}x{args.size} | processor time of | diffusers | ours | ratio |")
        print("|---|---|---|---|---|")
        for name in args.in_turn:
            in_turn(name, args)
        return
    if args.side:
        print(json.dumps(measure(args.side, args)))
        return
    python = sys.executable
    imports = {"diffusers": "from diffusers import AnimateDiffPipeline", "ours": "import animatediff.pipelines"}
    found: dict[str, dict[str, float]] = {side: {} for side in SIDES}
    for side in SIDES:
        found[side]["import"] = seconds([python, "-c", imports[side]])
    if not args.quick:
        for side in SIDES:
            command = [python, __file__, "--side", side, "--steps", str(args.steps)]
            command += ["--frames", str(args.frames), "--size", str(args.size), "--dtype", args.dtype]
            command += ["--device", args.device]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
            found[side] |= json.loads(out.splitlines()[-1])
    units = {"import": "s", "step": "s", "decode": "s", "memory": "MiB beyond the weights"}
    print("| measured | diffusers | ours | ratio | goal |\n|---|---|---|---|---|")
    for name, unit in units.items():
        if name in found["ours"]:
            theirs, ours = found["diffusers"][name], found["ours"][name]
            print(f"| {name} ({unit}) | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} | {GOALS.get(name, '')} |")
    print(f"| animatediff --help (s) | | {seconds([python, '-m', 'animatediff.cli.main', '--help']):.2f} | | 0.50 s |")


if __name__ == "__main__":
    main()
