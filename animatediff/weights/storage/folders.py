"""Folders in the diffusers layout: where a component's configuration and weights are, whatever their vintage.

Weights lie in one file or in several (shards), in the standard precision or in variants of it ("fp16"). Names of files:
`diffusion_pytorch_model.fp16-00001-of-00002.safetensors`, and beside shards an index that names them all.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from animatediff.bundled import BUNDLED_MODEL, bundled_path
from animatediff.errors import UserError
from animatediff.files import read_text
from animatediff.parse import load_json
from animatediff.weights.storage.files import Header, read_header

logger = logging.getLogger(__name__)

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
"""Names of weight files: diffusers, transformers, transformers before safetensors."""
VARIANTS = ("", "fp16", "bf16", "fp32", "non_ema", "ema")
"""Variants in the order of preference; others come last."""
SUFFIXES = ("safetensors", "bin")
SHARED_PARTS = ("vae", "text_encoder")
"""Components that a model can leave to another one."""
SHARED_WITH = "_shared_with"
"""Entry of `model_index.json` that diffusers passes over: the model that has the VAE and text encoder left out here."""
OTHER_PROGRAMS = {".msgpack": "Flax", ".h5": "TensorFlow", ".onnx": "ONNX", ".pb": "TensorFlow", ".xml": "OpenVINO"}
"""Endings of weight files that PyTorch does not read -> their library."""

_FILE = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(?:\.(?P<variant>\w+))?(?:-(?P<part>\d+)-of-(?P<of>\d+))?(?:\.(?P<last>\w+))?"
    rf"\.(?P<suffix>{'|'.join(SUFFIXES)})"
)
_INDEX = re.compile(
    rf"(?P<stem>{'|'.join(STEMS)})(?:\.(?P<variant>\w+?))??\.(?P<suffix>{'|'.join(SUFFIXES)})"
    r"(?:\.(?P<middle>\w+))??\.index(?:\.(?P<last>\w+))?\.json"
)


@dataclass(frozen=True, kw_only=True)
class WeightSet:
    """The weights of a component in one precision: a file, or all shards."""

    stem: str
    variant: str
    """Variant of the precision such as "fp16"; empty for the standard one."""
    suffix: str
    files: tuple[str, ...]
    """Names of the weight files that are there, in order."""
    missing: tuple[str, ...] = ()
    """Names of shards that are not there, as far as their numbers tell."""
    index: str | None = None
    """Name of the index of shards, if there is one."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every file that has to be there to read the weights."""
        return self.files if self.index is None else (self.index, *self.files)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing or damaged."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file; the diffusers folder is incomplete, download it again")
        if not path.is_file():  # to open a pipe would wait for its writer
            raise UserError(f"{path}: not a file; download it again")
        content = load_json(read_text(path), str(path))
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}; download it again")
    return content


def part_folder(folder: Path, name: str) -> Path:
    """The folder of component `name` of a whole model, there or not: its own, or that of the model it shares it with.

    Raises UserError where `model_index.json` names another model for that than the bundled one.
    """
    own = folder / name
    if name not in SHARED_PARTS or own.is_dir() or not (folder / "model_index.json").is_file():
        return own
    shared = read_json(folder / "model_index.json").get(SHARED_WITH)
    if shared not in (None, BUNDLED_MODEL):
        raise UserError(
            f"{folder / 'model_index.json'}: says that its {name} is that of {str(shared)[:80]!r}; a model can share "
            f"parts with {BUNDLED_MODEL!r} alone: put the folder {name}/ there, and leave {SHARED_WITH} out"
        )
    return own if shared is None else bundled_path() / name


def component_folder(folder: Path, name: str) -> Path:
    """The folder of component `name`: that of a whole model, or `folder` itself if it is the component.

    Raises UserError if it is neither.
    """
    if (place := part_folder(folder, name)).is_dir():
        return place
    if (folder / "config.json").is_file():
        return folder
    raise UserError(f"{folder}: neither a folder {name}/ nor a config.json is in it; give a diffusers folder or a file")


def weight_sets(names: Iterable[str]) -> list[WeightSet]:
    """The weights among the names of a component's files: one entry for each precision and format.

    >>> weight_sets(["config.json", "model.fp16-00001-of-00002.safetensors"])[0].missing
    ('model.fp16-00002-of-00002.safetensors',)
    """
    whole: list[WeightSet] = []
    shards: dict[tuple[str, str, str, int], dict[int, str]] = {}
    indexes: dict[tuple[str, str, str], str] = {}
    for name in sorted(names):
        if found := _INDEX.fullmatch(name):
            variant = found["variant"] or found["middle"] or found["last"] or ""
            indexes[found["stem"], variant, found["suffix"]] = name
        elif found := _FILE.fullmatch(name):
            stem, variant, suffix = found["stem"], found["variant"] or found["last"] or "", found["suffix"]
            if found["of"] is None:
                whole.append(WeightSet(stem=stem, variant=variant, suffix=suffix, files=(name,)))
            else:
                shards.setdefault((stem, variant, suffix, int(found["of"])), {})[int(found["part"])] = name
    sets = [_sharded(*key, parts, indexes.pop(key[:3], None)) for key, parts in shards.items()]
    of_index = [
        WeightSet(stem=stem, variant=variant, suffix=suffix, files=(), index=index)
        for (stem, variant, suffix), index in indexes.items()
        if not any((one.stem, one.variant, one.suffix) == (stem, variant, suffix) for one in whole)
    ]
    return [*whole, *sets, *of_index]


