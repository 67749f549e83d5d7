"""The SparseCtrl encoder: from a few images at single frames to residuals for every frame of a clip.

SparseCtrl (arXiv 2311.16933), section 3; original file: `animatediff/models/sparse_controlnet.py`. It is a
copy of the image UNet's down path with motion modules in it, which carry the images at a few frames to all others.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from animatediff.models.residuals import Residuals
from animatediff.motion import FrameContext, MotionAdapter, MotionLayout, MotionNumerics, attach

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Kind = Literal["rgb", "scribble"]

EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Channels of a scribble encoder's conditioning embedding; each level after the first halves the size."""
CONDITION_CHANNELS: dict[Kind, int] = {"rgb": 4, "scribble": 3}
"""Channels of latents, or of a sketch; a mask of one channel more marks the frames that are given."""

CONDITIONING_EMBEDDING = "controlnet_cond_embedding."
"""Prefix of the keys of the conditioning embedding; all other layers are the body."""

_UNET_KEYS = (
    *("in_channels", "flip_sin_to_cos", "freq_shift", "down_block_types", "mid_block_type", "only_cross_attention"),
    *("block_out_channels", "layers_per_block", "downsample_padding", "mid_block_scale_factor", "dropout", "act_fn"),
    *("norm_num_groups", "norm_eps", "cross_attention_dim", "transformer_layers_per_block", "attention_head_dim"),
    *("num_attention_heads", "use_linear_projection", "upcast_attention", "resnet_time_scale_shift"),
    *("addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"),
)
"""Keys of a UNet's configuration that decide its down path; the others concern its up path."""


@dataclass(frozen=True, kw_only=True)
class SparseConfig:
    """Configuration of an encoder."""

    kind: Kind
    unet: Mapping[str, Any]
    """Configuration of the image UNet whose down path it copies, in diffusers' names."""
    embedding_channels: tuple[int, ...] = EMBEDDING_CHANNELS
    """Channels of the conditioning embedding of scribble encoders."""
    condition_channels: int = 4
    """Channels of a condition, without the mask."""
    motion_mid_block: bool = False
    num_attentions: int = 1
    num_heads: int = 8
    """Attention heads of the motion modules."""
    max_positions: int = 32
    """Frame positions that training has seen."""

    def __post_init__(self) -> None:
        if self.kind not in CONDITION_CHANNELS:
            raise ValueError(f"SparseCtrl encoders are of kind rgb or scribble, not {self.kind!r}")
        object.__setattr__(self, "unet", {key: self.unet[key] for key in _UNET_KEYS if key in self.unet})
        object.__setattr__(self, "embedding_channels", tuple(self.embedding_channels))

    @property
    def factor(self) -> int:
        """Ratio of the sides of a condition to the sides of the latents."""
        return 1 if self.kind == "rgb" else 2 ** (len(self.embedding_channels) - 1)


