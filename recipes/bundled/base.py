"""Step 3: autoencoder and text encoder put together with an untrained UNet, for the stage `image` to train.

v-prediction on a schedule whose last step holds no signal at all (arXiv 2305.08891), so that backgrounds start right.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch

from recipes.bundled.fit import arguments
from recipes.bundled.text import WIDTH, load_text
from recipes.bundled.tokenizer import save_tokenizer
from recipes.bundled.vae import load_vae

SEED = 4_000


def new_unet() -> Any:
    """Three levels of 48, 96 and 160 channels at 16x16, 8x8 and 4x4; cross-attention to the text at the lower two."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96, 160), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def new_scheduler() -> Any:
    """The noise schedule that all stages train on and that ships with the model."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip


def write_model(folder: Path, run: Path, unet: Any, dtype: torch.dtype) -> None:
    """Write a diffusers folder of `unet` and of the autoencoder and text encoder that were trained in `run`."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    _, text = load_text(run)
    save_tokenizer(folder / "tokenizer")
    absent: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
    pipe = StableDiffusionPipeline(
        vae=load_vae(run).to(dtype), text_encoder=text.to(dtype), unet=unet.to(dtype),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"), scheduler=new_scheduler(),
        **absent, requires_safety_checker=False,
    )  # fmt: skip
    for part in ("vae", "text_encoder", "unet"):
        shutil.rmtree(folder / part, ignore_errors=True)
    pipe.save_pretrained(folder)
    for config in folder.glob("*/config.json"):  # no path of the machine that trained it
        lines = [line for line in config.read_text().splitlines(keepends=True) if '"_name_or_path"' not in line]
        config.write_text("".join(lines))
    save_tokenizer(folder / "tokenizer")


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    base(args)


def base(args: argparse.Namespace) -> None:
    """Write `base/` in the run's folder."""
    torch.manual_seed(SEED)
    write_model(args.run / "base", args.run, new_unet(), torch.float32)


if __name__ == "__main__":
    main()
