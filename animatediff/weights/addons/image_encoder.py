"""CLIP image encoders of IP-Adapters: found beside the adapter, checked by configuration and header, loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.fit import Fit, leave_out
from animatediff.weights.storage.files import load_tensors
from animatediff.weights.storage.folders import folder_header, read_json

if TYPE_CHECKING:
    import torch

FOLDER = "image_encoder"
PROJECTION = "visual_projection.weight"
DEFAULTS = {"projection_dim": 512, "hidden_size": 768}
"""Values that a config.json may leave out, as transformers fills them in."""
NOT_READ = re.compile(r"text_model\.|text_projection\.|logit_scale$|.*\.position_ids$")
"""The text half of a whole CLIP, and buffers of older libraries."""

Width = tuple[str, int]
"""Setting of an encoder's configuration (`projection_dim`, `hidden_size`) and the value that an adapter reads."""


def find_encoder(adapter: Path, given: str | Path | None, width: Width) -> Path:
    """The folder of the image encoder that an adapter file reads: `given`, or one in the layout of the hub.

    That is `image_encoder` beside the adapter or one folder up, or in a folder next to the adapter's own. Raises
    UserError if there is none, or none of the width that the adapter reads.
    """
    folder = adapter.parent
    if given is not None:
        places = [Path(given)]
    else:
        places = [folder / FOLDER, folder.parent / FOLDER]
        places += [folder.parent / name / FOLDER for name in ("models", "sdxl_models")]
    there = [place for place in places if (place / "config.json").is_file()]
    if not there:
        raise UserError(
            f"{places[0]}: no image encoder here (config.json and weights of a CLIPVisionModelWithProjection); an "
            "IP-Adapter needs the one it was trained with, which its hub repository holds: name its folder with "
            "`ip_adapter_encoder`"
        )
    name, wanted = width
    fitting = next((place for place in there if _settings(place).get(name) == wanted), None)
    if fitting is None:
        raise UserError(
            f"{there[0]}: an image encoder with {name} {_settings(there[0]).get(name)}, but {adapter.name} reads "
            f"{wanted}; take the encoder it was trained with (ViT-H: projection_dim 1024, hidden_size 1280; ViT-bigG: "
            "1280, 1664)"
        )
    folder_header(fitting)  # raises for a folder without weights
    return fitting


def load_encoder(folder: Path, dtype: torch.dtype, width: Width) -> Any:
    """The `CLIPVisionModelWithProjection` in a folder, for an adapter that reads `width`.

    Raises UserError for missing or misshapen tensors, which transformers would fill with random numbers.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    header = folder_header(folder)
    try:
        with init_empty_weights(include_buffers=False):
            encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**_settings(folder)))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}: its config.json describes no CLIP image encoder ({str(error)[:200]})") from error
    expected = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    if width[0] == "hidden_size" and PROJECTION not in header.tensors:
        del expected[PROJECTION]  # nothing reads its output
    fit = Fit.of(header.shapes, expected)
    if problems := fit.problems():
        raise UserError(f"{folder}: cannot be loaded as a CLIP image encoder: {'; '.join(problems)}")
    surplus = [name for name in fit.surplus if not NOT_READ.match(name)]
    leave_out(surplus, path=folder, model="CLIP image encoder")
    state = load_tensors(header, expected, dtype=dtype)
    state.setdefault(PROJECTION, torch.zeros(encoder.visual_projection.weight.shape, dtype=dtype))
    encoder.load_state_dict(state, assign=True)
    return encoder.eval().requires_grad_(False)


def _settings(folder: Path) -> dict[str, Any]:
    """Configuration of the image half, of a whole CLIP too."""
    config = read_json(folder / "config.json")
    inner = config.get("vision_config")
    return {**DEFAULTS, **(inner if isinstance(inner, dict) else config)}
