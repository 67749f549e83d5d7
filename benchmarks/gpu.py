"""What a GPU computes, how fast, and in how much memory, in under 9 minutes; rows are printed as they come.

`make bench-gpu`, or `python benchmarks/gpu.py [--wheels FOLDER] [--budget 520] [golden paths speed training planner]`.
Needs one NVIDIA GPU and PyTorch; what else is needed may lie as wheels in a folder, and nothing is downloaded. Weights
are random, in the shapes of SD 1.5 and SDXL, float16. A part that fails is printed, the others go on; each has a limit,
and what does not fit into the budget is said to be left out. Without a GPU the same runs on the CPU at tiny sizes.

Wheels for such a machine, made where there is a network: `pip download -d wheels -c constraints.txt .` with the Python
of that machine; those of torch itself are passed over.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "benchmarks")]

from budget import TimeUpError, install, limited  # noqa: E402  # the folder is no package


@dataclass
class Bench:
    """Device, sizes and time of one run."""

    device: str
    tiny: bool
    out: Path
    ends: float
    """Of the whole budget, on `time.monotonic`."""
    failed: int = 0

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def size(self, name: str) -> str:
        """The size of models that stands for `sd1` or `sdxl`."""
        return ({"sd1": "tiny", "sdxl": "tiny-sdxl"} if self.tiny else {"sd1": "sd1", "sdxl": "sdxl"})[name]

    def clip(self, pixels: int = 512, frames: int = 16) -> dict[str, Any]:
        """Settings of a clip, made small on a CPU."""
        pixels, frames = (64, 2) if self.tiny else (pixels, frames)
        return {"num_frames": frames, "height": pixels, "width": pixels}

    def steps(self, count: int) -> int:
        return min(count, 2) if self.tiny else count

    @contextlib.contextmanager
    def tried(self, name: str) -> Iterator[None]:
        """Go on after an error in one row, which is printed."""
        try:
            yield
        except TimeUpError:
            raise
        except Exception as error:
            self.failed += 1
            row(name, "failed", f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}")
            traceback.print_exc(limit=-4)
        finally:
            gc.collect()
            if self.device != "cpu":
                import torch

                torch.cuda.empty_cache()


def row(*cells: Any) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def table(*names: str) -> None:
    row(*names)
    row(*["---"] * len(names))


def golden(bench: Bench) -> None:
    """The largest difference from the original implementations, and in half precision the relative one."""
    import torch
    from support import golden as cases
    from support.close import relative

    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    table("golden case", "float32, largest difference", "within 1e-4", "float16, relative", "bfloat16, relative")
    kinds = [("UNet", family) for family in cases.FAMILIES] + [("clip", family) for family in cases.SD15_FAMILIES]
    try:
        for kind, family in kinds[: 1 if bench.tiny else None]:
            with bench.tried(f"{kind} {family}"):
                found = []
                wanted = cases.expected(family)["unet.out" if kind == "UNet" else "pipeline.video"]
                for dtype in (torch.float32, torch.float16, torch.bfloat16):
                    if kind == "UNet":
                        motion = cases.load_attached(family)
                        motion.unet.to(device=bench.device, dtype=dtype)
                        out = cases.run_unet(motion, cases.expected(family))
                    else:
                        pipe = cases.load_pipeline(family).to(bench.device, dtype)
                        pipe.set_progress_bar_config(disable=True)
                        out = cases.render(pipe, family)
                    found.append(out.float().cpu())
                largest = float((found[0] - wanted).abs().max())
                bench.failed += not largest <= 1e-4
                rest = (f"{relative(each, wanted):.1e}" for each in found[1:])
                row(f"{kind} {family}", f"{largest:.1e}", "yes" if largest <= 1e-4 else "NO", *rest)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


def paths(bench: Bench) -> None:
    """What only GPUs take: attention over more sequences than a kernel's grid, offloading, autocast, bfloat16."""
    import torch

    table("path", "differs by (relative)", "peak MiB", "s")
    with bench.tried("attention of many sequences"):
        _attention(bench)
    _half_precision(bench, torch)
    _offloads(bench)


