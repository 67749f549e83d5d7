"""Trains a ControlNet and an IP-Adapter for the bundled model, small ones that do not ship, for docs/controlnet.md.

`python docs/control_nets.py controlnet FOLDER` writes a diffusers folder, `... ip-adapter FOLDER` a file in the key
format of the published ones and its image encoder: ten minutes each on one CPU core.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
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
from recipes.bundled.fit import Schedule, fit
from recipes.bundled.results import sketch_of
from recipes.bundled.sanity import embed
from recipes.bundled.vae import encode

SEED = 12_000
TOKENS, WIDTH = 4, 64
"""Tokens of an image, as in the published IP-Adapters, and the width of the image encoder's embedding."""

Draw = Callable[[random.Random, int], tuple[Tensor, list[str], Tensor]]
"""Draws n training samples: images (n, 3, 64, 64), their captions, and the conditioning images (n, 3, 64, 64)."""
Predict = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Noisy latents, timesteps, prompt embeddings and conditioning images -> the UNet's prediction."""


def learn(pipe: Any, module: nn.Module, draw: Draw, predict: Predict, args: argparse.Namespace) -> None:
    """Train the parameters of `module`; everything else is frozen."""
    objective, rng = Objective(pipe.scheduler.config), random.Random(SEED)
    generator = torch.Generator().manual_seed(SEED)

    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        images, texts, conditions = draw(rng, args.batch)
        latents, embeddings = encode(pipe.vae, images), embed(pipe, texts).detach()
        noise = torch.randn(latents.shape, generator=generator)
        t = (objective.num_timesteps * torch.rand(args.batch, generator=generator) ** 0.6).long()
        prediction = predict(objective.noisy(latents, noise, t), t, embeddings, conditions)
        return functional.mse_loss(prediction, objective.target(latents, noise, t)), {}

    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99))
    schedule = Schedule(peak=args.rate, steps=args.steps, warmup_steps=min(30, args.steps))
    fit(module, optimizer, loss, schedule, log_every=50)


def outlined(rng: random.Random, num: int) -> tuple[Tensor, list[str], Tensor]:
    """Images, their captions, and their outlines, as `--controlnet-preprocess scribble` draws them."""
    scene, texts = world.stills(num, rng.getrandbits(30))
    images = world.render(scene)
    return images, texts, torch.stack([sketch_of(image).expand(3, -1, -1) for image in images])


def alike(rng: random.Random, num: int) -> tuple[Tensor, list[str], Tensor]:
    """Images, captions of their motion alone, and other images of the same object on the same background."""
    shown = [world.draw_combination(rng) for _ in range(num)]
    others = [(obj, background, rng.choice(MOTIONS)) for obj, background, _ in shown]
    images, conditions = (
        world.render(world.scene_of([pose for c in some for pose in world.poses(c, rng, [rng.random()])]))
        for some in (shown, others)
    )
    texts = [f"moving {motion}" if motion in DIRECTIONS else motion.replace("still", "") for _, _, motion in shown]
    return images, texts, conditions


def train_controlnet(pipe: Any, args: argparse.Namespace) -> None:
    """Train a ControlNet that takes outlines."""
    from diffusers import ControlNetModel

    # One of Stable Diffusion goes down by 8, as its VAE; the bundled one goes down by 4.
    controlnet = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96)).train()

    def predict(noisy: Tensor, t: Tensor, embeddings: Tensor, conditions: Tensor) -> Tensor:
        down, middle = controlnet(noisy, t, embeddings, conditions, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return pipe.unet(noisy, t, embeddings, **residuals).sample

    learn(pipe, controlnet, outlined, predict, args)
    controlnet.save_pretrained(args.folder)


def train_ip_adapter(pipe: Any, args: argparse.Namespace) -> None:
    """Train an IP-Adapter of four tokens together with its image encoder."""
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

    def predict(noisy: Tensor, t: Tensor, embeddings: Tensor, conditions: Tensor) -> Tensor:
        image_embeds = encoder((conditions - mean) / std).image_embeds
        return pipe.unet(noisy, t, embeddings, added_cond_kwargs={"image_embeds": [image_embeds[:, None]]}).sample

    learn(pipe, nn.ModuleList([encoder, nn.ParameterList(trained.values())]), alike, predict, args)
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
    (train_controlnet if args.kind == "controlnet" else train_ip_adapter)(pipe, args)


if __name__ == "__main__":
    main()
