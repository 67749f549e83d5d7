"""Step 4: the motion module, trained on clips of the sprite world; everything else is frozen.

Saved in the original key grammar, `motion_module.safetensors`.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled import world
from animatediff.bundled.image import new_scheduler, text_states
from animatediff.bundled.pool import encode, load_vae
from animatediff.bundled.run import Average, Run, arguments, cosine, set_rate
from animatediff.bundled.text import load_text, token_ids
from animatediff.bundled.words import DIRECTIONS, Combination, caption, combinations
from animatediff.motion import Attachment, MotionAdapter, attach
from animatediff.weights.motion import load_motion_module

SEED = 5_000
DROPOUT = 0.1
CLIPS = 3_000
"""Clips of the pool; their latents are made once."""
MAX_POSITIONS = 32


def draw(num: int, seed: int, pool: list[Combination] | None = None) -> tuple[Tensor, list[str], Tensor]:
    """Pictures of clips (n*16, 3, 64, 64), a caption a clip, and each clip's motion (n,)."""
    scene, texts = world.clips(num, seed, pool)
    return world.render(scene), texts, scene.motion[:: world.NUM_FRAMES]


def make_pool(args: argparse.Namespace) -> dict[str, Tensor]:
    """Latents (n, 16, 4, 16, 16) and token ids (n, 32) of the training clips, from disk if they were made before."""
    path = args.run / f"clips_{args.clips}.pt"
    if path.exists():
        return torch.load(path, weights_only=True)
    vae, (tokenizer, _) = load_vae(args.run), load_text(args.run)
    latents, ids = [], []
    for start in range(0, args.clips, 8):
        pictures, texts, _ = draw(8, SEED + start)
        latents.append(encode(vae, pictures).bfloat16().unflatten(0, (8, world.NUM_FRAMES)))
        ids.append(token_ids(tokenizer, texts).short())
    pool = {"latents": torch.cat(latents), "ids": torch.cat(ids)}
    torch.save(pool, path)
    return pool


def load_unet(args: argparse.Namespace) -> Any:
    """The averaged image model, frozen: the finished one, or that of the newest checkpoint."""
    from diffusers import UNet2DConditionModel

    from animatediff.bundled.image import new_unet

    if (args.run / "unet").exists():
        return UNet2DConditionModel.from_pretrained(args.run / "unet").eval().requires_grad_(False)
    unet = new_unet()
    state = torch.load(args.run / "image.pt", weights_only=True)
    unet.load_state_dict(state["parts"]["average"]["module"])
    return unet.eval().requires_grad_(False)


def clip_loss(motion: Attachment, latents: Tensor, t: Tensor, states: Tensor, noise: Tensor, scheduler: Any) -> Tensor:
    """Mean squared error of the predicted velocity, one value a clip; latents and noise (b, f, 4, 16, 16), t (b,)."""
    b, f = latents.shape[:2]
    x, eps, steps = latents.flatten(0, 1), noise.flatten(0, 1), t.repeat_interleave(f)
    motion.frames.num_frames = f
    out = motion.unet(scheduler.add_noise(x, eps, steps), steps, states.repeat_interleave(f, 0)).sample
    error = functional.mse_loss(out, scheduler.get_velocity(x, eps, steps), reduction="none")
    return error.unflatten(0, (b, f)).mean((1, 2, 3, 4))


@torch.no_grad()
def gate(
    motion: Attachment, vae_clips: Tensor, states: Tensor, scheduler: Any, timestep: int
) -> tuple[float, float, float]:
    """Gate 2: loss of real clips forwards, of the same clips reversed, and the share in which forwards is lower."""
    generator = torch.Generator().manual_seed(SEED)
    forwards, backwards = [], []
    for clip, state in zip(vae_clips, states, strict=True):
        noise = torch.randn(1, *clip.shape, generator=generator)
        t = torch.tensor([timestep])
        forwards.append(clip_loss(motion, clip[None], t, state[None], noise, scheduler))
        backwards.append(clip_loss(motion, clip.flip(0)[None], t, state[None], noise, scheduler))
    a, b = torch.cat(forwards), torch.cat(backwards)
    return a.mean().item(), b.mean().item(), (a < b).float().mean().item()


