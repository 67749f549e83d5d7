"""Step 3: the image model, a `UNet2DConditionModel` trained on stills with the text encoder frozen.

v-prediction on a schedule whose last step holds no signal at all (arXiv 2305.08891), so that backgrounds start right.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.bundled.pool import wait_for_shard
from animatediff.bundled.run import Average, Run, arguments, cosine, set_rate
from animatediff.bundled.text import WIDTH, load_text, token_ids
from animatediff.bundled.words import DIRECTIONS, plain_caption

SEED = 4_000
DROPOUT = 0.12  # share of captions that are left out, for guidance
FIRST_SHARDS = 4  # of the pool, to begin with
STEPS_A_SHARD = 150  # then one more each so many steps


def new_unet() -> Any:
    """Three levels of 48, 96 and 160 channels at 16x16, 8x8 and 4x4; text is heard at the lower two."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(48, 96, 160), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def new_scheduler() -> Any:
    """The noise schedule that both stages train on and that ships with the model."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip


def text_states(model: Any, ids: Tensor) -> Tensor:
    """What the UNet hears: (n, 32) -> (n, 32, 128)."""
    with torch.no_grad():
        return model(ids.long()).last_hidden_state


@torch.no_grad()
def reaction(unet: Any, tokenizer: Any, text: Any) -> dict[str, float]:
    """Gate 1: how much the output at pure noise, t = 900, changes when one word of the caption is exchanged."""
    noise = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(SEED))

    def output(obj: str, background: str, motion: str) -> Tensor:
        ids = token_ids(tokenizer, [plain_caption((obj, background, motion))] * len(noise))
        return unet(noise, 900, text_states(text, ids)).sample

    def change(a: Tensor, b: Tensor) -> float:
        return float((a - b).norm() / a.norm())

    base = output("fox", "green", "right")
    directions = [output("fox", "green", d) for d in DIRECTIONS]
    return {
        "heard_direction": min(change(a, b) for a, b in itertools.combinations(directions, 2)),
        "heard_object": change(base, output("fish", "green", "right")),
        "heard_background": change(base, output("fox", "red", "right")),
        "heard_size": change(output("fox", "green", "growing"), output("fox", "green", "shrinking")),
    }


def start_unet(folder: Path | None) -> Any:
    """The UNet to begin with: a new one, or that of a folder in float32."""
    if folder is None:
        return new_unet()
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)


def train(args: argparse.Namespace) -> None:
    """Train or resume up to `args.steps`; the learning rate ends low."""
    torch.manual_seed(SEED)
    tokenizer, text = load_text(args.run)
    unet, scheduler = start_unet(args.start), new_scheduler()
    average = Average(unet, args.decay)
    optimiser = torch.optim.AdamW(unet.parameters(), lr=args.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    run = Run(args.run, "image", {"unet": unet, "average": average, "optimiser": optimiser})
    empty = token_ids(tokenizer, [""])[0].short()
    latents, ids = torch.empty(0), torch.empty(0)
    num_shards = 0
    total, count, began = 0.0, 0, time.perf_counter()
    while run.step < args.steps:
        wanted = min(FIRST_SHARDS + run.step // STEPS_A_SHARD, args.shards)
        if num_shards < wanted:
            new = [wait_for_shard(args.run, i) for i in range(num_shards, wanted)]
            latents = torch.cat([latents, *(s["latents"] for s in new)])
            ids = torch.cat([ids, *(s["ids"] for s in new)])
            num_shards = wanted
        set_rate(optimiser, cosine(run.step, args.steps, args.rate))
        generator = torch.Generator().manual_seed(SEED + run.step)
        index = torch.randint(len(latents), (args.batch,), generator=generator)
        x = latents[index].float()
        words = torch.where(torch.rand(args.batch, 1, generator=generator) < DROPOUT, empty, ids[index])
        noise = torch.randn(x.shape, generator=generator)
        # One timestep in each of `batch` equal parts: less variance than independent draws.
        t = ((torch.arange(args.batch) + torch.rand(args.batch, generator=generator)) / args.batch * 1000).long()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            out = unet(scheduler.add_noise(x, noise, t), t, text_states(text, words)).sample
        loss = functional.mse_loss(out.float(), scheduler.get_velocity(x, noise, t))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        average.update(unet)
        run.step += 1
        total, count = total + loss.item(), count + 1
        if run.step % 250 == 0:
            speed = (time.perf_counter() - began) / count
            run.log(
                loss=total / count,
                seconds=speed,
                rate=optimiser.param_groups[0]["lr"],
                **reaction(unet, tokenizer, text),
            )
            run.save()
            total, count, began = 0.0, 0, time.perf_counter()
    run.save()
    average.module.save_pretrained(args.run / "unet")
    scheduler.save_pretrained(args.run / "scheduler")


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__ or "", steps=12_000, batch=32)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--start", type=Path, help="folder of a trained UNet to go on from")
    parser.add_argument("--decay", type=float, default=0.9995, help="decay of the averaged weights")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=False, help="bfloat16 autocast")
    parser.add_argument("--shards", type=int, default=32, help="how many shards of the pool to use in the end")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
