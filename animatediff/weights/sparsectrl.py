"""Load SparseCtrl encoders from files, and save and find them.

An encoder's file holds image layers, under diffusers' names in every dialect, and motion modules, under the names that
motion modules have in that dialect.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.models.sparsectrl import CONDITION_CHANNELS, Kind, SparseConfig, SparseCtrl
from animatediff.motion import frame_positions
from animatediff.parse import load_json
from animatediff.weights.base import ldm
from animatediff.weights.base.model_configs import Generation, unet_config
from animatediff.weights.base.text_width import base_text_width, text_width
from animatediff.weights.fit import check_fit, load_into
from animatediff.weights.keys import MOTION_KEY, POSITIONS, TO_INTERNAL, num_positions, rename
from animatediff.weights.kinds import SHORT_TITLES
from animatediff.weights.motion import find_header, original_tensors
from animatediff.weights.motion_config import config_beside
from animatediff.weights.names import BY_WIDTH
from animatediff.weights.recognise import Recognised, recognise_header, wrong_kind
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, read_header, save_tensors
from animatediff.weights.storage.folders import read_json

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

logger = logging.getLogger(__name__)

CONFIG_KEY = "animatediff.sparsectrl"
"""Metadata of files of ours: the configuration of the encoder."""
WRAPPER = "controlnet"
"""The entry of a .ckpt in which the original looks for an encoder."""
WHAT = "SparseCtrl encoder"
CONDITIONING, LDM_CONDITIONING = "controlnet_cond_embedding.", "input_hint_block.0."
CONDITIONING_LAYER = re.compile(r"^controlnet_cond_embedding\.(?:conv_in|blocks\.\d*[13579])\.weight$")
UNTOLD = (
    *("norm_num_groups", "norm_eps", "attention_head_dim", "act_fn", "flip_sin_to_cos"),
    *("freq_shift", "downsample_padding", "mid_block_scale_factor", "upcast_attention"),
)
"""Settings of an encoder's image layers that its tensors do not tell."""
ZERO_CONV = re.compile(r"^controlnet_(?:down_blocks\.\d+|mid_block)\.weight$")

Shapes = dict[str, tuple[int, ...]]
T = TypeVar("T")


def load_sparsectrl(
    source: str | Path | Header, *, unet: UNet2DConditionModel | None = None, dtype: torch.dtype | None = None
) -> SparseCtrl:
    """Load an encoder from a file of the original or of ours, or a diffusers `SparseControlNetModel` folder or hub id.

    The file says whether it takes images or sketches. `unet`: the UNet of the base model; checked before any
    tensor is read. `dtype` None keeps the file's. Raises UserError for another kind of file, for missing, unknown or
    misshapen tensors, and for an encoder of another base model.
    """
    encoder, found = empty_sparsectrl(source, unet=unet)
    header, config = found.header, encoder.sparse_config
    load_into(encoder, header, internal_entries({key: key for key in header.tensors}), dtype=dtype)
    logger.info("%s: %s (%s), %s", header.path, found.title, config.kind, ", ".join(found.evidence))
    return encoder.eval().requires_grad_(False)


def empty_sparsectrl(
    source: str | Path | Header, *, unet: UNet2DConditionModel | None = None
) -> tuple[SparseCtrl, Recognised]:
    """The encoder of a file on the meta device: all checks of `load_sparsectrl`, no weights. Raises UserError as it."""
    found = recognise_header(find_header(source))
    if found.kind != "sparsectrl":
        raise wrong_kind(found, "sparsectrl")
    header = found.header
    with torch.device("meta"):
        encoder = SparseCtrl(config_of(found, unet))
    expected = {key: tuple(value.shape) for key, value in encoder.state_dict().items()}
    shapes = internal_entries(header.shapes)
    if unet is not None:
        _check_fit(shapes, expected, header.path)
    check_fit(shapes, expected, path=header.path, model=WHAT)
    return encoder, found


