"""Step 1 of the bundled model: the autoencoder, 64x64 pictures to 16x16 latents of 4 channels.

`python -m animatediff.bundled.train_autoencoder --steps 4000` takes some ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled.run import Run, cosine
from animatediff.bundled.world import render, stills

CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [16, 32, 64],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 1.0,
}


def pictures(num: int, seed: int) -> Tensor:
    """Random stills as the autoencoder takes them: (n, 3, 64, 64) in -1..1."""
    scene, _ = stills(num, seed)
    return render(scene) * 2 - 1


def train(folder: Path, steps: int, batch: int = 32, rate: float = 2e-3) -> None:
    """Train or resume; the learning rate reaches its end at `steps`."""
    from diffusers import AutoencoderKL

    run = Run(folder, "autoencoder")
    torch.manual_seed(1)
    vae = AutoencoderKL(**CONFIG)
    optimiser = torch.optim.AdamW(vae.parameters(), lr=rate, weight_decay=1e-4, betas=(0.9, 0.99))
    first = 0
    if (state := run.load()) is not None:
        vae.load_state_dict(state["vae"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    pool = torch.empty(0)
    fresh = torch.empty(0)
    for step in range(first, steps):
        if step % 16 == 0:  # a quarter of the pool is new every 16 steps
            fresh = pictures(256, seed=step)
            pool = torch.cat([fresh, pool])[:2048]
        rng = random.Random(step)
        x = pool[[rng.randrange(len(pool)) for _ in range(batch)]]
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine(step / steps, warm_up=0.02)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            mean, log_variance = posterior.mean.float(), posterior.logvar.float()
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            y = vae.decode(z).sample.float()
        difference = y - x
        edges = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
        loss = difference.abs().mean() + 2 * functional.mse_loss(y, x) + 0.5 * edges + 3e-4 * divergence
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        if step % 200 == 199 or step == steps - 1:
            run.log(step=step + 1, loss=loss.item(), psnr=psnr(vae), std=[round(s, 2) for s in mean.std((0, 2, 3)).tolist()])
            run.save({"vae": vae.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})


@torch.no_grad()
def psnr(vae: torch.nn.Module, num: int = 128) -> float:
    """Peak signal-to-noise ratio in dB over pictures that training never saw, decoded from the mean."""
    x = pictures(num, seed=10**6)
    y = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return float(-10 * torch.log10((((y - x) / 2) ** 2).mean()))


@torch.no_grad()
def whitened(vae: torch.nn.Module, num: int = 1024) -> torch.nn.Module:
    """Fold each channel's mean and deviation into the 1x1 convolutions, so that latents have mean 0 and deviation 1.

    One `scaling_factor` of 1 then serves the stock code, and noise hits all channels alike.
    """
    z = vae.encode(pictures(num, seed=2 * 10**6)).latent_dist.mean
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    quant, post = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    quant.weight[:channels] /= std[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()  # the log-variance of a latent that was divided by std
    post.bias += (post.weight * mean[None, :, None, None]).sum((1, 2, 3))
    post.weight *= std[None, :, None, None]
    return vae


def load(folder: Path) -> torch.nn.Module:
    """The trained autoencoder, whitened, ready to encode."""
    from diffusers import AutoencoderKL

    state = Run(folder, "autoencoder").load()
    if state is None:
        raise FileNotFoundError(f"{folder / 'autoencoder'} holds no checkpoint; train the autoencoder first")
    vae = AutoencoderKL(**CONFIG)
    vae.load_state_dict(state["vae"])
    return whitened(vae.eval().requires_grad_(False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("outputs/bundled"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32)
    arguments = parser.parse_args()
    train(arguments.folder, arguments.steps, arguments.batch)
