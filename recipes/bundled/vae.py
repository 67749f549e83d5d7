"""Step 1: the tiny AutoencoderKL, trained on images of the sprite world, its latents whitened channel by channel."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from animatediff.sprites import world
from animatediff.training.ema import EMA
from recipes.bundled.fit import Schedule, arguments, fit_resumable

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


def load_vae(folder: Path, device: torch.device | None = None) -> Any:
    """The trained, whitened autoencoder, frozen, on a device; None: on the CPU."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)  # the one that ships is float16
    return vae.to(device).eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Latents (n, 4, 16, 16) of images (n, 3, 64, 64) in 0..1, 64 at a time."""
    return torch.cat([vae.encode(p * 2 - 1).latent_dist.mean for p in images.split(64)])


def reconstruction_loss(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Absolute, squared and edge error of decoded images (n, 3, 64, 64) in -1..1; the squared one alone besides."""
    error = (decoded - images).float()
    edges = sum((error.diff(dim=d)).abs().mean() for d in (2, 3))
    square = (error**2).mean()
    return error.abs().mean() + 2 * square + 0.5 * edges, square


def fit_on_stills(
    folder: Path,
    module: nn.Module,
    loss: Callable[[Tensor], tuple[Tensor, Tensor]],
    schedule: Schedule,
    *,
    batch: int,
    seed: int,
    ema: float,
    device: torch.device,
) -> EMA:
    """Train the autoencoder, or a part of it, on stills of the sprite world; goes on from a checkpoint in `folder`.

    loss: takes images (n, 3, 64, 64) in -1..1, returns the loss and the mean squared error.
    """

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        torch.manual_seed(seed + step)
        scene, _ = world.stills(batch, seed + step)
        images = (world.render(scene.to(device)) * 2 - 1).contiguous(memory_format=torch.channels_last)
        value, square = loss(images)
        return value, {"psnr": 10 * torch.log10(4 / square)}

    optimizer = torch.optim.AdamW(
        module.parameters(), lr=schedule.peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    return fit_resumable(folder, module, optimizer, loss_at, schedule, ema=ema, max_grad_norm=1.0)


@torch.no_grad()
def whiten(vae: Any, images: Tensor) -> None:
    """Make each latent channel mean 0 and deviation 1 over `images` by folding the change into the 1x1 convolutions.

    With that, the one `scaling_factor` (1.0) of stock pipelines serves all channels.
    """
    latents = torch.cat([vae.encode(p).latent_dist.mean for p in images.split(64)])
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
    """Train, go on where a checkpoint is found, and write `vae/` whitened."""
    torch.manual_seed(SEED)
    vae = new_vae().to(args.device, memory_format=torch.channels_last)
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -5.0  # begin with little noise on the latents, or learning starts late

    def loss(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(args.device.type, torch.bfloat16, enabled=args.bf16):
            posterior = vae.encode(images).latent_dist
            value, square = reconstruction_loss(vae.decode(posterior.sample()).sample, images)
            mean, logvar = posterior.mean.float(), posterior.logvar.float()
            return value + KL_WEIGHT * 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean(), square

    schedule = Schedule(peak=args.rate, steps=args.steps, minutes=args.minutes)
    average = fit_on_stills(
        args.run / "autoencoder", vae, loss, schedule, batch=args.batch, seed=SEED, ema=0.999, device=args.device
    )
    with average.applied():
        whiten(vae, world.render(world.stills(1024, SEED - 1)[0].to(args.device)) * 2 - 1)
        save_vae(vae, args.run)


@torch.no_grad()
def save_vae(vae: Any, folder: Path) -> None:
    """Write `vae/` and print how well it gives held-out images back."""
    vae.to(memory_format=torch.contiguous_format).save_pretrained(folder / "vae")
    images = world.render(world.stills(256, 10**6)[0].to(vae.device)) * 2 - 1
    latents = vae.encode(images).latent_dist.mean
    square = functional.mse_loss(vae.decode(latents).sample.clamp(-1, 1), images)
    spread = [round(s, 3) for s in latents.std((0, 2, 3)).tolist()]
    print(f"psnr {10 * torch.log10(4 / square):.2f} dB; latent std {spread}")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, steps=6000, batch=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop, with a low learning rate, after this time")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
