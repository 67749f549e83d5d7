"""Models that a request names by hub ids: from the hub's local cache if they are whole there, else fetched if asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.weights.hub import cached_folder, fetch_folder, located_file, network

if TYPE_CHECKING:
    import torch

OF_ONE_FILE = ("loras", "motion_loras", "domain_adapter", "embeddings")
"""Settings of additions that are one file of their repository."""


def hub_folder(name: str, setting: str, *, download: bool) -> Path | None:
    """The local folder of a hub id, if its files are whole in the cache; None if they may be fetched. No network.

    Raises UserError where they are not whole and may not be fetched.
    """
    cached = cached_folder(name)
    problem = None if cached is None else _problem(cached, setting)
    if cached is not None and problem is None:
        return cached
    if download:
        return None
    if problem is not None:
        raise UserError(
            f"{name}: not whole in the hub's local cache ({problem}); add `download` to fetch what is missing"
        )
    with network(False):
        return fetch_folder(name, list)


def fetch_model(name: str, setting: str, *, dtype: torch.dtype | None = None) -> Path:
    """The local folder of a hub id; what its setting needs of it is fetched. Raises UserError as `fetch_folder`."""
    from animatediff.weights.base.folder import download_base
    from animatediff.weights.motion import hub_files

    with network(True):
        if setting == "model":
            return download_base(name, dtype=dtype)
        return Path(located_file(name)) if setting in OF_ONE_FILE else fetch_folder(name, hub_files)


def _problem(folder: Path, setting: str) -> str | None:
    """The reason why a folder does not hold what a setting needs; None where it does. Headers alone are read."""
    from animatediff.weights.addons.embeddings import embedding_file
    from animatediff.weights.base.folder import MODELS
    from animatediff.weights.lora.source import lora_header
    from animatediff.weights.motion import find_header
    from animatediff.weights.storage.files import read_header
    from animatediff.weights.storage.folders import folder_header, read_json

    try:
        if setting == "model":
            index = read_json(folder / "model_index.json")
            for part in MODELS:
                if isinstance(index.get(part), list) and index[part][:1] != [None]:
                    folder_header(folder / part)
        elif setting == "embeddings":
            read_header(embedding_file(folder))
        elif setting in OF_ONE_FILE:
            lora_header(folder)
        else:
            find_header(folder)
    except (UserError, OSError) as error:
        return str(error).removeprefix(f"{folder}").lstrip("/: ")
    return None