def _sharded(stem: str, variant: str, suffix: str, count: int, parts: dict[int, str], index: str | None) -> WeightSet:
    some = next(iter(parts.values()))
    missing = [re.sub(r"-\d+-of-", f"-{number:05d}-of-", some) for number in range(1, count + 1) if number not in parts]
    files = tuple(parts[number] for number in sorted(parts))
    return WeightSet(stem=stem, variant=variant, suffix=suffix, files=files, missing=tuple(missing), index=index)


def preferred_weights(names: Iterable[str], *, half: bool = False, variant: str | None = None) -> WeightSet | None:
    """The weights to read of those in a component folder, or None: complete, safetensors, the wanted precision first.

    `half` prefers 16-bit variants; `variant` ("fp16") allows only that one.
    """
    order = ("fp16", "bf16", "", "non_ema") if half else VARIANTS

    def rank(one: WeightSet) -> tuple[Any, ...]:
        precision = order.index(one.variant) if one.variant in order else len(order)
        incomplete = bool(one.missing) or not one.files
        return incomplete, SUFFIXES.index(one.suffix), precision, STEMS.index(one.stem), one.variant

    wanted = [one for one in weight_sets(names) if variant is None or one.variant == variant]
    return min(wanted, key=rank, default=None)


def variants(names: Iterable[str]) -> list[str]:
    """The variants of the weights among these names, the standard one as an empty string."""
    return sorted({one.variant for one in weight_sets(names)})


def say_variants(found: Collection[str]) -> str:
    """The variants that are there, for a message."""
    named = [repr(variant) for variant in found if variant]
    return ", ".join([*(["the standard one (no `variant`)"] if "" in found else []), *named]) or "none"


def folder_header(folder: Path, *, half: bool = False, variant: str | None = None) -> Header:
    """The header of the weights in a component folder; that of shards names each tensor's file.

    Raises UserError that says what is there instead, or which shards are missing.
    """
    try:
        names = sorted(child.name for child in folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read as a folder ({error})") from error
    chosen = preferred_weights(names, half=half, variant=variant)
    if chosen is None:
        raise _no_weights(folder, names, variant)
    if chosen.variant not in VARIANTS and variant is None:
        logger.info("%s: has only the variant %s", folder, chosen.variant)
    if chosen.index is None and len(chosen.files) == 1 and not chosen.missing:
        return read_header(folder / chosen.files[0])
    return _merged(folder, chosen)


def _no_weights(folder: Path, names: list[str], variant: str | None) -> UserError:
    if variant is not None and (found := variants(names)):
        return UserError(f"{folder}: no weights of the variant {variant!r}; there are: {say_variants(found)}")
    wanted = f"{STEMS[0]}{'.' + variant if variant else ''}.safetensors"
    others = sorted({OTHER_PROGRAMS[end] for name in names if (end := Path(name).suffix) in OTHER_PROGRAMS})
    hint = f"; weights for {', '.join(others)} cannot be read, get the .safetensors" if others else ""
    instead = f"only {', '.join(names)}" if names else "the folder is empty"
    return UserError(f"{folder}: no weights found (expected {wanted} or the like), {instead}{hint}")


def _merged(folder: Path, chosen: WeightSet) -> Header:
    """One header of all shards. With an index, it says which file a tensor is read from."""
    places: dict[str, str] = {}
    if chosen.index is not None:
        index = read_json(folder / chosen.index).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(part, str) for pair in index.items() for part in pair):
            raise UserError(f"{folder / chosen.index}: has no weight_map of tensors and files; download it again")
        places = index
    needed = sorted({*chosen.files, *chosen.missing, *places.values()}) if not places else sorted({*places.values()})
    if outside := [name for name in needed if Path(name).name != name]:
        raise UserError(f"{folder / (chosen.index or '')}: names a file outside of this folder ({outside[0]})")
    if missing := [name for name in needed if not (folder / name).is_file()]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(needed)} parts (shards) of the weights are missing: "
            f"{', '.join(missing)}; download them into this folder"
        )
    headers = {name: read_header(folder / name) for name in needed}
    tensors = {}
    for name, header in headers.items():
        for key, info in header.tensors.items():
            if key not in tensors or places.get(key) == name:
                tensors[key] = replace(info, file=header.path)
    first = headers[needed[0]]
    return replace(
        first,
        path=folder / (chosen.index or chosen.files[0]),
        size=sum(header.size for header in headers.values()),
        tensors=tensors,
        metadata={key: value for header in headers.values() for key, value in header.metadata.items()},
    )
