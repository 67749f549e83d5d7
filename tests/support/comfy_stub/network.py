"""`comfy.ops` and the UNet in the names of the first Stable Diffusion code, called as ComfyUI calls it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support.comfy_stub.patcher import WrapperExecutor, WrappersMP, get_all_wrappers


class _Casting:
    """Weights come in the type and place of what they act on."""

    comfy_cast_weights = True

    def _cast(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.weight, self.bias  # type: ignore[attr-defined]
        return weight.to(x), None if bias is None else bias.to(x)


class Linear(_Casting, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self._cast(x))


class Conv2d(_Casting, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self._cast(x))


class GroupNorm(_Casting, nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, *self._cast(x), self.eps)


class LayerNorm(_Casting, nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, *self._cast(x), self.eps)


manual_cast = SimpleNamespace(Linear=Linear, Conv2d=Conv2d, GroupNorm=GroupNorm, LayerNorm=LayerNorm)


class TimestepBlock(nn.Module):
    """A layer that takes the time embedding beside its input."""


class ResBlock(TimestepBlock):
    def __init__(self, width: int, time: int, out: int) -> None:
        super().__init__()
        self.channels, self.out_channels, self.updown = width, out, False
        self.in_layers = nn.Sequential(GroupNorm(32, width), nn.SiLU(), Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), Linear(time, out))
        self.out_layers = nn.Sequential(GroupNorm(32, out), nn.SiLU(), nn.Identity(), Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if width == out else Conv2d(width, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k = Linear(width, width, bias=False), Linear(context, width, bias=False)
        self.to_v, self.to_out = Linear(context, width, bias=False), nn.Sequential(Linear(width, width), nn.Identity())

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = CrossAttention(width, width, heads), CrossAttention(width, context, heads)
        self.ff = nn.Module()
        self.ff.net = nn.Sequential(GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width))
        self.norm1, self.norm2, self.norm3 = LayerNorm(width), LayerNorm(width), LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff.net(self.norm3(x))  # type: ignore[operator]


class SpatialTransformer(nn.Module):
    def __init__(self, width: int, heads: int, depth: int, context: int, linear: bool) -> None:
        super().__init__()
        self.in_channels, self.linear = width, linear
        self.norm = GroupNorm(32, width, eps=1e-6)
        self.proj_in, self.proj_out = (Linear(width, width) if linear else Conv2d(width, width, 1) for _ in range(2))
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width, context, heads) for _ in range(depth))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)
        h = self.proj_in(h) if self.linear else h
        for block in self.transformer_blocks:
            h = block(h, context)
        h = self.proj_out(h) if self.linear else h
        h = h.transpose(1, 2).unflatten(2, (height, width))
        return x + (h if self.linear else self.proj_out(h))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = self.out_channels = width
        self.op = Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = self.out_channels = width
        self.conv = Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, output_shape: Any) -> Tensor:
        return self.conv(F.interpolate(x, size=output_shape[-2:], mode="nearest"))


def forward_timestep_embed(layers: Any, x: Tensor, emb: Tensor, context: Tensor, output_shape: Any = None) -> Tensor:
    """Call the layers of one block, each with what it takes."""
    for layer in layers:
        if isinstance(layer, TimestepBlock):
            x = layer(x, emb)
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context)
        else:
            x = layer(x, output_shape) if isinstance(layer, Upsample) else layer(x)
    return x


class UNetModel(nn.Module):
    def __init__(self, config: dict[str, Any], dtype: torch.dtype) -> None:
        super().__init__()
        self.model_channels, self.dtype = config["model_channels"], dtype
        base, heads, context = self.model_channels, config["num_heads"], config["context_dim"]
        time = 4 * base
        self.time_embed = nn.Sequential(Linear(base, time), nn.SiLU(), Linear(time, time))
        if config["adm_in_channels"]:
            self.label_emb = nn.Sequential(
                nn.Sequential(Linear(config["adm_in_channels"], time), nn.SiLU(), Linear(time, time))
            )
        down, up = list(config["transformer_depth"]), list(config["transformer_depth_output"])

        def block(width: int, out: int, depth: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResBlock(width, time, out)]
            if depth:
                layers.append(SpatialTransformer(out, heads, depth, context, config["use_linear_in_transformer"]))
            return layers

        width, skips = base, [base]
        self.input_blocks = nn.ModuleList([nn.Sequential(Conv2d(config["in_channels"], base, 3, padding=1))])
        levels = list(zip(config["channel_mult"], config["num_res_blocks"], strict=True))
        for level, (factor, number) in enumerate(levels):
            for _ in range(number):
                self.input_blocks.append(nn.Sequential(*block(width, factor * base, down.pop(0))))
                width = factor * base
                skips.append(width)
            if level < len(levels) - 1:
                self.input_blocks.append(nn.Sequential(Downsample(width)))
                skips.append(width)
        middle = block(width, width, config["transformer_depth_middle"])
        self.middle_block = nn.Sequential(*middle, ResBlock(width, time, width))
        self.output_blocks = nn.ModuleList()
        for level, (factor, number) in reversed(list(enumerate(levels))):
            for place in range(number + 1):
                layers = block(width + skips.pop(), factor * base, up.pop())
                width = factor * base
                self.output_blocks.append(
                    nn.Sequential(*layers, *([Upsample(width)] if level and place == number else []))
                )
        self.out = nn.Sequential(GroupNorm(32, width), nn.SiLU(), Conv2d(width, config["out_channels"], 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None = None, control: Any = None,
                transformer_options: dict[str, Any] | None = None, **kwargs: Any) -> Tensor:  # fmt: skip
        options = transformer_options or {}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        return WrapperExecutor(self._forward, self, wrappers)(x, timesteps, context, y, control, options, **kwargs)

    def _forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor | None, control: Any, _: Any) -> Tensor:
        half = self.model_channels // 2
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
        if y is not None:
            emb = emb + self.label_emb(y)
        control = {name: list(values) for name, values in (control or {}).items()}
        skips, h = [], x
        for block in self.input_blocks:
            h = _controlled(forward_timestep_embed(block, h, emb, context), control, "input")
            skips.append(h)
        h = _controlled(forward_timestep_embed(self.middle_block, h, emb, context), control, "middle")
        for block in self.output_blocks:
            skip = _controlled(skips.pop(), control, "output")
            output_shape = skips[-1].shape if skips else None
            h = forward_timestep_embed(block, torch.cat([h, skip], dim=1), emb, context, output_shape)
        return self.out(h.to(x.dtype))


def _controlled(h: Tensor, control: dict[str, list[Any]], name: str) -> Tensor:
    given = control.get(name)
    part = given.pop() if given else None
    return h if part is None else h + part.to(h.dtype)


_PARTS = {
    "in_layers.2": "conv1", "out_layers.3": "conv2", "emb_layers.1": "time_emb_proj", "skip_connection": "conv_shortcut"
}  # fmt: skip


def model_lora_keys_unet(model: Any, found: dict[str, str]) -> dict[str, str]:
    """Names of LoRA layers, in diffusers' spelling, -> keys of the model."""
    config, unet = model.model_config.unet_config, model.diffusion_model
    numbers, last = config["num_res_blocks"], len(config["num_res_blocks"]) - 1
    for key in unet.state_dict():
        layer, _, what = key.rpartition(".")
        side, _, rest = layer.partition(".")
        if what != "weight" or side not in ("input_blocks", "output_blocks", "middle_block"):
            continue
        if side == "middle_block":
            place, _, inner = rest.partition(".")
            name = f"mid_block.attentions.0.{inner}" if place == "1" else f"mid_block.resnets.{int(place) // 2}.{inner}"
        else:
            block, place, inner = rest.split(".", 2) if rest.count(".") > 1 else (*rest.split("."), "")
            per_level = numbers[0] + 1
            number = int(block) - (side == "input_blocks")
            if number < 0:
                continue
            level, at = divmod(number, per_level)
            kind = "resnets" if place == "0" else "attentions"
            name = f"{'down' if side == 'input_blocks' else 'up'}_blocks.{level}.{kind}.{at}.{inner}"
            assert level <= last
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
        found[f"lora_unet_{name.replace('.', '_')}"] = f"diffusion_model.{key}"
    return found
