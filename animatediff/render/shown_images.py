"""The pictures that a request says the clip shows: checked before anything is loaded, then opened for the call."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.files import REPOSITORY
from animatediff.render.request import AnimateRequest

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


def check_pictures(request: AnimateRequest) -> None:
    """Raise UserError for a picture that is missing or damaged, and for a file that is no IP-Adapter."""
    from animatediff.media.images import open_picture

    for path in (*(path for _, path in request.pictures), *request.ip_adapter_image):
        open_picture(path)
    if request.ip_adapter is not None:
        from animatediff.weights.addons.ip_adapter import check_ip_adapter

        check_ip_adapter(request.ip_adapter, request.ip_adapter_encoder)


def with_encoder(request: AnimateRequest) -> AnimateRequest:
    """The request with an RGB encoder that lies in models/SparseCtrl, where its pictures can make use of one."""
    if not request.pictures or request.sparsectrl is not None or request.image_mode not in (None, "sparsectrl"):
        return request
    from animatediff.bundled import bundled_path, set_path
    from animatediff.weights.sparsectrl import find_rgb_encoder

    model = str(bundled_path()) if request.model == "bundled" else request.model or ""
    folders = [root / "models" / "SparseCtrl" for root in (Path(), REPOSITORY)]
    found = find_rgb_encoder(model, [*folders, set_path()])
    if found is None:
        if request.image_mode == "sparsectrl":
            from animatediff.pipelines.conditions.image import choose_route

            choose_route("sparsectrl", None, request.ip_adapter is not None)  # which says what is missing
        return request
    logger.info("%s: is an RGB encoder for this base model, so it is used (other routes: --image-mode)", found)
    return request.model_copy(update={"sparsectrl": str(found)})


def of_pictures(request: AnimateRequest, pipe: Any) -> dict[str, Any]:
    """Settings that follow from the pictures where the request leaves them open."""
    if not request.pictures:
        return {}
    from animatediff.media.images import open_picture, size_like
    from animatediff.pipelines.conditions.image import choose_route
    from animatediff.pipelines.conditions.ip_adapter import has_ip_adapter

    kind = getattr(getattr(pipe, "sparsectrl", None), "kind", None)
    first, size = request.pictures[0][1], open_picture(request.pictures[0][1]).size
    area = pipe.defaults.width * pipe.defaults.height
    width, height = size_like(size, area, width=request.width, height=request.height)
    if (request.width, request.height) == (None, None) and request.video is None:
        logger.info("%s: %d x %d, so the clip is %d x %d", first, *size, width, height)
    route = choose_route(request.image_mode, kind, has_ip_adapter(pipe.unet))
    return {"width": width, "height": height, "image_mode": route}


def picture_arguments(request: AnimateRequest) -> dict[str, Any]:
    """What a call of the pipeline takes, of a request with every value filled in."""
    from animatediff.media.images import open_picture, shaped

    assert request.width and request.height, "filled in before"
    arguments: dict[str, Any] = {}
    size = request.larger_size(request.width, request.height)
    if request.pictures:
        arguments["images"] = {
            frame: shaped(open_picture(path), *size, request.resize) for frame, path in request.pictures
        }
        arguments["image_mode"] = request.image_mode
    if request.ip_adapter_image:
        arguments["ip_adapter_image"] = [open_picture(path) for path in request.ip_adapter_image]
    return arguments


def shown_at(arguments: dict[str, Any]) -> tuple[list[int], list[np.ndarray]]:
    """Frames and pixels, uint8 (h, w, 3), of the pictures in these arguments."""
    import numpy as np

    images = arguments.get("images") or {}
    return list(images), [np.asarray(picture) for picture in images.values()]