def held_out_clips(args: argparse.Namespace, text: Any, num: int = 16) -> tuple[Tensor, Tensor]:
    """Latents and text states of travelling clips that training never sees."""
    tokenizer, _ = load_text(args.run)
    pool = [c for c in combinations(held_out=True) if c[2] in DIRECTIONS]
    rng, moments = random.Random(10**6), [i / (world.NUM_FRAMES - 1) for i in range(world.NUM_FRAMES)]
    drawn = [rng.choice(pool) for _ in range(num)]
    texts = [caption(combination, rng) for combination in drawn]
    scene = world.scene_of([pose for combination in drawn for pose in world.poses(combination, rng, moments)])
    latents = encode(load_vae(args.run), world.render(scene)).unflatten(0, (num, world.NUM_FRAMES))
    return latents, text_states(text, token_ids(tokenizer, texts))


def train(args: argparse.Namespace) -> None:
    """Train or resume up to `args.steps`: first on every second frame, then on all of them."""
    torch.manual_seed(SEED)
    tokenizer, text = load_text(args.run)
    unet, scheduler, pool = load_unet(args), new_scheduler(), make_pool(args)
    adapter = MotionAdapter.from_unet(unet)
    parameters = list(adapter.parameters())
    average = Average(adapter, 0.998)
    optimiser = torch.optim.AdamW(parameters, lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(args.run, args.name, {"adapter": adapter, "average": average, "optimiser": optimiser})
    if args.start is not None and run.step == 0:
        adapter.load_state_dict(load_motion_module(args.start, dtype=torch.float32)[0].state_dict())
        average.module.load_state_dict(adapter.state_dict())
    motion = attach(unet, adapter)
    empty = token_ids(tokenizer, [""])[0].short()
    real = held_out_clips(args, text)
    total, count, began = 0.0, 0, time.perf_counter()
    while run.step < args.steps:
        set_rate(optimiser, cosine(run.step, args.steps, args.rate, warmup=50))
        generator = torch.Generator().manual_seed(SEED + run.step)
        index = torch.randint(len(pool["latents"]), (args.batch,), generator=generator)
        stride = 2 if run.step < args.half * args.steps else 1
        latents = pool["latents"][index].float()
        if stride == 2:
            first = int(torch.randint(2, (1,), generator=generator))
            latents = latents[:, first::2]
        words = torch.where(torch.rand(args.batch, 1, generator=generator) < DROPOUT, empty, pool["ids"][index])
        # Where things are is decided in the noisy half: favour it.
        t = (1000 * torch.rand(args.batch, generator=generator) ** 0.6).long().clamp(max=999)
        # All frames share their first steps' noise in no way: each is drawn by itself, as in sampling.
        noise = torch.randn(latents.shape, generator=generator)
        loss = clip_loss(motion, latents, t, text_states(text, words), noise, scheduler).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        average.update(adapter)
        run.step += 1
        total, count = total + loss.item(), count + 1
        if run.step % 100 == 0:
            seconds = (time.perf_counter() - began) / count
            forwards, backwards, won = gate(motion, *real, scheduler, timestep=950)
            run.log(
                loss=total / count, seconds=seconds, frames=latents.shape[1],
                rate=optimiser.param_groups[0]["lr"], forwards=forwards, backwards=backwards, won=won,
            )  # fmt: skip
            run.save()
            total, count, began = 0.0, 0, time.perf_counter()
    run.save()


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=4_500, batch=3)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--half", type=float, default=0.5, help="share of the steps spent on every second frame")
    parser.add_argument("--clips", type=int, default=CLIPS, help="clips of the pool")
    parser.add_argument("--name", default="motion", help="name of the checkpoint and the curve")
    parser.add_argument("--start", type=Path, help="motion module file to go on from")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
