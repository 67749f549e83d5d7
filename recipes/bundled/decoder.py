"""Step 1b: the decoder learns on with the encoder frozen, while the image model already trains on the latents."""

from __future__ import annotations

import argparse

import torch
from torch.nn import functional

from animatediff.sprites import world
from recipes.bundled.run import Average, Run, arguments, cosine, set_rate
from recipes.bundled.vae import load_vae

SEED = 1_500_000
NOISE = 0.06  # on the latents, of deviation 1: what the image model makes is never exact


def train(args: argparse.Namespace) -> None:
    """Train or resume until the clock says so, and write the autoencoder with the better decoder to `vae/`."""
    torch.manual_seed(SEED)
    vae = load_vae(args.run).to(memory_format=torch.channels_last)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    average = Average(decoder, 0.998)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    run = Run(args.run, "decoder", {"decoder": decoder, "average": average, "optimiser": optimiser})
    while run.elapsed() < args.minutes * 60:
        share = run.elapsed() / (args.minutes * 60)
        set_rate(optimiser, cosine(run.step if run.step < 50 else 50 + int(share * 1e5), 100_050, args.rate, warmup=50))
        torch.manual_seed(SEED + run.step)
        scene, _ = world.stills(args.batch, SEED + run.step)
        pictures = (world.render(scene) * 2 - 1).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = vae.encode(pictures).latent_dist.mean
        error = vae.decode(latents + NOISE * torch.randn_like(latents)).sample - pictures
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        square = (error**2).mean()
        loss = error.abs().mean() + 2 * square + 0.5 * edges
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        average.update(decoder)
        run.step += 1
        if run.step % 200 == 0:
            run.log(loss=loss, psnr=10 * torch.log10(4 / square.detach()))
            run.save()
    run.save()
    decoder.load_state_dict(average.module.state_dict())
    vae.to(memory_format=torch.contiguous_format).save_pretrained(args.run / "vae")
    with torch.no_grad():
        pictures = world.render(world.stills(256, 10**6)[0]) * 2 - 1
        square = functional.mse_loss(vae.decode(vae.encode(pictures).latent_dist.mean).sample.clamp(-1, 1), pictures)
    print(f"psnr {10 * torch.log10(4 / square):.2f} dB")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=0, batch=16)
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--minutes", type=float, default=25.0, help="training time, over all resumed sessions")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