def save_sparsectrl(
    encoder: SparseCtrl,
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write an encoder in the original key format, position tables included, its configuration in the metadata.

    `convert.convert` makes diffusers folders of it. Raises UserError if it cannot be written.
    """
    state = {key: value.detach().to("cpu", dtype) for key, value in encoder.state_dict().items()}
    tensors = original_entries(state, encoder.sparse_config.max_positions)
    save_tensors(path, tensors, {**config_metadata(encoder.sparse_config), **(metadata or {})}, wrapper=WRAPPER)


def save_sparsectrl_folder(encoder: SparseCtrl, folder: Path, *, variant: str | None = None) -> str | None:
    """Write an encoder as a folder that diffusers' `SparseControlNetModel.from_pretrained` reads.

    One that diffusers has no place for is written in the original's names, and the reason is returned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"diffusion_pytorch_model.{f'{variant}.' if variant else ''}safetensors"
    config = encoder.sparse_config
    try:
        described = diffusers_config(config, folder)
    except UserError as error:
        save_sparsectrl(encoder, file, metadata={"format": "pt"})
        return str(error)
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    state = {key: value.detach().cpu() for key, value in encoder.state_dict().items()}
    tables = {
        key.replace(".attn1.to_q.weight", ".pos_embed.pe"): frame_positions(config.max_positions, weight.shape[0])[
            None
        ].to(weight)
        for key, weight in state.items()
        if MOTION_KEY.match(key) and key.endswith(".attn1.to_q.weight")
    }
    save_tensors(file, state | tables, {**config_metadata(config), "format": "pt"})
    return None


def find_rgb_encoder(model: str, folders: Iterable[Path]) -> Path | None:
    """The first RGB encoder, by name, in these folders that takes the base model's prompt embeddings; None if none.

    model: a diffusers folder or a single file; of a hub id nothing is known, so that none is found. Only headers are
    read, and files that cannot be read are passed over: nobody asked for them.
    """
    width = base_text_width(Path(model))
    if width is None:
        return None
    for folder in folders:
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        for file in files:
            if file.suffix.lower() not in WEIGHT_SUFFIXES:
                continue
            try:
                found = recognise_header(read_header(file))
            except (UserError, OSError):
                continue
            if found.kind == "sparsectrl" and found.variant == "rgb" and text_width(found.header.shapes) == width:
                return file
    return None


def internal_entries(entries: Mapping[str, T]) -> dict[str, T]:
    """The entries of an encoder's file under internal names, position tables left out.

    Copies for the A1111 WebUI have LDM's names in place of diffusers' for the image layers.
    """
    image = [key for key in entries if not MOTION_KEY.match(key)]
    names: dict[str, str] = {}
    if any(key.startswith("zero_convs.") for key in image):
        plan, _ = ldm.controlnet_plan(image)
        names = {source.key: target for target, source in plan.items()}
        if "input_hint_block.2.weight" not in entries:  # one layer alone, as RGB encoders have it
            names |= {
                key: f"{CONDITIONING}{key.rpartition('.')[2]}" for key in image if key.startswith(LDM_CONDITIONING)
            }
    return {
        rename(key, TO_INTERNAL) if MOTION_KEY.match(key) else names.get(key, key): value
        for key, value in entries.items()
        if not POSITIONS.search(key)
    }


def original_entries(state: Mapping[str, Tensor], positions: int | None) -> dict[str, Tensor]:
    """Internal tensors under original names, with position tables of that length."""
    image = {key: value for key, value in state.items() if not MOTION_KEY.match(key)}
    motion = {key: value for key, value in state.items() if MOTION_KEY.match(key)}
    return image | original_tensors(motion, positions)


def config_metadata(config: SparseConfig) -> dict[str, str]:
    """Metadata that describes an encoder, so that it can be built again without the base model beside it."""
    return {CONFIG_KEY: json.dumps({**asdict(config), "unet": _plain(config.unet)})}


def config_of(found: Recognised, unet: UNet2DConditionModel | None = None) -> SparseConfig:
    """Configuration of the encoder in a file, from its tensors, and for the rest `unet`, its metadata or folder.

    Raises UserError for metadata or a config.json that cannot be read.
    """
    header = found.header
    shapes = internal_entries(header.shapes)
    kind = cast(Kind, found.variant)
    first = shapes.get(f"controlnet_cond_embedding.{'weight' if kind == 'rgb' else 'conv_in.weight'}", ())
    if len(first) != 4:
        raise UserError(f"{header.path}: the first layer of its conditions has shape {list(first)}; is it whole?")
    stated = _stated(header)
    own: Mapping[str, Any] | None = stated.get("unet") or _folder_config(header)
    image: Mapping[str, Any] | None = own if unet is None else {**unet.config, **_untold(own or {})}
    # Without a statement, the published sizes of the base model version stand for what no shape tells.
    image = image if image is not None else unet_config(shapes, cast(Generation, found.base or "sd1"))
    if image.get("mid_block_type", "") is None and any(key.startswith("mid_block.attentions.") for key in shapes):
        image = {**image, "mid_block_type": "UNetMidBlock2DCrossAttn"}  # the base is distilled, the encoder is not
    motion = [key for key in shapes if MOTION_KEY.match(key)]
    beside = config_beside(header)
    channels = tuple(shapes[key][0] for key in sorted(filter(CONDITIONING_LAYER.match, shapes), key=_layer_number))
    try:
        return SparseConfig(
            kind=kind,
            unet=image,
            embedding_channels=channels if kind == "scribble" else (),
            condition_channels=first[1] - 1,
            motion_mid_block=any(key.startswith("mid_block.") for key in motion),
            num_attentions=2 if any(".attn2." in key for key in motion) else 1,
            num_heads=int(stated.get("num_heads", beside.num_heads or 8)),
            max_positions=num_positions(header.shapes) or int(stated.get("max_positions", beside.positions or 32)),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{header.path}: its metadata {CONFIG_KEY} cannot be read ({error}); was it edited?") from error


def diffusers_config(config: SparseConfig, path: Path) -> dict[str, Any]:
    """config.json of diffusers' `SparseControlNetModel`. Raises UserError for an encoder that it cannot express."""
    unet = config.unet
    reasons = {
        "text and size conditions of SDXL": unet.get("addition_embed_type") is not None,
        "a motion module in its mid block": config.motion_mid_block,
        "two attentions in each motion module": config.num_attentions != 1,
        "a number of layers that differs between blocks": not isinstance(unet.get("layers_per_block", 2), int),
        "another mid block": unet.get("mid_block_type", "UNetMidBlock2DCrossAttn") != "UNetMidBlock2DCrossAttn",
        "other channels in": config.condition_channels not in CONDITION_CHANNELS.values(),
    }
    if hindrance := next((reason for reason, there in reasons.items() if there), None):
        raise UserError(f"{path}: diffusers' SparseControlNetModel has no place for {hindrance}")
    blocks = {"CrossAttnDownBlock2D": "CrossAttnDownBlockMotion", "DownBlock2D": "DownBlockMotion"}
    unknown = [kind for kind in unet["down_block_types"] if kind not in blocks]
    if unknown:
        raise UserError(f"{path}: diffusers' SparseControlNetModel has no block {unknown[0]}")
    left_out = ("mid_block_type", "dropout", "addition_embed_type")
    kept = {key: value for key, value in _plain(unet).items() if key not in left_out and value is not None}
    return {
        "_class_name": "SparseControlNetModel",
        **kept,
        "down_block_types": [blocks[kind] for kind in unet["down_block_types"]],
        "concat_conditioning_mask": True,
        "conditioning_channels": config.condition_channels,
        "conditioning_embedding_out_channels": list(config.embedding_channels) or None,
        "motion_max_seq_length": config.max_positions,
        "motion_num_attention_heads": config.num_heads,
        "use_simplified_condition_embedding": config.kind == "rgb",
    }


def _folder_config(header: Header) -> dict[str, Any] | None:
    """The image part of the config.json beside a diffusers model's weights, in the words of a UNet."""
    beside = header.path.with_name("config.json")
    if header.config is None and not beside.is_file():
        return None
    config = read_json(beside) if header.config is None else header.config
    if config.get("_class_name") != "SparseControlNetModel":
        return None
    kinds = [kind.replace("Motion", "2D") for kind in config.get("down_block_types", ())]
    # The number of heads, which UNets take by its older name alone.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    config = {"cross_attention_dim": 768, **config, "attention_head_dim": heads, "num_attention_heads": None}
    return {**config, **({"down_block_types": kinds} if kinds else {})}


def _untold(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of an encoder's own configuration that no shape tells, and that may differ from the base model's."""
    found = {key: config[key] for key in UNTOLD if config.get(key) is not None}
    return found


def _stated(header: Header) -> dict[str, Any]:
    if CONFIG_KEY not in header.metadata:
        return {}
    try:
        stated = load_json(header.metadata[CONFIG_KEY])
    except ValueError as error:
        raise UserError(f"{header.path}: its metadata {CONFIG_KEY} cannot be read ({error}); was it edited?") from error
    return stated if isinstance(stated, dict) else {}


def _check_fit(found: Shapes, expected: Shapes, path: Path) -> None:
    """Raise UserError where the encoder's outputs, or the prompt embeddings it takes, are of another base model."""
    made_for, given = text_width(found), text_width(expected)
    outputs, wanted = (
        {key: shape for key, shape in side.items() if ZERO_CONV.match(key)} for side in (found, expected)
    )
    if made_for == given and outputs == wanted:
        return
    titles = [SHORT_TITLES.get(BY_WIDTH.get(width or 0, ""), "another kind of") for width in (made_for, given)]
    if titles[0] != titles[1]:
        raise UserError(
            f"{path}: a SparseCtrl encoder for {titles[0]} base models, but the base model is {titles[1]}; "
            "an encoder runs on the kind of base model it was trained on"
        )
    raise UserError(
        f"{path}: this SparseCtrl encoder does not fit the base model: it acts on {_widths(outputs)} channels and "
        f"reads text of width {made_for}, the model has {_widths(wanted)} and {given}"
    )


def _widths(convolutions: Shapes) -> str:
    def place(key: str) -> int:
        number = re.search(r"\d+", key)
        return int(number[0]) if number else len(convolutions)

    return "-".join(str(convolutions[key][0]) for key in sorted(convolutions, key=place))


def _layer_number(key: str) -> int:
    number = re.search(r"\.blocks\.(\d+)\.", key)
    return int(number[1]) if number else -1


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
