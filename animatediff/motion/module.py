"""The motion module: a small transformer that attends over frames, separately at each latent pixel.

AnimateDiff (arXiv 2307.04725), section 4.2; original file: `animatediff/models/motion_module.py`.
Submodules carry the names that diffusers gave them, so that PEFT and published LoRAs find them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from animatediff.motion.windows import Window

# Fused attention kernels put the batch into a CUDA grid dimension, which ends at 65,535.
MAX_ATTENTION_BATCH = 32_768


@dataclass
class FrameCount:
    """How many frames of one clip follow each other in a batch of `(b f)` pictures; shared by all modules of a UNet.

    It must still hold in the backward pass, where gradient checkpointing runs the modules again.
    """

    num_frames: int = 1
    windows: Sequence[Window] = ()
    """Where not empty, frames see each other in these windows alone, and what the windows say is blended."""
    scale: Tensor | None = None
    """(f,): times this much of what the modules say is added to each frame; None is once."""

    @contextmanager
    def during(self, num_frames: int, windows: Sequence[Window] = (), scale: Tensor | None = None) -> Iterator[None]:
        """Set all three for a call; windows and scale are forgotten after it."""
        self.num_frames, self.windows, self.scale = num_frames, windows, scale
        try:
            yield
        finally:
            self.windows, self.scale = (), None


def frame_positions(num_frames: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Sinusoidal code of the frame index: (f, d), float32, sines in even and cosines in odd columns.

    Computed for any length, so that a position table in a file is never needed, only its length noted.
    """
    position = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :dim]


class FrameAttention(nn.Module):
    """Multi-head self-attention over the frames of each pixel. x: (n, f, d) -> (n, f, d), n = b*h*w."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, because files say `to_out.0`

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(x), "n f (heads d) -> n heads f d", heads=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        y = attend(q, k, v)
        return self.to_out[0](rearrange(y, "n heads f d -> n f (heads d)"))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in pieces that every kernel takes. q, k, v: (n, heads, f, d), returned likewise."""
    if q.shape[0] <= MAX_ATTENTION_BATCH:
        return F.scaled_dot_product_attention(q, k, v)
    pieces = zip(*(t.split(MAX_ATTENTION_BATCH) for t in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])


class GatedLinear(nn.Module):
    """GEGLU (arXiv 2002.05202): one half of a projection gates the other. (..., d) -> (..., inner)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """The transformer's MLP, four times as wide inside. (..., d) -> (..., d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The identity stands where the original has dropout (of rate 0), so that the last layer is `net.2`.
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class MotionBlock(nn.Module):
    """One or two attentions over frames and an MLP, each normalised before and added after. (n, f, d) -> (n, f, d)."""

    def __init__(self, dim: int, num_heads: int, num_attentions: int) -> None:
        super().__init__()
        assert num_attentions in (1, 2), f"motion blocks have 1 or 2 attentions, not {num_attentions}"
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = FrameAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim) if num_attentions == 2 else None
        self.attn2 = FrameAttention(dim, num_heads) if num_attentions == 2 else None
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        # Positions are added after the norm and in front of q, k and v alike, at every attention.
        x = x + self.attn1(self.norm1(x) + positions)
        if self.norm2 is not None and self.attn2 is not None:
            x = x + self.attn2(self.norm2(x) + positions)
        return x + self.ff(self.norm3(x))


class MotionModule(nn.Module):
    """Lets every latent pixel look at itself in the other frames, and adds what it sees to the picture."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        num_attentions: int = 2,
        norm_groups: int = 32,
        norm_over_frames: bool = False,
        frames: FrameCount | None = None,
    ) -> None:
        super().__init__()
        self.norm_over_frames = norm_over_frames
        self.gradient_checkpointing = False  # set by `unet.enable_gradient_checkpointing()`, with the image layers'
        self.frames = frames if frames is not None else FrameCount()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([MotionBlock(channels, num_heads, num_attentions)])
        self.proj_out = nn.Linear(channels, channels)
        # A new module adds nothing: training starts from the image model's own pictures.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def channels(self) -> int:
        """Channels of the pictures it takes."""
        return self.proj_in.in_features

    def forward(
        self, x: Tensor, num_frames: int, *, windows: Sequence[Window] = (), scale: Tensor | None = None
    ) -> Tensor:
        """Attend over time at each latent pixel. x: (b*f, c, h, w), returned with the same shape.

        windows and scale: as in FrameCount.
        """
        change = self.blended(x, num_frames, windows) if windows else self.change(x, num_frames)
        if scale is not None:
            change = change * scale.to(x).repeat(x.shape[0] // num_frames)[:, None, None, None]
        return x + change

    def change(self, x: Tensor, num_frames: int) -> Tensor:
        """What is added to the pictures of clips whose frames all see each other, of the same shape."""
        h, w = x.shape[-2:]
        y = rearrange(self._normalise(x, num_frames), "(b f) c h w -> (b h w) f c", f=num_frames)
        y = self.proj_in(y)
        positions = frame_positions(num_frames, y.shape[-1], device=y.device).to(y.dtype)
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                y = checkpoint(block, y, positions, use_reentrant=False)
            else:
                y = block(y, positions)
        y = self.proj_out(y)
        return rearrange(y, "(b h w) f c -> (b f) c h w", h=h, w=w)

    def blended(self, x: Tensor, num_frames: int, windows: Sequence[Window]) -> Tensor:
        """What is added to pictures of which only those of a window see each other, of the same shape."""
        clips = rearrange(x, "(b f) c h w -> b f c h w", f=num_frames)
        total = torch.zeros_like(clips)
        for window in windows:
            frames = torch.tensor(window.frames, device=x.device)
            part = clips.index_select(1, frames)
            change = self.change(part.flatten(0, 1), len(window.frames)).view_as(part)
            total.index_add_(1, frames, change * window.share.to(x)[:, None, None, None])
        return total.flatten(0, 1)

    def _normalise(self, x: Tensor, num_frames: int) -> Tensor:
        if not self.norm_over_frames:
            return self.norm(x)
        y = self.norm(rearrange(x, "(b f) c h w -> b c f h w", f=num_frames))
        return rearrange(y, "b c f h w -> (b f) c h w")

    def after(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook of the image layer in front of it, whose output is a tensor or a tuple that starts with one."""
        if isinstance(output, tuple):
            return (self._seen(output[0]), *output[1:])
        if isinstance(output, Tensor):
            return self._seen(output)
        output.sample = self._seen(output.sample)
        return output

    def _seen(self, x: Tensor) -> Tensor:
        frames = self.frames
        return self(x, frames.num_frames, windows=frames.windows, scale=frames.scale)
