"""Deep features of a UNet, known at some steps and continued to others (DeepCache, arXiv 2312.00858).

What the deep layers of the UNet say changes slowly from step to step. A full call keeps the feature map that comes up
from them, just before the last layers of the last up block; a shallow call takes it from the trend of the last two and
runs only the shell: `conv_in`, the last layers of the last up block with their motion modules, `conv_norm_out` and
`conv_out`. The UNet itself is not changed: for one call its blocks get another `forward`.

| layers of the last up block in the shell      | 1     | 2     | 3     |
|-----------------------------------------------|-------|-------|-------|
| layers of the first down block in it          | 0     | 1     | 2     |
| products of a call, SD 1.5, 16 frames 512x512 | 0.074 | 0.214 | 0.361 |
| the same, SDXL, 16 frames 1024x1024           | 0.022 | 0.061 | 0.104 |
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.models.residuals import Residuals
from animatediff.sampling.chunks import forwards_replaced
from animatediff.sampling.trend import Trend, known

KNOWN_BLOCKS = ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
"""Types of the outermost blocks whose layers are called here one by one."""


class DeepFeatures:
    """Features of the deep layers, for each row (clip with its prompt) and set of frames."""

    def __init__(self, unet: nn.Module, shell: int = 1) -> None:
        """shell: layers of the last up block that run at every call, at most all.

        Raises UserError for a UNet whose layers cannot be left out.
        """
        check_blocks(unet)
        blocks: Any = unet.up_blocks
        self.unet: Any = unet
        self.shell = min(shell, len(blocks[-1].resnets))
        self.kept: dict[Hashable, Trend] = {}
        """Row -> its feature map (f, c, h, w), of the last two full calls."""
        self._residuals: dict[Hashable, list[Tensor]] = {}

    @property
    def num_channels(self) -> int:
        """Channels of a feature map."""
        block = self.unet.up_blocks[-1]
        return block.resnets[len(block.resnets) - self.shell].in_channels - self.unet.conv_in.out_channels

    def forget(self) -> None:
        """Drop all features: the next calls are full."""
        self.kept.clear()
        self._residuals.clear()

    def has(self, rows: Sequence[Hashable]) -> bool:
        """Whether features of all these rows are kept, so that a call of them can be shallow."""
        return all(row is not None and row in self.kept for row in rows)

    @contextmanager
    def call(self, rows: Sequence[Hashable], step: int, *, full: bool) -> Iterator[None]:
        """For one call of the UNet, at this step: keep its deep features, or leave its deep layers out.

        rows: a name for each row (n of them) of the batch (n*f, c, h, w); None for those that no shallow call has.
        """
        if full:
            with self._keeping(rows, step):
                yield
        else:
            deep = torch.cat([self.kept[row].at(step) for row in rows])
            with forwards_replaced(self._shallow(deep)):
                yield

    def keep_residuals(self, rows: Sequence[Hashable], residuals: Residuals | None) -> None:
        """Keep of a full call's residuals of controls what the shell takes."""
        if residuals is None:
            for row in rows:
                self._residuals.pop(row, None)
            return
        parts = [part.chunk(len(rows)) for part in residuals.down[: self.shell]]
        for index, row in enumerate(rows):
            if row is not None:
                self._residuals[row] = [part[index].clone() for part in parts]

    def residuals(self, rows: Sequence[Hashable]) -> Residuals | None:
        """Residuals for a shallow call: those kept, and a zero wherever no layer reads them."""
        if any(row not in self._residuals for row in rows):
            return None
        down = [torch.cat(parts) for parts in zip(*(self._residuals[row] for row in rows), strict=True)]
        zero = down[0].new_zeros(())
        num_skips = 1 + sum(len(block.resnets) + bool(block.downsamplers) for block in self.unet.down_blocks)
        return Residuals((*down, *[zero] * (num_skips - len(down))), zero)

    @contextmanager
    def _keeping(self, rows: Sequence[Hashable], step: int) -> Iterator[None]:
        block = self.unet.up_blocks[-1]

        def keep(resnet: nn.Module, args: tuple[Tensor, ...]) -> None:
            skip = self.unet.conv_in.out_channels  # a skip connection stands behind what comes from the layer before
            for row, deep in zip(rows, args[0][:, :-skip].chunk(len(rows)), strict=True):
                if row is not None:
                    self.kept[row] = known(self.kept.get(row), step, deep.clone())

        handle = block.resnets[len(block.resnets) - self.shell].register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def _shallow(self, deep: Tensor) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """Blocks and what they do in a shallow call; skip connections that nothing reads are left as numbers."""
        for index, block in enumerate(self.unet.down_blocks):
            num_skips = len(block.resnets) + bool(block.downsamplers)
            layers = self.shell - 1 if index == 0 else 0
            yield block, partial(_down, block, layers, num_skips)
        if self.unet.mid_block is not None:
            yield self.unet.mid_block, _as_it_comes
        for block in self.unet.up_blocks[:-1]:
            yield block, _as_it_comes
        yield self.unet.up_blocks[-1], partial(_up, self.unet.up_blocks[-1], self.shell, deep)


def check_blocks(unet: nn.Module) -> None:
    """Raise UserError for a UNet whose deep layers cannot be left out: compiled whole, or of other blocks."""
    if hasattr(unet, "_orig_mod"):
        raise UserError("`fast` leaves layers of the UNet out, and one that is compiled whole always runs all of them")
    outer: Any = (unet.down_blocks[0], unet.up_blocks[-1])  # pyright: ignore[reportIndexIssue]
    other = [type(block).__name__ for block in outer if type(block).__name__ not in KNOWN_BLOCKS]
    if other:
        raise UserError(f"`fast` does not know UNets whose outermost blocks are {' and '.join(other)}")


def _as_it_comes(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


def _down(
    block: Any, num_layers: int, num_skips: int, hidden_states: Tensor, temb: Tensor | None = None, *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
    skips: list[Tensor] = []
    for index in range(num_layers):
        hidden_states = _layer(block, index, hidden_states, temb, kwargs)
        skips.append(hidden_states)
    skips += [hidden_states] * (num_skips - len(skips))
    return hidden_states, tuple(skips)


def _up(
    block: Any, shell: int, deep: Tensor, hidden_states: Tensor, res_hidden_states_tuple: tuple[Tensor, ...],
    temb: Tensor | None = None, *args: Any, **kwargs: Any,
) -> Tensor:  # fmt: skip
    hidden_states, num_layers = deep, len(block.resnets)
    for index in range(num_layers - shell, num_layers):
        skip = res_hidden_states_tuple[num_layers - 1 - index]
        hidden_states = _layer(block, index, torch.cat([hidden_states, skip], dim=1), temb, kwargs)
    return hidden_states


def _layer(block: Any, index: int, hidden_states: Tensor, temb: Tensor | None, given: dict[str, Any]) -> Tensor:
    """A ResNet and its transformer, where it has one. given: the block's further arguments."""
    hidden_states = block.resnets[index](hidden_states, temb)
    attentions = getattr(block, "attentions", None)
    if attentions is None:
        return hidden_states
    names = ("encoder_hidden_states", "cross_attention_kwargs", "attention_mask", "encoder_attention_mask")
    further = {name: given.get(name) for name in names}
    return attentions[index](hidden_states, **further, return_dict=False)[0]
