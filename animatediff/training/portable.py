"""Settings of a run without the folders of the machine that it ran on, to be stored with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from animatediff.render.portable import portable_name

WEIGHTS = {"model", "vae", "unet", "motion_module", "start_from"}
"""Settings that name weights."""
OF_DATA = {"path", "video_folder", "cache"}


def without_folders(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings with portable names of files, and the short hashes of the weights among them, by setting."""
    result, hashes = dict(settings), dict[str, str]()

    def weights(path: str, place: str) -> str:
        name, found = portable_name(path)
        if found is not None:
            hashes[place] = found
        return name

    for key, value in settings.items():
        if key in WEIGHTS and isinstance(value, str):
            result[key] = weights(value, key)
    if isinstance(adapter := settings.get("domain_adapter"), Mapping):
        result["domain_adapter"] = {**adapter, "path": weights(adapter["path"], "domain_adapter")}
    if isinstance(data := settings.get("data"), Mapping):
        result["data"] = _of_data(data)
    validation = settings.get("validation")
    if isinstance(validation, Mapping) and isinstance(data := validation.get("data"), Mapping):
        result["validation"] = {**validation, "data": _of_data(data)}
    return result, hashes


def _of_data(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _name(value) if key in OF_DATA and isinstance(value, str) else value for key, value in data.items()}


def _name(path: str) -> str:
    """A name of data; it is not hashed, as it may be large. Of addresses, what may be a key to them is left out."""
    if path.startswith(("http://", "https://")):
        parts = urlsplit(path)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return portable_name(path, hashed=False)[0]
