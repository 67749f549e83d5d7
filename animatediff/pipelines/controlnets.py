"""From the ControlNet frames of a call to the controls that steer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from animatediff.errors import UserError
from animatediff.sampling import active_timesteps
from animatediff.sampling.controlnet import ControlNetInput, NetControl, frame_shares, net_pictures


class GivenNet(NamedTuple):
    """A ControlNet and what a call gives it."""

    net: Any
    entry: ControlNetInput
    pictures: Tensor
    shares: Tensor | None
    """As `NetControl` has them."""


def net_inputs(
    nets: Sequence[Any], given: Sequence[ControlNetInput] | None, shape: tuple[int, ...], *, loop: bool
) -> list[GivenNet]:
    """Each loaded ControlNet with what the call gives it, checked and at size. shape: of the latents (b, c, f, h, w).

    None gives nothing to any; loop: whether the first frame follows the last. Raises UserError where they are not as
    many as the nets, and as `net_pictures` and `frame_shares`.
    """
    if given is None:
        return []
    given = [given] if isinstance(given, ControlNetInput) else list(given)
    if len(given) != len(nets):
        raise UserError(
            f"{len(nets)} ControlNets are loaded, and controlnet_inputs has {len(given)} entries; give one for each, "
            "in the order of load_controlnet"
        )
    return [
        GivenNet(net, entry, net_pictures(net, entry, shape), frame_shares(entry, shape[2], loop=loop))
        for net, entry in zip(nets, given, strict=True)
    ]


def net_controls(inputs: Sequence[GivenNet], timesteps: Tensor) -> list[NetControl]:
    """The controls for these steps."""
    return [
        NetControl(
            net=given.net,
            pictures=given.pictures,
            shares=given.shares,
            scale=float(given.entry.scale),
            active=active_timesteps(timesteps, given.entry.start, given.entry.end),
        )
        for given in inputs
    ]