def _attention(bench: Bench) -> None:
    """Attention over the frames of more latent pixels than one launch takes, against the formula for some of them."""
    import torch
    from support.close import relative

    from animatediff.motion.module import MAX_ATTENTION_BATCH, attend

    count, heads, frames, width = 65_535 + 4_000, *((1, 2, 8) if bench.tiny else (8, 16, 40))
    assert count > MAX_ATTENTION_BATCH
    dtype = torch.float32 if bench.device == "cpu" else torch.float16
    start = time.perf_counter()
    with torch.inference_mode():
        q, k, v = torch.randn(3, count, heads, frames, width, device=bench.device, dtype=dtype)
        found = attend(q, k, v)
        some = torch.tensor([0, MAX_ATTENTION_BATCH - 1, MAX_ATTENTION_BATCH, 65_535, 65_536, count - 1])
        q, k, v, found = (t[some.to(t.device)].float().cpu() for t in (q, k, v, found))
        wanted = (q @ k.transpose(-1, -2) / width**0.5).softmax(-1) @ v
        difference = relative(found, wanted)
    row(f"attention of {count:,} sequences", f"{difference:.1e}", "", f"{time.perf_counter() - start:.1f}")


def _half_precision(bench: Bench, torch: Any) -> None:
    """The bundled model in each number format, and its float32 weights under autocast, against float32 on the CPU."""
    from support.close import relative

    from animatediff.pipelines import AnimateDiffPipeline

    def frames(device: str, dtype: Any, autocast: Any = None) -> Any:
        pipe = AnimateDiffPipeline.from_bundled(torch_dtype=dtype).to(device)
        pipe.set_progress_bar_config(disable=True)
        context = torch.autocast(device, autocast) if autocast is not None else contextlib.nullcontext()
        with context:
            return pipe(
                "a red fox moving right on a green background", num_inference_steps=bench.steps(16),
                num_frames=bench.clip()["num_frames"], output_type="pt", generator=torch.Generator().manual_seed(1),
            ).frames.float().cpu()  # fmt: skip

    wanted = frames("cpu", torch.float32)
    cases = {"float32": (torch.float32, None), "float16": (torch.float16, None), "bfloat16": (torch.bfloat16, None)}
    cases["autocast to bfloat16"] = (torch.float32, torch.bfloat16)
    for name in ("float32", "float16") if bench.tiny else ():
        cases.pop(name)
    for name, (dtype, autocast) in cases.items():
        with bench.tried(name):
            start = time.perf_counter()
            difference = relative(frames(bench.device, dtype, autocast), wanted)
            row(f"bundled clip, {name}", f"{difference:.1e}", "", f"{time.perf_counter() - start:.1f}")


def _offloads(bench: Bench) -> None:
    """Time and memory of SD 1.5's size with what saves memory; the frames are those of the first row."""
    import torch
    from random_models import our_pipeline
    from support.close import relative
    from watch import peak_memory

    frames = 4 if bench.tiny else 64
    savings = ["all on the device", "vae tiling", long := f"{frames} frames, in windows"]
    offloads = ["model offload", "group offload", "sequential offload"]
    if bench.device == "cpu":
        row("offloading", "left out: it needs a GPU", "", "")
    else:
        savings[1:1] = offloads
    wanted = None
    dtype = torch.float32 if bench.device == "cpu" else torch.float16
    for name in savings:
        with bench.tried(name):
            pipe = our_pipeline(bench.size("sd1"), dtype, "cpu")
            if name == "model offload":
                pipe.enable_model_cpu_offload(device=bench.device)
            elif name == "sequential offload":
                pipe.enable_sequential_cpu_offload(device=bench.device)
            elif name == "group offload":
                pipe.enable_group_offload(onload_device=bench.device, offload_type="leaf_level", use_stream=True)
            else:
                pipe.to(bench.device)
            if name == "vae tiling":
                pipe.enable_vae_tiling()
            settings = bench.clip()
            if name == long:
                settings |= {"num_frames": frames, **({"window": 2, "overlap": 1} if bench.tiny else {})}
            start = time.perf_counter()
            with peak_memory(bench.device) as peak:
                found = pipe(
                    "a fox", num_inference_steps=bench.steps(4), output_type="pt",
                    generator=torch.Generator().manual_seed(0), **settings,
                ).frames.float().cpu()  # fmt: skip
            wanted = found if wanted is None else wanted
            same = f"{relative(found, wanted):.1e}" if found.shape == wanted.shape else "-"
            row(name, same, f"{peak.at_most:.0f}", f"{time.perf_counter() - start:.1f}")


