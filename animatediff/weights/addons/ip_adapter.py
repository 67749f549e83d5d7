"""IP-Adapter files (arXiv 2308.06721) for diffusers' own loader: checked before, with the image encoder they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.silence import quiet_loading
from animatediff.weights.storage.files import read_header
from animatediff.weights.storage.folders import read_json

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

PROJECTION = "image_proj."
KEYS = "to_k_ip.weight"
ENCODER = "image_encoder"


def find_encoder(adapter: str | Path, given: str | Path | None = None) -> Path:
    """The folder of the CLIP image encoder: the one given, or `image_encoder` beside the adapter or one folder up.

    Raises UserError if it is not there.
    """
    folder = Path(adapter).parent
    places = [Path(given)] if given is not None else [folder / ENCODER, folder.parent / ENCODER]
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise UserError(
        f"{places[0]}: no image encoder here (config.json and weights of a CLIPVisionModelWithProjection); an "
        "IP-Adapter needs the one it was trained with, which its hub repository holds: name its folder with "
        "`ip_adapter_encoder`"
    )


def check_ip_adapter(path: str | Path, encoder: str | Path | None = None) -> int:
    """The width of the prompt embeddings it was made for, by its header. Raises UserError for another kind of file."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected the file of an IP-Adapter, such as ip-adapter_sd15.safetensors")
    header = read_header(path)
    keys = [key for key in header.tensors if key.endswith(KEYS)]
    if not keys or not any(key.startswith(PROJECTION) for key in header.tensors):
        raise UserError(
            f"{path}: is no IP-Adapter: it has no {PROJECTION}* and {KEYS}; `animatediff inspect` says what"
        )
    find_encoder(path, encoder)
    return header.tensors[keys[0]].shape[1]


def load_ip_adapter(
    image: Any, path: str | Path, unet: UNet2DConditionModel, encoder: str | Path | None = None
) -> None:
    """Load an IP-Adapter file into a diffusers pipeline, in place of one that was there.

    Everything is checked before anything is changed. Raises UserError as `check_ip_adapter`, and for an adapter of
    another base model or another image encoder.
    """
    from transformers import CLIPVisionModelWithProjection

    path = Path(path)
    width = check_ip_adapter(path, encoder)
    if width != unet.config["cross_attention_dim"]:
        raise UserError(
            f"{path}: an IP-Adapter for base models with prompt embeddings of width {width}, this one has "
            f"{unet.config['cross_attention_dim']}; take the one made for it (SD 1.5: 768, SDXL: 2048)"
        )
    folder = find_encoder(path, encoder)
    _check_encoder(path, folder)
    if getattr(unet, "encoder_hid_proj", None) is not None:
        image.unload_ip_adapter()
    clip: Any
    with quiet_loading():
        try:
            clip = CLIPVisionModelWithProjection.from_pretrained(folder, dtype=unet.dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder}: cannot be loaded as a CLIP image encoder ({error})") from error
        image.register_modules(image_encoder=clip.eval().to(unet.device), feature_extractor=None)
        image.load_ip_adapter(
            str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None, local_files_only=True
        )


def _check_encoder(path: Path, folder: Path) -> None:
    """Raise UserError for an image encoder of another width than the adapter reads."""
    config = read_json(folder / "config.json")
    shapes = read_header(path).shapes
    for key, name in ((f"{PROJECTION}proj.weight", "projection_dim"), (f"{PROJECTION}proj_in.weight", "hidden_size")):
        if key in shapes and shapes[key][1] != config.get(name):
            raise UserError(
                f"{folder}: an image encoder with {name} {config.get(name)}, but {path.name} reads {shapes[key][1]}; "
                "take the encoder it was trained with (ViT-H: 1024, ViT-bigG: 1280)"
            )
