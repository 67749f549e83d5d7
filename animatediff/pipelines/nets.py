"""From the ControlNet frames of a call to the controls that steer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from animatediff.control.controlnet import ControlNetInput, NetControl, net_pictures
from animatediff.errors import UserError
from animatediff.sampling import active_timesteps


def net_inputs(
    nets: Sequence[Any], given: Sequence[ControlNetInput] | None, shape: tuple[int, ...]
) -> list[tuple[Any, ControlNetInput, Tensor]]:
    """Each loaded ControlNet with what the call gives it, checked and at size. shape: of the latents (b, c, f, h, w).

    None gives nothing to any. Raises UserError where they are not as many as the nets, and as `net_pictures`.
    """
    if given is None:
        return []
    given = [given] if isinstance(given, ControlNetInput) else list(given)
    if len(given) != len(nets):
        raise UserError(
            f"{len(nets)} ControlNets are loaded, and controlnet_inputs has {len(given)} entries; give one for each, "
            "in the order of load_controlnet"
        )
    return [(net, entry, net_pictures(net, entry, shape)) for net, entry in zip(nets, given, strict=True)]


def net_controls(inputs: Sequence[tuple[Any, ControlNetInput, Tensor]], timesteps: Tensor) -> list[NetControl]:
    """The controls for these steps."""
    return [
        NetControl(
            net=net,
            pictures=pictures,
            scale=float(entry.scale),
            active=active_timesteps(timesteps, entry.start, entry.end),
        )
        for net, entry, pictures in inputs
    ]