def speed(bench: Bench) -> None:
    """Seconds a step and peak memory of ours beside diffusers, exact, fast and compiled, guidance on."""
    import torch
    from random_models import pipelines
    from watch import call

    table("model", "way", "s a step", "s to decode", "peak MiB", "of diffusers' step")
    dtype = torch.float32 if bench.device == "cpu" else torch.float16
    for name, pixels in (("sd1", 512), ("sdxl", 1024)):
        steps = 12 if bench.tiny else {"sd1": 25, "sdxl": 12}[name]
        title, base = f"{name} {bench.clip(pixels)['height']}", 0.0
        with bench.tried(title):
            pipes = pipelines(bench.size(name), dtype, bench.device)
            for way in ("diffusers", "exact", "balanced", "max", "compiled"):
                side = pipes["diffusers" if way == "diffusers" else "ours"]
                settings = bench.clip(pixels) | ({"fast": way} if way in ("balanced", "max") else {})
                if way == "compiled":
                    if bench.tiny or bench.left < 120:
                        row(title, way, "left out: " + ("it needs a GPU" if bench.tiny else "time is up"), "", "", "")
                        continue
                    _compile(side)
                    call(side, bench.device, num_inference_steps=1, **settings)
                count = steps if "fast" in settings else bench.steps(6)
                run = call(side, bench.device, num_inference_steps=count, **settings)
                step = sum(run.steps) / len(run.steps)
                base = base or step
                row(title, way, f"{step:.3f}", f"{run.decode:.2f}", f"{run.peak.at_most:.0f}", f"{step / base:.2f}")


def _compile(pipe: Any) -> None:
    from bench import compile_unet

    compile_unet(pipe)


