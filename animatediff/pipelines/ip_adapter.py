"""Pictures as an IP-Adapter sees them: one for the whole clip, or going from one to the next along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from animatediff.errors import UserError


def has_ip_adapter(unet: Any) -> bool:
    """Whether an IP-Adapter is loaded."""
    if getattr(unet, "encoder_hid_proj", None) is None:
        return False
    # diffusers sets the attribute of a configuration that is frozen, and its item stays as it was
    return getattr(unet.config, "encoder_hid_dim_type", None) == "ip_image_proj"


def picture_states(image: Any, pictures: Any, num_clips: int, *, guidance: bool, device: torch.device) -> list[Tensor]:
    """What the IP-Adapters of a pipeline see, one tensor an adapter: (b, 1, ...), with guidance the negatives first.

    pictures: PIL, one or several for a single adapter, else a list with an entry an adapter. Raises UserError where
    adapters and pictures do not fit.
    """
    adapters = len(image.unet.encoder_hid_proj.image_projection_layers) if has_ip_adapter(image.unet) else 0
    if adapters and pictures is None:
        raise UserError("an IP-Adapter is loaded, so a call needs ip_adapter_image; or call unload_ip_adapter()")
    if pictures is None:
        return []
    if not adapters:
        raise UserError("ip_adapter_image is given, but no IP-Adapter that reads it; call load_ip_adapter_file")
    given = list(pictures) if isinstance(pictures, Sequence) else [pictures]
    if adapters == 1:
        given = [given[0] if len(given) == 1 and isinstance(given[0], list) else given]
    if len(given) != adapters or not given[0]:
        raise UserError(f"{adapters} IP-Adapters want ip_adapter_image with as many entries, got {len(given)}")
    states = image.prepare_ip_adapter_image_embeds(given, None, device, num_clips, guidance)
    return [state.unsqueeze(1) for state in states]


def travelling_states(
    image: Any, pictures: Mapping[int, Image.Image], num_frames: int, num_clips: int, *, guidance: bool, device: Any
) -> list[Tensor]:
    """The same for one adapter and pictures at frames, (b, 1 or f, ...): in between, what it sees is mixed."""
    states = [picture_states(image, p, num_clips, guidance=guidance, device=device)[0] for p in pictures.values()]
    if len(states) == 1:
        return states
    places = torch.tensor(list(pictures), dtype=torch.float32)
    order = places.argsort()
    places, stacked = places[order], torch.cat([states[i] for i in order.tolist()], dim=1)  # (b, n, ...)
    frames = torch.arange(num_frames, dtype=torch.float32).clamp(float(places[0]), float(places[-1]))
    after = torch.searchsorted(places, frames).clamp(1, len(places) - 1)
    share = ((frames - places[after - 1]) / (places[after] - places[after - 1])).to(device, stacked.dtype)
    share = share.view(1, -1, *[1] * (stacked.ndim - 2))
    return [torch.lerp(stacked[:, after - 1], stacked[:, after], share)]
