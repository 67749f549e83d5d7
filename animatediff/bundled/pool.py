"""Latents of stills, made ahead of training by a process of its own and kept in shards on disk.

`python -m animatediff.bundled.pool --run FOLDER` fills `pool/`; step 3 waits for the shards it wants.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.bundled import world
from animatediff.bundled.run import arguments
from animatediff.bundled.text import load_text, token_ids

SEED = 3_000
SHARD = 2048
"""Pictures of one shard."""


def load_vae(folder: Path) -> Any:
    """The trained, whitened autoencoder, frozen."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)  # the one that ships is float16
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Latents (n, 4, 16, 16) of pictures (n, 3, 64, 64) in 0..1, 64 at a time."""
    return torch.cat([vae.encode(p * 2 - 1).latent_dist.mean for p in pictures.split(64)])


def shard_path(folder: Path, index: int) -> Path:
    """Where the shard of this number lies."""
    return folder / "pool" / f"{index:04d}.pt"


def make_shard(folder: Path, index: int) -> None:
    """Render and encode one shard; it appears whole or not at all."""
    vae, (tokenizer, _) = load_vae(folder), load_text(folder)
    scene, texts = world.stills(SHARD, SEED + index)
    latents = torch.cat([encode(vae, world.render(world.take(scene, slice(i, i + 64)))) for i in range(0, SHARD, 64)])
    path = shard_path(folder, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save({"latents": latents.bfloat16(), "ids": token_ids(tokenizer, texts).short()}, partial)
    os.replace(partial, path)


def wait_for_shard(folder: Path, index: int) -> dict[str, Tensor]:
    """The shard of this number, as soon as the other process has made it."""
    while not shard_path(folder, index).exists():
        time.sleep(0.5)
    return torch.load(shard_path(folder, index), weights_only=True)


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=32, batch=SHARD)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    for index in range(args.steps):
        if not shard_path(args.run, index).exists():
            make_shard(args.run, index)


if __name__ == "__main__":
    main()