def training(bench: Bench) -> None:
    """A step of each stage at the sizes of its recipe, with what PyTorch allocated at most."""
    import torch
    from accelerate import init_empty_weights
    from watch import peak_memory

    table("stage", "clips, frames, pixels", "s a step", "peak MiB")
    recipes = sorted((ROOT / "configs" / "training").glob("*.yaml"))
    for recipe in recipes[:: 3 if bench.tiny else 1]:
        with bench.tried(recipe.stem):
            from random_models import CHANGES
            from training_memory import TEXT, inputs_of, model

            from animatediff.training.read import load_train_config

            config = load_train_config(recipe)
            clips = config.clips()
            size = (config.batch_size, clips.num_frames, clips.height // 8, clips.width // 8)
            size, changed = ((1, 2, 8, 8), CHANGES["tiny"]["unet"]) if bench.tiny else (size, {})
            with init_empty_weights(include_buffers=False):
                module = model(config, changed)
            _fill(module, bench.device)
            parameters = [p for p in module.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(parameters, lr=1e-5)
            width = changed.get("cross_attention_dim", TEXT[1])
            arguments, named = inputs_of(config, *size, device=bench.device, width=width)
            dtype = torch.bfloat16 if bench.device == "cpu" or torch.cuda.is_bf16_supported() else torch.float16
            with peak_memory(bench.device) as peak:
                for _ in range(2):
                    start = time.perf_counter()
                    with torch.autocast(bench.device, dtype):
                        loss = module(*arguments, **named).mean()
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    float(loss.detach())
                    seconds = time.perf_counter() - start
            row(
                recipe.stem,
                f"{size[0]} x {size[1]} x {8 * size[3]}x{8 * size[2]}",
                f"{seconds:.2f}",
                f"{peak.at_most:.0f}",
            )
            del module, optimizer, parameters, arguments, named, loss


def _fill(module: Any, device: str) -> None:
    """Put random values on `device` in place of parameters on the meta device; shared ones stay shared."""
    import torch

    new: dict[int, Any] = {}
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None and id(old) not in new:
                values = torch.empty(old.shape, dtype=old.dtype, device=device).normal_(std=0.02)
                new[id(old)] = torch.nn.Parameter(values, requires_grad=old.requires_grad)
            if old is not None:
                part._parameters[name] = new[id(old)]
    module.to(device)


def planner(bench: Bench) -> None:
    """What the memory planner expects beside what was allocated at most."""
    import torch
    from random_models import our_pipeline
    from watch import call

    from animatediff.pipelines import AnimateDiffPipeline

    if not hasattr(AnimateDiffPipeline, "plan"):
        print("left out: this version plans no memory", flush=True)
        return
    table("setting", "estimate MiB", "measured MiB", "ratio")
    dtype = torch.float32 if bench.device == "cpu" else torch.float16
    for name, pixels, vram in (("sd1", 512, None), ("sd1", 512, "4GB"), ("sdxl", 1024, None), ("sdxl", 1024, "8GB")):
        title = f"{name}, 16 frames of {pixels}x{pixels}" + (f", `vram` {vram}" if vram else "")
        with bench.tried(title):
            pipe = our_pipeline(bench.size(name), dtype, bench.device if vram is None else "cpu")
            settings = {**bench.clip(pixels), **({"vram": vram} if vram else {})}
            estimate = estimated(pipe, settings)
            run = call(pipe, bench.device, num_inference_steps=bench.steps(3), **settings)
            ratio = estimate / run.peak.at_most
            row(title, f"{estimate:.0f}", f"{run.peak.at_most:.0f}", f"{ratio:.2f}")


def estimated(pipe: Any, settings: dict[str, Any]) -> float:
    """The planner's estimate of a call in MiB."""
    return pipe.plan("a fox", **settings).peak / 2**20


PARTS = {"golden": (golden, 90), "paths": (paths, 130), "speed": (speed, 240), "training": (training, 120),
         "planner": (planner, 90)}  # fmt: skip
"""Part -> what it does, and its limit in seconds."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all where none is named")
    parser.add_argument("--device", help="cuda, or cpu for tiny sizes; the best that is here by default")
    parser.add_argument("--budget", type=float, default=520, help="seconds for everything")
    parser.add_argument("--wheels", type=Path, help="folder of wheels of what this machine lacks")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}")
    ends = time.monotonic() + args.budget
    with tempfile.TemporaryDirectory() as folder:
        if args.wheels is not None:
            install(args.wheels, str(Path(folder) / "site"))
        import torch
        from random_models import quiet

        quiet()
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        bench = Bench(device, device == "cpu", Path(folder), ends)
        place = "CPU, tiny sizes" if device == "cpu" else torch.cuda.get_device_name()
        print(f"{place}; torch {torch.__version__}, CUDA {torch.version.cuda}", flush=True)
        for name in args.parts or PARTS:
            part, limit = PARTS[name]
            start = time.monotonic()
            print(f"\n## {name}\n", flush=True)
            try:
                with limited(min(limit, bench.left)):
                    part(bench)
            except TimeUpError:
                print(f"\nthe rest of {name} is left out: time is up", flush=True)
            except Exception:
                bench.failed += 1
                traceback.print_exc(limit=-6)
            print(f"\n({time.monotonic() - start:.0f} s)", flush=True)
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
