"""Speed and memory of `animatediff train` against a plain loop over the same model, in one run.

The bundled model's motion module is trained on clips of the sprite world, three ways, each in a process of its own: by
a loop as one would write it down, by the trainer, and by the trainer with its cache of latents and captions. The first
quarter of the steps is not counted, and the cache is filled before.

    python benchmarks/training.py [--steps 40] [--batch 3] [--threads N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NUM_CLIPS = 12
SETTINGS = {"num_frames": 16, "height": 64, "width": 64}


def plain(args: argparse.Namespace) -> dict[str, float]:
    """The loop without any of the trainer's care: everything is encoded when it is needed."""
    import torch
    from torch.nn import functional
    from torch.utils.data import DataLoader

    from animatediff.bundled import bundled_path
    from animatediff.motion import MotionAdapter
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.training.data import DataConfig, open_dataset

    torch.manual_seed(0)
    pipe: Any = AnimateDiffPipeline.from_pretrained(bundled_path(), torch_dtype="float32")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    adapter = MotionAdapter.from_unet(pipe.unet)
    pipe.set_motion_adapter(adapter)
    adapter.requires_grad_(True)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3)
    average = [p.detach().clone() for p in adapter.parameters()]
    dataset = open_dataset(DataConfig(kind="sprites", num_items=NUM_CLIPS, **SETTINGS))
    loader = DataLoader(dataset, batch_size=args.batch, shuffle=True, drop_last=True)  # pyright: ignore[reportArgumentType]
    moments, losses, step = [], [], 0
    while step < args.steps:
        for batch in loader:
            if step == args.steps:
                break
            frames = batch["frames"]
            b, f = frames.shape[:2]
            with torch.no_grad():
                latents = pipe.vae.encode(frames.flatten(0, 1)).latent_dist.mean * pipe.vae.config.scaling_factor
                states = pipe.encode_prompt(batch["text"], "cpu", 1, False)[0]
            noise = torch.randn_like(latents)
            t = torch.randint(1000, (b,)).repeat_interleave(f)
            pipe.attachment.frames.num_frames = f
            noisy = pipe.scheduler.add_noise(latents, noise, t)
            out = pipe.unet(noisy, t, states.repeat_interleave(f, 0)).sample
            loss = functional.mse_loss(out, pipe.scheduler.get_velocity(latents, noise, t))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            for mean, now in zip(average, adapter.parameters(), strict=True):
                mean.lerp_(now.detach(), 1e-3)
            losses.append(loss.item())
            moments.append(time.perf_counter())
            step += 1
    return figures(moments, losses, args)


def trained(args: argparse.Namespace, cache: str | None) -> dict[str, float]:
    """The same with the trainer. A cache is filled by a first, short run."""
    from animatediff.training import loop
    from animatediff.training.config import TrainConfig

    moments: list[float] = []
    losses: list[float] = []

    class Watched(loop.Trainer):
        def update(self, batches: Any) -> Any:
            result = super().update(batches)
            moments.append(time.perf_counter())
            losses.append(float(result[0]))
            return result

    loop.Trainer = Watched  # the only way to see every step; the figures of the run are means of several
    with tempfile.TemporaryDirectory() as folder:
        values = {
            "stage": "motion", "batch_size": args.batch, "learning_rate": 1e-3, "ema": 0.999, "caption_dropout": 0.0,
            "save_every": 0, "validation": {"num_items": 0}, "seed": 0, "schedule": None,
            "data": {"kind": "sprites", "num_items": NUM_CLIPS, "cache": cache, "cache_variants": 1, **SETTINGS},
        }  # fmt: skip
        if cache is not None:
            epoch = -(-NUM_CLIPS // args.batch)
            filled = TrainConfig.model_validate({**values, "steps": epoch, "out": f"{folder}/filled"})
            loop.train(filled, quiet=True)
            moments.clear()
            losses.clear()
        config = TrainConfig.model_validate({**values, "steps": args.steps, "out": f"{folder}/run"})
        loop.train(config, quiet=True)
    return figures(moments, losses, args)


def figures(moments: list[float], losses: list[float], args: argparse.Namespace) -> dict[str, float]:
    """Clips a second after the first quarter of the steps, peak memory in MB, and the mean loss of the last quarter."""
    first = max(1, len(moments) // 4)
    last = losses[-first:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "clips_per_second": (len(moments) - first) * args.batch / (moments[-1] - moments[first - 1]),
        "peak_mb": peak / (1e6 if platform.system() == "Darwin" else 1e3),
        "loss": sum(last) / len(last),
    }


WAYS = {
    "plain": "plain loop, no caches",
    "trainer": "animatediff train",
    "cached": "animatediff train, data.cache",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=3, help="clips of 16 frames a step")
    parser.add_argument("--threads", type=int, help="CPU threads; default PyTorch's own")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    parser.add_argument("--way", choices=tuple(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        import torch

        if args.threads:
            torch.set_num_threads(args.threads)
        with tempfile.TemporaryDirectory() as cache:
            measured = plain(args) if args.way == "plain" else trained(args, cache if args.way == "cached" else None)
        print(json.dumps(measured))
        return
    rows: dict[str, dict[str, float]] = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--steps", str(args.steps), "--batch", str(args.batch)]
        command += ["--threads", str(args.threads)] if args.threads else []
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        rows[way] = json.loads(out.splitlines()[-1])
    base = rows["plain"]
    print("| | clips a second | against plain | peak memory | loss at the end |\n|---|---|---|---|---|")
    for way, row in rows.items():
        speed, ratio = row["clips_per_second"], row["clips_per_second"] / base["clips_per_second"]
        print(f"| {WAYS[way]} | {speed:.2f} | {ratio:.2f}x | {row['peak_mb']:.0f} MB | {row['loss']:.3f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
