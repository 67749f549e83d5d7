"""IP-Adapter files (arXiv 2308.06721) for diffusers' own loader: checked before, with the image encoder they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.weights.addons.image_encoder import Width, find_encoder, load_encoder
from animatediff.weights.base.text_width import in_words
from animatediff.weights.fit import leave_out
from animatediff.weights.recognise import check_setting, recognise_header
from animatediff.weights.silence import quiet_loading
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, load_tensors, read_header
from animatediff.weights.storage.paths import expanded

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

PARTS = {
    "image_proj": ("image_proj.", "image_proj_model."),
    "ip_adapter": ("ip_adapter.", "adapter_modules."),
}
"""Part of an adapter, as diffusers names it -> its prefixes in files: of the release, and of training checkpoints."""
LAYER = re.compile(r"(\d+)\.to_[kv]_ip\.weight")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """A kind of IP-Adapter, told by the names in its image projection."""

    name: str
    mark: str
    """Tensor that only this kind has."""
    reads: str
    """Setting of the image encoder whose width it reads: the pooled output, or all tokens of a layer."""
    width: str
    """Tensor whose second axis is that width."""
    names: str
    """Pattern of its tensors."""


_WB = r"\.(weight|bias)"
_KINDS = (  # in this order, as diffusers tells them apart
    _Kind(
        name="an IP-Adapter", mark="proj.weight", reads="projection_dim", width="proj.weight",
        names=rf"(proj|norm){_WB}",
    ),
    _Kind(
        name="a full-face IP-Adapter", mark="proj.3.weight", reads="hidden_size", width="proj.0.weight",
        names=rf"proj\.[023]{_WB}",
    ),
    _Kind(
        name="an IP-Adapter Plus", mark="latents", reads="hidden_size", width="proj_in.weight",
        names=rf"latents|(proj_in|proj_out|norm_out){_WB}|layers\.\d+\.\w+\..+",
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Adapter:
    header: Header
    kind: _Kind
    parts: dict[str, dict[str, str]]
    """Part -> name in it -> key of the file."""
    encoder: Width
    """Width of the image encoder that it reads."""
    layers: list[tuple[int, ...]]
    """Shapes of its key projections, layer by layer."""


def adapter_file(path: str | Path) -> Path:
    """The file of an IP-Adapter: `path`, or the only one in the folder `path`, in the layout of the hub too.

    Raises UserError that names the files where there are several.
    """
    path = expanded(path)
    if not path.is_dir():
        return path
    folders = [path, *(path / name for name in ("models", "sdxl_models") if (path / name).is_dir())]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix.lower() in WEIGHT_SUFFIXES]
    by_stem = {file.with_suffix(""): file for file in sorted(files, key=lambda file: file.suffix == ".safetensors")}
    if len(by_stem) == 1:
        return next(iter(by_stem.values()))
    found = ", ".join(str(file.relative_to(path)) for file in sorted(by_stem.values()))
    if found:
        raise UserError(f"{path}: a folder with several IP-Adapters; name one of them: {found}")
    raise UserError(f"{path}: no IP-Adapter in this folder, expected a file such as ip-adapter_sd15.safetensors")


def check_ip_adapter(
    path: str | Path, encoder: str | Path | None = None, *, base: Sequence[tuple[int, ...]] = ()
) -> int:
    """The width of the prompt embeddings it was made for, by its header.

    base: shapes of the base model's cross attentions (`base_cross_attentions`), empty if unknown. Raises UserError
    for another kind of file, an adapter of faces whose embeddings are not computed here, one of another base model, and
    where its image encoder is missing or another one.
    """
    found = _read(adapter_file(path))
    if base:
        _check_base(found, base)
    find_encoder(found.header.path, encoder, found.encoder)
    return found.layers[0][1]


def check_adapter_base(path: str | Path, base: Sequence[tuple[int, ...]]) -> None:
    """The same without a look at its image encoder."""
    found = _read(adapter_file(path))
    if base:
        _check_base(found, base)


def load_ip_adapter(
    image: Any, path: str | Path, unet: UNet2DConditionModel, encoder: str | Path | None = None
) -> None:
    """Load an IP-Adapter file into a diffusers pipeline, in place of one that was there.

    Everything is checked before anything is changed. Raises UserError as `check_ip_adapter`.
    """
    found = _read(adapter_file(path))
    path = found.header.path
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor") and "motion_modules" not in name]
    attentions: list[Any] = [unet.get_submodule(name.removesuffix(".processor")) for name in names]
    _check_base(found, [tuple(attention.to_k.weight.shape) for attention in attentions], exact=True)
    folder = find_encoder(path, encoder, found.encoder)
    clip = load_encoder(folder, unet.dtype, found.encoder)
    keys = [key for names in found.parts.values() for key in names.values()]
    tensors = load_tensors(found.header, keys)
    state = {part: {name: tensors[key] for name, key in names.items()} for part, names in found.parts.items()}
    with quiet_loading():
        try:  # a rehearsal of what diffusers checks while it changes the UNet
            unet._convert_ip_adapter_image_proj_to_diffusers(state["image_proj"], low_cpu_mem_usage=False)
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{path}: its image projection is not whole, or of an unknown layout ({reason})") from error
        leave_out(found.header.tensors.keys() - set(keys), path=path, model="IP-Adapter")
        if getattr(unet, "encoder_hid_proj", None) is not None:
            image.unload_ip_adapter()
        image.register_modules(image_encoder=clip.to(unet.device), feature_extractor=None)
        image.load_ip_adapter(state, subfolder="", weight_name="", image_encoder_folder=None)


def _read(path: Path) -> _Adapter:
    """Say which IP-Adapter a file is. Raises UserError for what is none, and for one that cannot run here."""
    header = read_header(path)
    check_setting(recognise_header(header), "ip_adapter")
    parts = {part: _part(header.tensors, prefixes) for part, prefixes in PARTS.items()}
    projection = {name: header.tensors[key].shape for name, key in parts["image_proj"].items()}
    layers = {name: header.tensors[key].shape for name, key in parts["ip_adapter"].items() if LAYER.fullmatch(name)}
    if not layers or not projection:
        raise UserError(
            f"{path}: is no IP-Adapter: it has no image_proj.* and to_k_ip.weight; `animatediff inspect` says what it "
            "is"
        )
    kind = next((kind for kind in _KINDS if {kind.mark, kind.width} <= projection.keys()), None)
    if kind is None:
        first = ", ".join(list(projection)[:3])
        raise UserError(f"{path}: an IP-Adapter of an unknown kind: its image projection has {first}")
    # a layer has an odd number, self attentions between them have the even ones
    numbers = range(1, max(int(name.partition(".")[0]) for name in layers) + 1, 2)
    wanted = [f"{number}.to_{part}_ip.weight" for number in numbers for part in "kv"]
    if missing := [name for name in wanted if name not in layers]:
        raise UserError(f"{path}: {kind.name} without its ip_adapter.{missing[0]}; is the download complete?")
    known = {
        "image_proj": {name: key for name, key in parts["image_proj"].items() if re.fullmatch(kind.names, name)},
        "ip_adapter": {name: key for name, key in parts["ip_adapter"].items() if name in wanted},
    }
    return _Adapter(
        header=header,
        kind=kind,
        parts=known,
        encoder=(kind.reads, projection[kind.width][1]),
        layers=[layers[f"{number}.to_k_ip.weight"] for number in numbers],
    )


def _part(keys: Iterable[str], prefixes: Iterable[str]) -> dict[str, str]:
    """Name in the part -> key of the file."""
    return {key.removeprefix(prefix): key for prefix in prefixes for key in keys if key.startswith(prefix)}


def _check_base(found: _Adapter, base: Sequence[tuple[int, ...]], *, exact: bool = False) -> None:
    """Raise UserError unless the layers are those of a base model. exact: `base` is in the order of the layers."""
    reasons = []
    width, expected = found.layers[0][1], base[0][1]
    if width != expected:
        reasons.append(f"with prompt embeddings of width {in_words(width)}, this one has {in_words(expected)}")
    if len(found.layers) != len(base):
        reasons.append(f"with {len(found.layers)} cross attentions, this one has {len(base)}")
    elif exact and not reasons and (odd := [n for n, shape in enumerate(base) if found.layers[n] != shape]):
        reasons.append(f"whose layer {odd[0]} has shape {found.layers[odd[0]]}, in this one it is {base[odd[0]]}")
    if reasons:
        raise UserError(
            f"{found.header.path}: {found.kind.name} for base models {' and '.join(reasons)}; take the one made for it"
        )
