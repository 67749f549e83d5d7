"""Step 1: the tiny AutoencoderKL, trained on pictures of the sprite world, its latents whitened channel by channel."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.sprites import world
from recipes.bundled.run import Average, Run, arguments, cosine, set_rate

SEED = 1_000
KL_WEIGHT = 1e-4  # enough to keep the latents smooth; a stronger one blurs


def new_vae() -> Any:
    """The architecture: 4x down, 4 latent channels, no attention (a third of the time, for nothing here)."""
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "latent_channels": 4,
        "block_out_channels": (16, 32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "norm_num_groups": 8,
        "mid_block_add_attention": False,
        "sample_size": world.SIZE,
        "scaling_factor": 1.0,
    }
    return AutoencoderKL(**config)


def load_vae(folder: Path) -> Any:
    """The trained, whitened autoencoder, frozen."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)  # the one that ships is float16
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Latents (n, 4, 16, 16) of pictures (n, 3, 64, 64) in 0..1, 64 at a time."""
    return torch.cat([vae.encode(p * 2 - 1).latent_dist.mean for p in pictures.split(64)])


def loss_of(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Training loss and mean squared error; pictures (n, 3, 64, 64) in -1..1."""
    posterior = vae.encode(pictures).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    error = (decoded - pictures).float()
    edges = sum((error.diff(dim=d)).abs().mean() for d in (2, 3))
    kl = 0.5 * (posterior.mean.float() ** 2 + posterior.logvar.float().exp() - 1 - posterior.logvar.float()).mean()
    square = (error**2).mean()
    return error.abs().mean() + 2 * square + 0.5 * edges + KL_WEIGHT * kl, square


@torch.no_grad()
def whiten(vae: Any, pictures: Tensor) -> None:
    """Make each latent channel mean 0 and deviation 1 over `pictures` by folding the change into the 1x1 convolutions.

    With that, the one `scaling_factor` (1.0) of stock pipelines serves all channels.
    """
    latents = torch.cat([vae.encode(p).latent_dist.mean for p in pictures.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    bias[:channels] = (bias[:channels] - mean) / std
    weight[:channels] /= std[:, None, None, None]
    bias[channels:] -= 2 * std.log()  # the log-variances
    back = vae.post_quant_conv
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= std[None, :, None, None]


def train(args: argparse.Namespace) -> None:
    """Train, resume where a checkpoint is found, and write `vae/` whitened."""
    torch.manual_seed(SEED)
    vae = new_vae().to(memory_format=torch.channels_last)
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -5.0  # begin with little noise on the latents, or learning starts late
    average = Average(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run(args.run, "vae", {"vae": vae, "average": average, "optimiser": optimiser})
    began = time.perf_counter()
    while run.step < args.steps and time.perf_counter() - began < args.minutes * 60:
        # with a time limit the cosine follows the clock, so that it ends low whatever the machine's speed
        share = max(run.step / args.steps, (time.perf_counter() - began) / (args.minutes * 60))
        set_rate(
            optimiser, cosine(max(run.step if run.step < 100 else 100, int(share * args.steps)), args.steps, args.rate)
        )
        torch.manual_seed(SEED + run.step)
        scene, _ = world.stills(args.batch, SEED + run.step)
        pictures = (world.render(scene) * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            loss, square = loss_of(vae, pictures)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        average.update(vae)
        run.step += 1
        if run.step % 100 == 0:
            run.log(loss=loss, psnr=10 * torch.log10(4 / square.detach()))
        if run.step % 500 == 0:
            run.save()
    run.save()
    export(average.module, args)


@torch.no_grad()
def export(vae: Any, args: argparse.Namespace) -> None:
    """Whiten and save `vae/`, and say how well held-out pictures come back."""
    whiten(vae, world.render(world.stills(1024, SEED - 1)[0]) * 2 - 1)
    vae.save_pretrained(args.run / "vae")
    pictures = world.render(world.stills(256, 10**6)[0]) * 2 - 1
    latents = vae.encode(pictures).latent_dist.mean
    square = functional.mse_loss(vae.decode(latents).sample.clamp(-1, 1), pictures)
    spread = [round(s, 3) for s in latents.std((0, 2, 3)).tolist()]
    print(f"psnr {10 * torch.log10(4 / square):.2f} dB; latent std {spread}")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=6000, batch=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop, with a low learning rate, after this time")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
