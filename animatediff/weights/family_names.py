"""Names under which motion modules are published: evidence of their family where tensors leave several possible.

Sources: the repositories of AnimateDiff, AnimateLCM, AnimateDiff-Lightning, LongAnimateDiff and HotshotXL, their
folders in diffusers' layout, the mirror for the A1111 web UI, and the fine-tunes that its users name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from animatediff.weights.storage.files import Header

NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern))
    for family, pattern in (
        ("lightning", r"animatediff_lightning_[1248]_?step(?![a-rt-z])"),
        ("animatelcm", r"animate_?lcm|sd15_t2v_beta"),
        ("long", r"lt_long_mm|long_?animate_?diff"),
        ("hotshot", r"hotshot|hsxl|mm_sdxl_hs(?![a-z0-9])"),
        ("sdxl", r"mm_sdxl|motion_adapter_sdxl|sdxl_v10_beta"),
        ("v3", r"mm_sd_?v?15_v3(?!\d)|v3_sd_?15_mm|motion_adapter_v1_5_3(?!\d)"),
        ("v2", r"mm_sd_?v?15_v2(?!\d)|motion_adapter_v1_5_2(?!\d)|(?<![a-z])mm_p_0_?(5|75)(?!\d)"),
        (
            "v1",
            r"mm_sd_?v?1[45](?!\d|_v[02-9])|motion_adapter_v1_[45](?!_?\d)|temporal_?diff(?!usion)"
            r"|mm_stabilized|improved_?3d_?motion",
        ),
    )
)
"""Family -> its names, in small letters with `_` between words; the first that fits counts."""
VERSION = re.compile(r"(?<![a-z0-9])v[123](?![a-z0-9])")
"""A bare version: it may number anything, so it decides nothing."""
GENERIC = re.compile(r"(diffusion_pytorch_model|pytorch_model|model|adapter_model|motion_(module|adapter))(?![a-z])")
"""Names that files in folders have whatever they hold."""
PARTS = ("unet", "motion_adapter", "motion_module", "snapshots")
"""Folders named for what is in them, in a folder that may tell more."""
HUB_FOLDER = re.compile(r"models--(.+?)--(.+)")
TITLE_KEYS = ("modelspec.title", "title", "model_name", "name")
"""Metadata of other programs that may hold a published name."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A published name that was found."""

    family: str
    where: str
    """Its place: "its name", "its folder's name"."""
    name: str


def plain(name: str) -> str:
    """Small letters, with `_` between words."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def named_family(name: str) -> str | None:
    """The family that publishes under this name.

    >>> named_family("mm_sd_v15_v2_fp16"), named_family("guoyww/animatediff-motion-adapter-v1-5"), named_family("my_v1")
    ('v2', 'v1', None)
    """
    text = plain(name)
    return next((family for family, pattern in NAMES if pattern.search(text)), None)


def names_of(header: Header, config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(place, name) of every name that may tell a file's family, the one nearest to the file first."""
    path = header.path
    for key in TITLE_KEYS:
        if header.metadata.get(key):
            yield f"its metadata {key}", header.metadata[key]
    generic = path.is_dir() or GENERIC.match(plain(path.name)) is not None
    if not generic:
        yield "its name", path.name
        return
    if isinstance(origin := config.get("_name_or_path"), str) and origin:
        yield "the _name_or_path of its config.json", origin
    folder = path if path.is_dir() else path.absolute().parent
    while folder.name in PARTS:
        folder = folder.parent
    if folder.parent.name == "snapshots" and (hub := HUB_FOLDER.fullmatch(folder.parent.parent.name)):
        yield "its hub repository", f"{hub[1]}/{hub[2]}"
    elif folder.name:
        yield "its folder's name", folder.name


def published_names(header: Header, config: Mapping[str, Any]) -> list[Named]:
    """The published names that a file, its folder, its configuration or its metadata has."""
    return [
        Named(family=family, where=where, name=name)
        for where, name in names_of(header, config)
        if (family := named_family(name)) is not None
    ]


def bare_version(names: str) -> str | None:
    """The bare "v1", "v2" or "v3" in a name, for a hint.

    >>> bare_version("v1_without_tables.safetensors"), bare_version("mm_sd_v15")
    ('v1', None)
    """
    found = VERSION.search(plain(names).replace("_", " "))
    return found[0] if found else None
