"""Step 1b: the decoder learns on with the encoder frozen, while the image model already trains on the latents."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from recipes.bundled.fit import Schedule, arguments
from recipes.bundled.vae import fit_on_stills, load_vae, reconstruction_loss, save_vae

SEED = 1_500_000
NOISE = 0.06  # on the latents, of deviation 1: those that the image model makes are never exact


def train(args: argparse.Namespace) -> None:
    """Train or go on until the time is over, and write the autoencoder with the better decoder to `vae/`."""
    torch.manual_seed(SEED)
    vae = load_vae(args.run, args.device).to(memory_format=torch.channels_last)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

    def loss(images: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            latents = vae.encode(images).latent_dist.mean
        return reconstruction_loss(vae.decode(latents + NOISE * torch.randn_like(latents)).sample, images)

    schedule = Schedule(peak=args.rate, steps=args.steps, minutes=args.minutes, warmup_steps=50)
    average = fit_on_stills(
        args.run / "decoder", decoder, loss, schedule, batch=args.batch, seed=SEED, ema=0.998, device=args.device
    )
    with average.applied():
        save_vae(vae, args.run)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, batch=16)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--steps", type=int, help="optimizer steps in all; default: as many as the time allows")
    parser.add_argument("--minutes", type=float, default=25.0, help="training time, over all resumed sessions")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