class SketchEmbedding(nn.Module):
    """Conditioning embedding of sketches: convolutions to the first layer's width. (n, c, h*k, w*k) -> (n, d, h, w)."""

    def __init__(self, channels: int, embedding_channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, embedding_channels[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(embedding_channels):
            blocks += [nn.Conv2d(narrow, narrow, 3, padding=1), nn.Conv2d(narrow, wide, 3, padding=1, stride=2)]
        self.blocks = nn.ModuleList(blocks)
        self.conv_out = nn.Conv2d(embedding_channels[-1], width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Channels last is the faster layout here, where images are large and channels few; the CPU's kernels then
        # also add up in one order whatever their vectors' width. Behind it GroupNorms would lose digits by it.
        x = F.silu(self.conv_in(x.contiguous(memory_format=torch.channels_last)))
        for conv in self.blocks:
            x = F.silu(conv(x))
        return self.conv_out(x).contiguous()


def zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a layer to zero, so that it adds nothing until it is trained (ControlNet, arXiv 2302.05543)."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class SparseCtrl(nn.Module):
    """SparseCtrl encoder. Keys are those of diffusers' `SparseControlNetModel`, without its position tables.

    Its image layers have no memory until they are filled: by `from_unet`, or by `weights.sparsectrl.load_sparsectrl`.
    Every norm sees one frame at a time, whatever the motion module beside it was trained with.
    """

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.sparse_config = config
        unet: Any = _down_path(config.unet)
        self.config = unet.config
        self.conv_in = unet.conv_in
        self.time_proj = unet.time_proj
        self.time_embedding = unet.time_embedding
        self.add_time_proj = getattr(unet, "add_time_proj", None)
        self.add_embedding = unet.add_embedding if self.add_time_proj is not None else None
        self.down_blocks = unet.down_blocks
        self.mid_block = unet.mid_block
        self.up_blocks = nn.ModuleList()  # none: `attach` takes the encoder for a UNet all the same

        width = self.conv_in.out_channels
        channels = config.condition_channels + 1
        self.controlnet_cond_embedding = (
            nn.Conv2d(channels, width, 3, padding=1)
            if config.kind == "rgb"
            else SketchEmbedding(channels, config.embedding_channels, width)
        )
        self.controlnet_down_blocks = nn.ModuleList([_zero_conv(n) for n in self._skip_channels()])
        self.controlnet_mid_block = _zero_conv(self.down_blocks[-1].resnets[-1].out_channels)

        as_unet = cast("UNet2DConditionModel", self)
        layout = MotionLayout.from_unet(as_unet, mid_block=config.motion_mid_block)
        layout = MotionLayout(
            down=layout.down,
            mid=layout.mid,
            up=(),
            num_heads=config.num_heads,
            num_attentions=config.num_attentions,
            norm_groups=layout.norm_groups,
        )
        motion = MotionAdapter(layout, MotionNumerics(max_positions=config.max_positions))
        self.frames: FrameContext = attach(as_unet, motion).frames

    @classmethod
    def from_unet(
        cls,
        unet: UNet2DConditionModel,
        adapter: MotionAdapter | None = None,
        *,
        kind: Kind = "rgb",
        vae_scale_factor: int = 8,
    ) -> SparseCtrl:
        """Make an encoder to be trained: a copy of the down path of `unet` and of the layers of `adapter` that fit.

        Its outputs are zero, so that it changes nothing at first. The conditioning embedding of an RGB encoder begins
        as the UNet's first layer, for sketches with layers that keep the scale of their input; the original begins
        with zeros there too, which takes longer to train. Motion modules and LoRAs in `unet` are not copied.
        `vae_scale_factor`: pixels to a latent along each side, for sketches. Raises ValueError if nothing of
        `adapter` fits.
        """
        config = SparseConfig(
            kind=kind,
            unet=unet.config,
            embedding_channels=embedding_channels_for(vae_scale_factor),
            condition_channels=unet.config["in_channels"] if kind == "rgb" else CONDITION_CHANNELS[kind],
            num_heads=8 if adapter is None else adapter.layout.num_heads,
            max_positions=32 if adapter is None else adapter.numerics.max_positions,
        )
        encoder = cls(config).to(unet.dtype)
        wanted = encoder.state_dict()
        state = {
            key: value.detach().clone()
            for key, value in _below_loras(unet).items()
            if key in wanted and ".motion_modules." not in key
        }
        if adapter is not None:
            device, dtype = unet.device, unet.dtype  # which diffusers looks for in the whole model, each time
            of_adapter = {
                key: value.detach().to(device, dtype, copy=True)
                for key, value in _below_loras(adapter).items()
                if key in wanted and wanted[key].shape == value.shape
            }
            if not of_adapter:
                raise ValueError(f"nothing of these motion modules ({adapter.layout}) fits this UNet")
            state |= of_adapter
        encoder.load_state_dict(state, strict=False, assign=True)
        encoder._initialise_embedding()
        # A UNet on the meta device, of which only the layout is wanted, has no values to give.
        left = [name for name, value in encoder.named_parameters() if value.is_meta != unet.conv_in.weight.is_meta]
        assert not left, f"the UNet has no {left[0]} to copy"
        return encoder.to(unet.device)

    def for_kind(self, kind: Kind, *, vae_scale_factor: int = 8) -> SparseCtrl:
        """Make an encoder for the other kind of condition: this one's body with a new conditioning embedding.

        Training goes on from there: how a few frames act on all others is already learned.
        """
        channels = self.conv_in.in_channels if kind == "rgb" else CONDITION_CHANNELS[kind]
        levels = embedding_channels_for(vae_scale_factor)
        other = SparseCtrl(
            replace(self.sparse_config, kind=kind, embedding_channels=levels, condition_channels=channels)
        )
        body = {
            key: value.detach().clone()
            for key, value in self.state_dict().items()
            if not key.startswith(CONDITIONING_EMBEDDING)
        }
        other.load_state_dict(body, strict=False, assign=True)
        other._initialise_embedding()
        return other.to(self.device, self.dtype)

    def _initialise_embedding(self) -> None:
        """Initialise the conditioning embedding; the body's `conv_in` is filled."""
        embedding = self.controlnet_cond_embedding
        if isinstance(embedding, SketchEmbedding):
            for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
                # PyTorch's own first weights weaken what they are given, here to nothing in seven layers.
                nn.init.kaiming_normal_(cast("nn.Conv2d", layer).weight, nonlinearity="relu")
            return
        weight = self.conv_in.weight.detach()  # (d, 4, 3, 3); the mask has a channel more, zero-initialised
        mask = weight.new_zeros(weight.shape[0], 1, *weight.shape[2:])
        embedding.weight = nn.Parameter(torch.cat([weight, mask], dim=1))
        embedding.bias = nn.Parameter(weight.new_zeros(weight.shape[0]))

    def _skip_channels(self) -> list[int]:
        """Channels of the skip connections of the UNet."""
        channels = [self.conv_in.out_channels]
        for block in self.down_blocks:
            channels += [resnet.out_channels for resnet in block.resnets]
            if block.downsamplers is not None:
                channels.append(block.resnets[-1].out_channels)
        return channels

    @property
    def kind(self) -> Kind:
        """Kind of condition: images ("rgb") or sketches ("scribble")."""
        return self.sparse_config.kind

    @property
    def dtype(self) -> torch.dtype:
        """Number format of its weights and computations."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Device of its weights."""
        return self.conv_in.weight.device

    def enable_gradient_checkpointing(self, enable: bool = True) -> None:
        """Compute the ResNets, and the motion modules behind them, again in the backward pass instead of keeping them.

        `frames.num_frames` must then still be that of the forward pass.
        """
        again = functools.partial(checkpoint, use_reentrant=False)
        for block in (*self.down_blocks, *([] if self.mid_block is None else [self.mid_block])):
            block.gradient_checkpointing, block._gradient_checkpointing_func = enable, again

    def forward(
        self,
        condition: Tensor,
        mask: Tensor,
        timestep: Tensor,
        embeddings: Tensor,
        num_frames: int,
        *,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Residuals:
        """Return residuals for every frame.

        condition: (b*f, c, k*h, k*w), zero where no image is given, k the config's `factor`; mask:
        (b*f, 1, k*h, k*w), one where an image is given; timestep: one for all, one a clip (b,), or one a frame
        (b*f,); embeddings: (b*f, n, d); conditions: SDXL's `text_embeds` and `time_ids`, (b*f, ...).
        """
        return self.residuals(self.embed(condition, mask), timestep, embeddings, num_frames, conditions=conditions)

    def embed(self, condition: Tensor, mask: Tensor) -> Tensor:
        """Embed the condition: (b*f, d, h, w), the same at every step. Shapes as for `forward`.

        The noisy latents are not an input: the original sets them to zero, so that the encoder cannot lean on them
        (section 3.2).
        """
        x = self.controlnet_cond_embedding(torch.cat([condition, mask], dim=1))
        return self.conv_in(x.new_zeros(len(x), self.conv_in.in_channels, *x.shape[-2:])) + x

    def residuals(
        self,
        x: Tensor,
        timestep: Tensor,
        embeddings: Tensor,
        num_frames: int,
        *,
        conditions: Mapping[str, Tensor] | None = None,
    ) -> Residuals:
        """Return residuals for the result `x` of `embed`. Shapes as for `forward`."""
        self.frames.num_frames = num_frames
        time = self._time(timestep, x, conditions)
        skips = [x]
        for block in self.down_blocks:
            text = {"encoder_hidden_states": embeddings} if getattr(block, "has_cross_attention", False) else {}
            x, more = block(hidden_states=x, temb=time, **text)
            skips += more
        if self.mid_block is not None:  # some distilled UNets have none
            text = (
                {"encoder_hidden_states": embeddings} if getattr(self.mid_block, "has_cross_attention", False) else {}
            )
            x = self.mid_block(x, time, **text)
        down = tuple(conv(skip) for conv, skip in zip(self.controlnet_down_blocks, skips, strict=True))
        return Residuals(down, self.controlnet_mid_block(x))

    def _time(self, timestep: Tensor, x: Tensor, conditions: Mapping[str, Tensor] | None) -> Tensor:
        """Return the time embedding of each image, (b*f, d), with SDXL's sizes and pooled text in it.

        x: the embedded images, which tell device and number format: weights may lie elsewhere while they rest.
        """
        num_images = len(x)
        steps = timestep.reshape(-1).to(x.device)
        steps = steps.repeat_interleave(num_images // len(steps))
        time = self.time_embedding(self.time_proj(steps).to(x.dtype))
        if self.add_embedding is None or self.add_time_proj is None:
            return time
        assert conditions is not None, "an encoder for SDXL takes text_embeds and time_ids"
        sizes = rearrange(self.add_time_proj(conditions["time_ids"].flatten()), "(n k) d -> n (k d)", n=num_images)
        return time + self.add_embedding(torch.cat([conditions["text_embeds"], sizes], dim=-1).to(x.dtype))


def embedding_channels_for(vae_scale_factor: int) -> tuple[int, ...]:
    """Return the channels of an embedding from pixels to latents. Raises ValueError for a factor without one.

    >>> embedding_channels_for(4)
    (16, 32, 96)
    """
    known = {2**index: EMBEDDING_CHANNELS[: index + 1] for index in range(1, len(EMBEDDING_CHANNELS))}
    if vae_scale_factor not in known:
        raise ValueError(f"a VAE that makes images {vae_scale_factor} times smaller; known are {list(known)}")
    return known[vae_scale_factor]


def _zero_conv(channels: int) -> nn.Conv2d:
    return zeroed(nn.Conv2d(channels, channels, 1))


def _down_path(config: Mapping[str, Any]) -> UNet2DConditionModel:
    """Make a UNet on the meta device for its down path; the cheapest up path is thrown away."""
    from diffusers import UNet2DConditionModel

    plain = ["UpBlock2D"] * len(config["down_block_types"])
    with torch.device("meta"):
        return UNet2DConditionModel(**{**config, "up_block_types": plain})


def _below_loras(module: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of a module without LoRAs: PEFT keeps the layer that one acts on under `base_layer`."""
    return {key.replace(".base_layer.", "."): value for key, value in module.state_dict().items()}
