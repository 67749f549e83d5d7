"""Distil a tiny decoder (TAESD's architecture, four times up) from the bundled VAE, for previews while a clip is made.

`python -m recipes.bundled.tiny_vae --run FOLDER` trains it on one core and goes on where it was cut off; the
weights are FOLDER/tiny_decoder.safetensors. `--measure` compares those that ship with the VAE's own frames.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.bundled import bundled_path, tiny_decoder_path
from animatediff.pipelines.vae import decode_images
from animatediff.sampling.preview import preview_image
from animatediff.sprites import world
from animatediff.weights.base.tiny_vae import load_tiny_vae, original_decoder
from animatediff.weights.storage.files import save_tensors
from recipes.bundled.fit import Schedule, arguments, fit_resumable
from recipes.bundled.preview import correlation
from recipes.bundled.vae import encode, reconstruction_loss

SEED = 1_700_000
CONFIG: dict[str, Any] = {
    "decoder_block_out_channels": (24, 24, 24),
    "num_decoder_blocks": (2, 2, 1),
    "encoder_block_out_channels": (8,),  # which is not kept
    "num_encoder_blocks": (1,),
}
MAX_NOISE = 0.4
"""Deviation of the noise on latents, at most: estimates of clean latents are rough in early steps."""
FILE = "tiny_decoder.safetensors"
POOL = 3072
"""Pairs of latents and the VAE's images of them, made once: the VAE costs more than a step of the tiny decoder."""
TESTED = 256
"""Held-out images of the measurement."""


def new_decoder() -> nn.Module:
    """The decoder of diffusers' AutoencoderTiny: latents (n, 4, 16, 16) to images (n, 3, 64, 64) in -1..1."""
    from diffusers import AutoencoderTiny

    decoder: Any = AutoencoderTiny(**CONFIG).decoder
    return decoder


def teacher() -> Any:
    """The bundled VAE, float32, frozen."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(bundled_path() / "vae", torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False)


def recolored(images: Tensor) -> Tensor:
    """Half of the images (n, 3, h, w) in -1..1 with exchanged channels or inverted: for looks of other colors."""
    half = len(images) // 2
    changed = images[:half, torch.randperm(3)]
    return torch.cat([-changed if torch.rand(()) < 0.5 else changed, images[half:]])


@torch.no_grad()
def pairs(vae: Any, count: int) -> tuple[Tensor, Tensor]:
    """Latents (n, 4, 16, 16) with noise on them, and the VAE's images of them (n, 3, 64, 64) in -1..1, float16."""
    found = []
    for seed in range(SEED, SEED + count // 64):
        images = world.render(world.stills(64, seed)[0]) * 2 - 1
        latents = encode(vae, recolored(images) / 2 + 0.5)
        latents = latents + MAX_NOISE * torch.rand(len(latents), 1, 1, 1) ** 2 * torch.randn_like(latents)
        found.append((latents, vae.decode(latents).sample.clamp(-1, 1).half()))
    latents, images = (torch.cat(parts) for parts in zip(*found, strict=True))
    return latents, images


def train(args: argparse.Namespace) -> None:
    """Train or go on, and write the averaged weights."""
    torch.manual_seed(SEED)
    latents, images = pairs(teacher(), args.pool)
    decoder: Any = new_decoder()
    decoder.to(memory_format=torch.channels_last)

    def loss_at(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.randint(len(latents), (args.batch,), generator=torch.Generator().manual_seed(SEED + step))
        value, square = reconstruction_loss(decoder(latents[chosen]), images[chosen].float())
        return value, {"psnr": 10 * torch.log10(4 / square)}

    schedule = Schedule(peak=args.rate, steps=args.steps, warmup_steps=100)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    average = fit_resumable(args.run / "tiny_vae", decoder, optimizer, loss_at, schedule, ema=0.998, max_grad_norm=1.0)
    with average.applied():
        save_decoder(decoder, args.run / FILE)
    measure(args.run / FILE)


def save_decoder(decoder: nn.Module, path: Path) -> None:
    """Write a decoder in the names of TAESD's own `taesd_decoder.safetensors`, float16."""
    state = {name: value.half().contiguous() for name, value in original_decoder(decoder.state_dict()).items()}
    save_tensors(path, state, {"license": "Apache-2.0", "distilled_from": "the VAE of the bundled model"})


@torch.inference_mode()
def measure(path: Path) -> None:
    """Print how like the VAE's own frames those of a tiny decoder are, beside the linear map, and the time of each."""
    vae, tiny = teacher(), load_tiny_vae(path, dtype=torch.float32)
    latents = encode(vae, world.render(world.stills(TESTED, 10**6)[0]))
    wanted = decode_images(vae, latents)
    drawn = torch.cat([decode_images(tiny, part) for part in latents.split(64)])
    small = torch.stack([torch.from_numpy(preview_image(one, "bundled").copy()) for one in latents])
    linear = nn.functional.interpolate(small.permute(0, 3, 1, 2) / 255, scale_factor=4)
    for name, found in (("tiny decoder", drawn), ("linear map", linear)):
        psnr = (10 * torch.log10(1 / (found - wanted).square().mean((1, 2, 3)))).mean()
        print(f"{name:<14} correlation {correlation(found, wanted):.3f}, PSNR {psnr:.1f} dB")
    for name, call in (("VAE", lambda: decode_images(vae, latents[:1])),
                       ("tiny decoder", lambda: decode_images(tiny, latents[:1])),
                       ("linear map", lambda: preview_image(latents[0], "bundled"))):  # fmt: skip
        call()
        began = time.process_time()
        for _ in range(20):
            call()
        print(f"{name:<14} {(time.process_time() - began) / 20 * 1000:.2f} ms a frame of 64x64, process time")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__, steps=2600, batch=8)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--pool", type=int, default=POOL, help="pairs to learn from")
    parser.add_argument("--measure", action="store_true", help="train nothing, measure the decoder that ships")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.measure:
        measure(tiny_decoder_path())
    else:
        train(args)


if __name__ == "__main__":
    main()
