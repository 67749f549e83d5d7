"""Trains a ControlNet and an IP-Adapter for the bundled model, small ones that do not ship, for strips of control.md.

`python docs/control_nets.py controlnet FOLDER` writes a diffusers folder, `... ip-adapter FOLDER` a file in the grammar
of the published ones and its image encoder: ten minutes each on one CPU core.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from animatediff.bundled import bundled_path
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sprites import world
from animatediff.sprites.words import DIRECTIONS, MOTIONS
from animatediff.training.objective import Objective
from animatediff.weights.storage.files import save_tensors
from recipes.bundled.results import sketch_of
from recipes.bundled.run import cosine, set_rate
from recipes.bundled.sanity import states
from recipes.bundled.vae import encode

SEED = 12_000
TOKENS, WIDTH = 4, 64
"""What the picture becomes, as in the published IP-Adapters, and how wide the image encoder's answer is."""

Draw = Callable[[random.Random, int], tuple[Tensor, list[str], Tensor]]
"""How many of what to learn from: pictures (n, 3, 64, 64), their words, and what the net sees, (n, 3, 64, 64)."""
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Noisy latents, timesteps, text states and what the net sees to the UNet's answer."""


def learn(
    pipe: Any, parameters: Iterable[nn.Parameter], draw: Draw, predict: Predict, args: argparse.Namespace
) -> None:
    """Train the parameters; everything else is frozen."""
    objective, rng = Objective(pipe.scheduler.config), random.Random(SEED)
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99))
    generator, losses = torch.Generator().manual_seed(SEED), []
    for step in range(args.steps):
        set_rate(optimiser, cosine(step, args.steps, args.rate, warmup=min(30, args.steps)))
        pictures, texts, seen = draw(rng, args.batch)
        latents, heard = encode(pipe.vae, pictures), states(pipe, texts).detach()
        noise = torch.randn(latents.shape, generator=generator)
        t = (objective.num_timesteps * torch.rand(args.batch, generator=generator) ** 0.6).long()
        answer = predict(objective.noisy(latents, noise, t), t, heard, seen)
        loss = functional.mse_loss(answer, objective.target(latents, noise, t))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0:
            print(f"step {step + 1} of {args.steps}: loss {sum(losses[-50:]) / 50:.4f}", flush=True)


def outlined(rng: random.Random, num: int) -> tuple[Tensor, list[str], Tensor]:
    """Pictures, what they show, and their outlines, as `--controlnet-preprocess scribble` draws them."""
    scene, texts = world.stills(num, rng.getrandbits(30))
    pictures = world.render(scene)
    return pictures, texts, torch.stack([sketch_of(picture).expand(3, -1, -1) for picture in pictures])


def alike(rng: random.Random, num: int) -> tuple[Tensor, list[str], Tensor]:
    """Pictures, how things move in them and no more, and other pictures of the same thing before the same ground."""
    shown = [world.draw_combination(rng) for _ in range(num)]
    others = [(obj, background, rng.choice(MOTIONS)) for obj, background, _ in shown]
    pictures, seen = (
        world.render(world.scene_of([pose for c in some for pose in world.poses(c, rng, [rng.random()])]))
        for some in (shown, others)
    )
    texts = [f"moving {motion}" if motion in DIRECTIONS else motion.replace("still", "") for _, _, motion in shown]
    return pictures, texts, seen


def controlnet(pipe: Any, args: argparse.Namespace) -> None:
    """A ControlNet that sees outlines."""
    from diffusers import ControlNetModel

    # One of Stable Diffusion goes down by 8, as its VAE; the bundled one goes down by 4.
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96)).train()

    def predict(noisy: Tensor, t: Tensor, heard: Tensor, seen: Tensor) -> Tensor:
        down, middle = net(noisy, t, heard, seen, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return pipe.unet(noisy, t, heard, **residuals).sample

    learn(pipe, net.parameters(), outlined, predict, args)
    net.save_pretrained(args.folder)


def ip_adapter(pipe: Any, args: argparse.Namespace) -> None:
    """An IP-Adapter of four tokens, and its image encoder, which learns with it."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    torch.manual_seed(SEED)
    config = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, projection_dim=WIDTH, num_hidden_layers=3, num_attention_heads=4,
        image_size=world.SIZE, patch_size=8,
    )  # fmt: skip
    encoder = CLIPVisionModelWithProjection(config)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    text = pipe.unet.config.cross_attention_dim
    projection = {
        "proj.weight": torch.randn(TOKENS * text, WIDTH) * 0.02, "proj.bias": torch.zeros(TOKENS * text),
        "norm.weight": torch.ones(text), "norm.bias": torch.zeros(text),
    }  # fmt: skip
    layers = [key for key in pipe.unet.state_dict() if key.endswith("attn2.to_k.weight")]
    attention = {}
    for number, key in enumerate(layers):
        for part in ("k", "v"):
            begin = pipe.unet.state_dict()[key.replace("to_k", f"to_{part}")]
            attention[f"{2 * number + 1}.to_{part}_ip.weight"] = begin.clone()
    pipe.unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": attention}])
    trained = {name: p for name, p in pipe.unet.named_parameters() if "_ip." in name or "encoder_hid_proj" in name}
    for parameter in trained.values():
        parameter.requires_grad_(True)

    def predict(noisy: Tensor, t: Tensor, heard: Tensor, seen: Tensor) -> Tensor:
        read = encoder((seen - mean) / std).image_embeds
        return pipe.unet(noisy, t, heard, added_cond_kwargs={"image_embeds": [read[:, None]]}).sample

    learn(pipe, [*encoder.parameters(), *trained.values()], alike, predict, args)
    state = {}
    for name, parameter in trained.items():
        if "encoder_hid_proj" in name:
            part = name.split("image_projection_layers.0.")[1].replace("image_embeds", "proj")
            state[f"image_proj.{part}"] = parameter.detach()
        else:
            number = layers.index(name.split(".processor")[0] + ".to_k.weight")
            state[f"ip_adapter.{2 * number + 1}.to_{name.split('.to_')[1][0]}_ip.weight"] = parameter.detach()
    args.folder.mkdir(parents=True, exist_ok=True)
    save_tensors(args.folder / "ip-adapter.safetensors", state)
    encoder.save_pretrained(args.folder / "image_encoder")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("controlnet", "ip-adapter"))
    parser.add_argument("folder", type=Path, help="where it is written")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    args = parser.parse_args()
    pipe: Any = AnimateDiffPipeline.from_pretrained(bundled_path(), torch_dtype="float32")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    (controlnet if args.kind == "controlnet" else ip_adapter)(pipe, args)


if __name__ == "__main__":
    main()
