"""What the recipes of configs/training need in memory at Stable Diffusion 1.5 size, without a GPU and without weights.

The model, its gradients, the optimizer and everything kept for the backward pass are counted on tensors that have a
shape and no contents, so the figures are of the computation itself: kernels' own workspace, the allocator's
fragmentation (add some 10 to 15 %) and the VAE are not in them. bfloat16 autocast stands for fp16, of the same size.

    python benchmarks/training_memory.py [RECIPE.yaml ...]
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch

from animatediff.memory.live import LiveBytes

RECIPES = Path(__file__).parents[1] / "configs" / "training"
FRAME_FACTOR = 8  # pixels to a latent along each side
TEXT = (77, 768)


def counted(recipe: Path) -> dict[str, float]:
    """GB at the peak of a step, and what of it is there between two steps."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from animatediff.training.read import load_train_config

    config = load_train_config(recipe)
    clips = config.clips()
    f, h, w = clips.num_frames, clips.height // FRAME_FACTOR, clips.width // FRAME_FACTOR
    module, mode = model(config), FakeTensorMode()
    emptied(module, mode)
    with mode:
        parameters = [p for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters)
        average = [p.detach().clone() for p in parameters] if config.ema is not None else []
        counter = LiveBytes([*module.parameters(), *module.buffers(), *average])
        with counter:
            for _ in range(2):  # the optimizer's states are made in the first
                between = counter.now
                counter.peak = counter.now
                arguments, inputs = inputs_of(config, config.batch_size, f, h, w)
                with torch.autocast("cpu", torch.bfloat16):
                    loss = module(*arguments, **inputs).mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                del loss
    peak, between = counter.peak / 1e9, between / 1e9
    saved = 6 * sum(p.numel() for p in parameters) / 1e9 if config.optimizer == "adamw8bit" else 0.0
    return {"peak": peak - saved, "between": between - saved}


def inputs_of(
    config: Any, clips: int, f: int, h: int, w: int, *, device: str = "cpu", width: int = TEXT[1]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the stage's module for clips of f frames of h x w latents; width: of the prompt embeddings."""
    latents = torch.randn(clips, f, 4, h, w, device=device)
    embeddings, t = (
        torch.randn(clips, TEXT[0], width, device=device),
        torch.zeros(clips, dtype=torch.long, device=device),
    )
    inputs: dict[str, Any] = {}
    if config.stage == "sparsectrl":
        k = 1 if config.condition == "rgb" else FRAME_FACTOR
        channels = 4 if config.condition == "rgb" else 3
        inputs["condition"] = torch.zeros(clips * f, channels, h * k, w * k, device=device)
        inputs["mask"] = torch.zeros(clips * f, 1, h * k, w * k, device=device)
    return (latents, torch.randn_like(latents), t, embeddings), inputs


def emptied(module: Any, mode: Any) -> None:
    """Put tensors without contents in place of all parameters and buffers; shared ones stay shared."""
    new: dict[int, Any] = {}
    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            for name, tensor in kind.items():
                if tensor is None:
                    continue
                if id(tensor) not in new:
                    empty = mode.from_tensor(tensor.detach())
                    new[id(tensor)] = (
                        torch.nn.Parameter(empty, tensor.requires_grad) if kind is part._parameters else empty
                    )
                kind[name] = new[id(tensor)]


def model(config: Any, changed: dict[str, Any] | None = None) -> Any:
    """The stage's module at full size: frozen parts in 16 bits, and the parameters that train.

    changed: what differs from the configuration of SD 1.5's UNet.
    """
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.motion import MotionAdapter, attach
    from animatediff.training.objective import ClipLoss, Objective
    from animatediff.training.stages.lora_weights import IMAGE, SPATIAL, TEMPORAL, LoRA
    from animatediff.training.stages.sparsectrl import SparseCtrlLoss
    from animatediff.weights.base.model_configs import shipped_config

    unet = UNet2DConditionModel.from_config({**shipped_config("sd1", "unet"), **(changed or {})}).requires_grad_(False)
    adapter = None
    if not config.single_frames:
        adapter = MotionAdapter.from_unet(unet)
        frames = attach(unet, adapter.requires_grad_(False)).frames
    objective = Objective(DDIMScheduler().config, snr_gamma=config.snr_gamma)
    module: Any = ClipLoss(unet, objective, frames if adapter is not None else None)
    lora = {"adapter": SPATIAL, "motion_lora": TEMPORAL, "image": IMAGE}.get(config.stage)
    if config.stage == "motion":
        trained = list(adapter.parameters())  # pyright: ignore[reportOptionalMemberAccess]
    elif config.stage == "sparsectrl":
        encoder = SparseCtrl.from_unet(unet, adapter, kind=config.condition)
        module = SparseCtrlLoss(unet, objective, frames, encoder)
        trained = list(encoder.parameters())
    elif config.stage == "image" and config.image_layers == "full":
        trained = list(unet.parameters())
    else:
        assert lora is not None
        trained = list(LoRA(unet, lora, config=config, kinds=()).parameters.values())
    kept = {id(p) for p in trained}
    for parameter in module.parameters():
        if id(parameter) in kept:
            parameter.requires_grad_(True)
        else:
            parameter.requires_grad_(False).data = parameter.data.to(torch.bfloat16)
    if config.gradient_checkpointing:
        for part in [unet, getattr(module, "encoder", None)]:
            if part is not None:
                part.enable_gradient_checkpointing()
    return module


def main() -> None:
    logging.disable(logging.WARNING)
    recipes = [Path(name) for name in sys.argv[1:]] or sorted(RECIPES.glob("*.yaml"))
    print("| recipe | clips at once | at the peak | between two steps |\n|---|---|---|---|", flush=True)
    for recipe in recipes:
        from animatediff.training.read import load_train_config

        config, row = load_train_config(recipe), counted(recipe)
        size = f"{config.batch_size} x {config.clips().num_frames} x {config.data.width}x{config.data.height}"
        print(f"| {recipe.stem} | {size} | {row['peak']:.1f} GB | {row['between']:.1f} GB |", flush=True)


if __name__ == "__main__":
    main()
