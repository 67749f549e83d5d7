"""The motion module: a small transformer that attends over frames, separately at each latent pixel.

AnimateDiff (arXiv 2307.04725), section 4.2; original file: `animatediff/models/motion_module.py`.
Reads from the outside inwards: how a module is called, its transformer block, the attention over frames.
Submodules carry the names that diffusers gave them, so that PEFT and published LoRAs find them.

Shapes: `b` clips, `f` frames, `c` channels, `h w` latent pixels, `p` all of these (h*w), `d` width of a token. Tokens
stay in the order in which image layers have them, frame by frame; only attention views them pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from animatediff.motion.windows import Window, blend_windows

MAX_ATTENTION_BATCH = 32_768
"""Sequences in one call of attention: fused kernels put them into a CUDA grid dimension, which ends at 65,535."""
CPU_CHUNK = 1024
"""Tokens for each thread of a CPU that go through the feed-forward layer at once, so that what is inside stays in its
cache."""


class CameraMerge(NamedTuple):
    """Camera poses in front of q, k and v of a first attention (CameraCtrl, arXiv 2404.02101, section 3.3)."""

    pose: Tensor
    """(1 or b, f, p, d) features of the poses."""
    layer: nn.Module
    """Linear layer (d -> d) that merges them."""
    scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """x: (b, f, p, d), normalised and with its positions, likewise returned."""
        return x + self.scale * self.layer(x + self.pose)

    def of(self, places: Sequence[int]) -> CameraMerge:
        """The same for some of the frames."""
        index = torch.tensor(places, device=self.pose.device)
        return self._replace(pose=self.pose.index_select(1, index))


@dataclass
class FrameContext:
    """How a batch of (b f) images divides into clips, and how frames act on each other; shared by a UNet's modules.

    It must still hold in the backward pass, where gradient checkpointing runs the modules again.
    """

    num_frames: int = 0
    """Images of the batch that follow each other in one clip; 0 where the UNet draws images, without motion modules."""
    windows: Sequence[Window] = ()
    """Where not empty, frames attend to each other inside these windows alone, and the residuals are blended."""
    scale: Tensor | None = None
    """(f,): factor of the residual at each frame; None is 1."""
    features: Sequence[Tensor] = ()
    """(b*f, c, h, w) for each down block: features of an image, added to what comes out of its second layer, before
    the motion module there (AnimateLCM-I2V)."""
    image_channels: Tensor | None = None
    """(b*f, c, h, w): channels behind the noisy latents, of modules with a first layer for them (`first_layer.py`)."""
    camera: Mapping[MotionModule, CameraMerge] | None = None
    """Camera poses of these frames for each module that takes them; None is without."""
    residuals: Callable[[MotionModule, Tensor, int], Tensor] | None = None
    """Called with what each module adds, (b*f, c, h, w), and f; returns what is added in its place. None is that."""

    @contextmanager
    def during(
        self,
        num_frames: int,
        windows: Sequence[Window] = (),
        scale: Tensor | None = None,
        image_channels: Tensor | None = None,
        features: Sequence[Tensor] = (),
        camera: Mapping[MotionModule, CameraMerge] | None = None,
        residuals: Callable[[MotionModule, Tensor, int], Tensor] | None = None,
    ) -> Iterator[None]:
        """Set all of them for one call of the UNet; all but the number of frames are reset after it."""
        self.num_frames, self.windows, self.scale, self.image_channels = num_frames, windows, scale, image_channels
        self.features, self.camera, self.residuals = features, camera, residuals
        try:
            yield
        finally:
            self.windows, self.scale, self.image_channels, self.features, self.camera = (), None, None, (), None
            self.residuals = None


class MotionModule(nn.Module):
    """Lets every latent pixel attend to itself in the other frames, and adds the result to the image layers' output."""

    def __init__(
        self,
        channels: int,
        *,
        num_heads: int = 8,
        num_attentions: int = 2,
        norm_groups: int = 32,
        norm_over_frames: bool = False,
        frames: FrameContext | None = None,
    ) -> None:
        super().__init__()
        self.norm_over_frames = norm_over_frames
        self.feature_level: int | None = None  # number of its down block, where features of an image are added
        self.gradient_checkpointing = False  # set by `unet.enable_gradient_checkpointing()`, with the image layers'
        self.frames = frames if frames is not None else FrameContext()
        self.norm = nn.GroupNorm(norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TemporalTransformerBlock(channels, num_heads, num_attentions)])
        self.proj_out = nn.Linear(channels, channels)
        # A new module adds nothing: training starts from the image model's own images.
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @property
    def channels(self) -> int:
        """Channels of the feature maps it takes."""
        return self.proj_in.in_features

    def hook(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """Forward hook of the image layer in front: the UNet never calls a motion module in another way.

        The layer's output is a tensor, a tuple that starts with one, or an object of diffusers with a `sample`.
        """
        context = self.frames
        if not context.num_frames:
            return output

        def moved(x: Tensor) -> Tensor:
            if self.feature_level is not None and context.features:
                x = x + context.features[self.feature_level]
            return self(x, context.num_frames, windows=context.windows, scale=context.scale)

        if isinstance(output, tuple):
            return (moved(output[0]), *output[1:])
        if isinstance(output, Tensor):
            return moved(output)
        output.sample = moved(output.sample)
        return output

    def forward(
        self, x: Tensor, num_frames: int, *, windows: Sequence[Window] = (), scale: Tensor | None = None
    ) -> Tensor:
        """Attend over frames at each latent pixel. x: (b*f, c, h, w), returned with the same shape.

        windows and scale: as in FrameContext.
        """
        residual = blend_windows(self.residual, x, num_frames, windows) if windows else self.residual(x, num_frames)
        if self.frames.residuals is not None:
            residual = self.frames.residuals(self, residual, num_frames)
        if scale is not None:
            residual = residual * scale.to(x).repeat(x.shape[0] // num_frames)[:, None, None, None]
        return added(residual, x)

    def residual(self, x: Tensor, num_frames: int, places: Sequence[int] | None = None) -> Tensor:
        """The motion to add where all frames of a clip attend to each other. x: (b*f, c, h, w), likewise returned.

        places: of these frames among those of the call; None is all of them.
        """
        camera = None if self.frames.camera is None else self.frames.camera.get(self)
        if camera is not None and places is not None:
            camera = camera.of(places)
        h, w = x.shape[-2:]
        y = rearrange(self._normalise(x, num_frames), "(b f) c h w -> b f (h w) c", f=num_frames)
        y = self.proj_in(y.contiguous())  # (b, f, p, d), with d = c; in channels_last nothing is copied
        positions = frame_positions(num_frames, y.shape[-1], device=y.device).to(y.dtype)
        for block in self.transformer_blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                y = checkpoint(block, y, positions, camera, use_reentrant=False)
            else:
                y = block(y, positions, camera)
        y = rearrange(self.proj_out(y), "b f (h w) c -> (b f) c h w", h=h, w=w)
        return y.contiguous() if x.is_contiguous() else y

    def _normalise(self, x: Tensor, num_frames: int) -> Tensor:
        if not self.norm_over_frames:
            return self.norm(x)
        y = self.norm(rearrange(x, "(b f) c h w -> b c f h w", f=num_frames))
        return rearrange(y, "b c f h w -> (b f) c h w")


class TemporalTransformerBlock(nn.Module):
    """One or two attentions over frames and an MLP, each normalised before and added after.

    (b, f, p, d) -> (b, f, p, d).
    """

    def __init__(self, dim: int, num_heads: int, num_attentions: int) -> None:
        super().__init__()
        assert num_attentions in (1, 2), f"motion blocks have 1 or 2 attentions, not {num_attentions}"
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = TemporalAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim) if num_attentions == 2 else None
        self.attn2 = TemporalAttention(dim, num_heads) if num_attentions == 2 else None
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, positions: Tensor, camera: CameraMerge | None = None) -> Tensor:
        """positions: (f, d), the sinusoid; camera: poses that the first attention takes."""
        # Positions are added after the norm and in front of q, k and v alike, at every attention.
        y = self.norm1(x) + self.attn1.positions(positions)[:, None]
        x = x + self.attn1(y if camera is None else camera(y))
        if self.norm2 is not None and self.attn2 is not None:
            x = added(self.attn2(self.norm2(x) + self.attn2.positions(positions)[:, None]), x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return x + self.ff(self.norm3(x))
        tokens = x.flatten(0, 2)
        for part in tokens.split(CPU_CHUNK * torch.get_num_threads()):
            part += self.ff(self.norm3(part))
        return tokens.view_as(x)


def added(own: Tensor, x: Tensor) -> Tensor:
    """The sum; where no gradient is asked for it is written over `own`, which nothing else holds."""
    return own + x if torch.is_grad_enabled() else own.add_(x)


class TemporalAttention(nn.Module):
    """Multi-head self-attention over the frames of each pixel. x: (b, f, p, d) -> (b, f, p, d)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])  # a list, because files name it `to_out.0`
        self.identity_part = (
            0  # n > 0: in the last n-th of the clips each frame sees itself alone (`sampling.perturbed`)
        )
        self.table: Tensor | None
        # (L, d): position codes of a module that was trained with others than the sinusoid; no published one was.
        self.register_buffer("table", None, persistent=False)

    def positions(self, sinusoid: Tensor) -> Tensor:
        """The codes that are added to its input: the sinusoid, or the module's own. (f, d) -> (f, d)."""
        if self.table is None:
            return sinusoid
        num_frames, known = len(sinusoid), len(self.table)
        assert num_frames <= known, f"{num_frames} frames at once, but this motion module knows {known} positions"
        return self.table[:num_frames].to(sinusoid)

    def forward(self, x: Tensor) -> Tensor:
        if self.identity_part:
            alone = len(x) // self.identity_part
            return torch.cat([self._attended(x[:-alone]), self.to_out[0](self.to_v(x[-alone:]))])
        return self._attended(x)

    def _attended(self, x: Tensor) -> Tensor:
        q, k, v = (
            rearrange(project(x), "b f p (heads head_dim) -> b p heads f head_dim", heads=self.num_heads)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        y = torch.empty_like(q)  # with the strides of q, so that nothing is copied to bring it into order again
        for clip in range(len(x)):
            y[clip] = attend(q[clip], k[clip], v[clip])
        return self.to_out[0](rearrange(y, "b p heads f head_dim -> b f p (heads head_dim)"))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention in pieces that every kernel takes. q, k, v: (p, heads, f, head_dim), returned likewise."""
    if q.shape[0] <= MAX_ATTENTION_BATCH:
        return F.scaled_dot_product_attention(q, k, v)
    pieces = zip(*(t.split(MAX_ATTENTION_BATCH) for t in (q, k, v)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*piece) for piece in pieces])


def frame_positions(num_frames: int, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Sinusoidal code of the frame index: (f, d), float32, sines in even and cosines in odd columns.

    Computed for any length, so that the table of a published file is never needed. Its length still matters: positions
    beyond it were never trained, which is why longer clips go in windows.
    """
    position = torch.arange(num_frames, device=device, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, dim, 2, device=device, dtype=torch.float32) * (-math.log(10_000.0) / dim))
    angle = position * frequency
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, :dim]


class FeedForward(nn.Module):
    """The transformer's MLP, four times as wide inside. (..., d) -> (..., d)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The identity stands where the original has dropout (of rate 0), so that the last layer is `net.2`.
        self.net = nn.Sequential(GEGLU(dim, 4 * dim), nn.Identity(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class GEGLU(nn.Module):
    """Linear layer gated by the GELU of its other half (arXiv 2002.05202). (..., d) -> (..., inner)."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)
