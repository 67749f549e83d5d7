"""Routes by which a clip shows images (`image_mode`): one row each, from the best to the one that needs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, unknown
from animatediff.pipelines.arguments import AUTO
from animatediff.pipelines.conditions.ip_adapter import has_ip_adapter

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What of a pipeline can show images."""

    sparsectrl: str | None = None
    """Kind of the SparseCtrl encoder, `rgb` or `scribble`."""
    ip_adapter: bool = False
    first_layer: bool = False
    """Whether the motion module has a first layer for an image (PIA)."""
    family: str | None = None
    """Family of the motion module."""
    image_encoder: bool = False
    """Whether an image encoder came with the motion module."""

    @classmethod
    def of(cls, pipe: Any) -> Self:
        """What is loaded into a pipeline."""
        adapter = getattr(getattr(pipe, "attachment", None), "adapter", None)
        return cls(
            sparsectrl=pipe.sparsectrl_kind,
            ip_adapter=has_ip_adapter(pipe.unet),
            first_layer=getattr(adapter, "conv_in", None) is not None,
            family=getattr(pipe.family, "name", None),
            image_encoder=getattr(adapter, "img_encoder", None) is not None,
        )


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way to show images."""

    title: str
    """End of the sentence "the images go by way of ..."."""
    is_loaded: Callable[[Loaded], bool]
    takes: Callable[[Loaded], str] = lambda _: ""
    """What it takes, what is there instead, and what to do: end of the sentence "image_mode=... takes ..."."""
    max_images: int | None = None
    """Images that it shows at most, where it is limited."""


def _takes_pia(loaded: Loaded) -> str:
    found = "none is loaded" if loaded.family is None else f"the one loaded is of the family {loaded.family}"
    return f"PIA's motion module (pia.ckpt), and {found}; name it by `motion_module`"


def _takes_sparsectrl(loaded: Loaded) -> str:
    found = "none is loaded" if loaded.sparsectrl is None else f"the one loaded is for {loaded.sparsectrl}"
    return (
        f"a SparseCtrl encoder for RGB images, and {found}; name one by `sparsectrl`, or put it into models/SparseCtrl"
    )


ROUTES: dict[str, Route] = {
    # motion modules that were made for images stand first: who loads one means it
    "i2v": Route(
        title="the image encoder of AnimateLCM-I2V, which lets the clip start from it",
        is_loaded=lambda loaded: loaded.image_encoder,
        takes=lambda _: "AnimateLCM-I2V, and none is loaded; name AnimateLCM_sd15_i2v.ckpt by `motion_module`",
        max_images=1,
    ),
    "pia": Route(
        title="PIA, which sees one beside the noise of each frame",
        is_loaded=lambda loaded: loaded.first_layer,
        takes=_takes_pia,
        max_images=1,
    ),
    "sparsectrl": Route(
        title="the SparseCtrl RGB encoder, which was trained to show them",
        is_loaded=lambda loaded: loaded.sparsectrl == "rgb",
        takes=_takes_sparsectrl,
    ),
    "ip-adapter": Route(
        title="the IP-Adapter, which takes their content and style, not their exact pixels",
        is_loaded=lambda loaded: loaded.ip_adapter,
        takes=lambda _: "an IP-Adapter, and none is loaded; name one by `ip_adapter`",
    ),
    "latents": Route(
        title="their latents, kept at their frames while the others are made",
        is_loaded=lambda _: True,
    ),
}
MODES = (AUTO, *ROUTES)
"""Words that `image_mode` takes."""


def is_chosen(mode: str | None) -> bool:
    """Whether `image_mode` names a route."""
    return mode not in (None, AUTO)


def choose_route(mode: str | None, loaded: Loaded, num_images: int = 1) -> str:
    """The name of the route of `mode`, or of the first that is loaded and takes so many images.

    Raises UserError for a route that lacks its weights, or takes fewer images.
    """
    if mode is None or mode == AUTO:
        return next(name for name, route in ROUTES.items() if route.is_loaded(loaded) and _fits(route, num_images))
    if mode not in ROUTES:
        raise unknown("image_mode", mode, MODES)
    route = ROUTES[mode]
    if not route.is_loaded(loaded):
        raise UserError(f"image_mode={mode} takes {route.takes(loaded)}")
    if not _fits(route, num_images):
        raise UserError(f"image_mode={mode} shows {_count(route.max_images)}, got {num_images}; {_others(num_images)}")
    return mode


def _fits(route: Route, num_images: int) -> bool:
    return route.max_images is None or num_images <= route.max_images


def _others(num_images: int) -> str:
    fit: Iterable[str] = (name for name, route in ROUTES.items() if _fits(route, num_images))
    return f"give fewer, or `image_mode` {' or '.join(fit)}"


def _count(number: int | None) -> str:
    return "one image" if number == 1 else f"{number} images"
