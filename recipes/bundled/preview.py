"""Fit the linear map from latents of the bundled VAE to RGB that previews are drawn with.

`python -m recipes.bundled.preview` prints the map for `animatediff.sampling.preview.MAPS`, and how well it does on
images that it was not fitted to: the mean correlation with the real images at the size of the latents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from animatediff.bundled import bundled_path
from animatediff.pipelines.vae import encode_pictures
from animatediff.sampling.preview import fit_map
from animatediff.sprites import world

FITTED, TESTED = 512, 128
"""Images."""


@torch.no_grad()
def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Latents (n, c, h, w) of drawn images, and those images (n, 3, h, w) in 0..1, averaged to the same size."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(bundled_path() / "vae").eval()
    images = world.render(world.stills(count, seed)[0])
    latents = encode_pictures(vae, images, torch.device("cpu"))
    return latents, torch.nn.functional.avg_pool2d(images, images.shape[-1] // latents.shape[-1])


def correlation(drawn: Tensor, images: Tensor) -> float:
    """Mean over images (n, 3, h, w) of the correlation of all their values."""
    pairs = zip(drawn.flatten(1), images.flatten(1), strict=True)
    return float(torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]).mean())


def main() -> None:
    factors, added = fit_map(*examples(FITTED, seed=1))
    latents, images = examples(TESTED, seed=2)
    drawn = torch.einsum("nchw,cr->nrhw", latents, factors) + added[:, None, None]
    for row in factors:
        print("(" + ", ".join(f"{value:.4f}" for value in row) + "),")
    print("(" + ", ".join(f"{value:.4f}" for value in added) + ")")
    print(f"correlation {correlation(drawn.clamp(0, 1), images):.3f}")


if __name__ == "__main__":
    main()
