"""The request inside a result, or in the JSON file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, parse_json, read_text
from animatediff.render.read.merge import merge, resolve
from animatediff.render.read.original import settings_of
from animatediff.render.request import AnimateRequest, build_request


def load_result(path: str | Path, overrides: Mapping[str, Any] | None = None, *, roots: Roots = HERE) -> AnimateRequest:
    """The request that made a result: a video, an image, a folder of frames, or the JSON file beside it.

    overrides: settings that win over the result's; roots: where files are looked for that are not beside it.
    Raises UserError if it carries none, and for an image or a video that was in memory and is not given anew.
    """
    from animatediff.media.read import read_metadata

    path = Path(path)
    sidecar = sidecar_of(path)
    if path.suffix.lower() == ".json":
        content = parse_json(read_text(path), str(path))
    else:
        if path.suffix.lower() in (".yaml", ".yml"):
            raise UserError(f"{path}: is a configuration; `animatediff animate --config` takes it")
        content = read_metadata(path)
        if "request" not in content and sidecar.is_file():
            content = parse_json(read_text(sidecar), str(sidecar))
    if not isinstance(content, Mapping) or not isinstance(content.get("request"), Mapping):
        raise UserError(
            f"{path}: carries no request; expected a file made by `animatediff animate`, or the .json beside it"
        )
    values = resolve(settings_of(content["request"], f"{path}: "), [path.parent], roots)
    return build_request(merge(values, overrides or {}), str(path))


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a result."""
    return path.with_name(path.name + ".json")
