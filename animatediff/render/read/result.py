"""The request inside a result, or in the JSON file beside it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, parse_json, read_text
from animatediff.render.options import FIELDS, PATH_FIELDS
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.read.lookup import Lookup
from animatediff.render.read.merge import merge
from animatediff.render.request import NOT_STORED, AnimateRequest, build_request, unknown_key
from animatediff.weights.storage.paths import shown

logger = logging.getLogger(__name__)

STORED = tuple(name for name in FIELDS if name not in NOT_STORED)
"""Settings that results store."""
LONGEST = 160
"""Characters of a value in the list of what a result asks for."""


def load_result(path: str | Path, overrides: Mapping[str, Any] | None = None, *, roots: Roots = HERE) -> AnimateRequest:
    """The request that made a result: a video, an image, a folder of frames, or the JSON file beside it.

    It may come from a stranger: it says how a clip is rendered; never where that is written, whether the network is
    asked, or what is read outside of the folders of `Lookup`. What it asks for is logged in one list.

    overrides: settings that win over the result's; roots: where files are looked for that are not beside it.
    Raises UserError if it carries none, for a setting that no result stores, for a file outside of those folders, and
    for an image or a video that was in memory and is not given anew.
    """
    path, overrides = Path(path), dict(overrides or {})
    content = _content(path)
    where, request = shown(path), content["request"]
    for key in request:
        if key not in FIELDS:
            raise unknown_key(key, STORED, f"{where}: ")
    if told := [f"`{name}`" for name in NOT_STORED if request.get(name)]:
        logger.warning(
            "%s: %s left out: a result does not decide this; give it yourself if you want it", where, ", ".join(told)
        )
    values = {name: value for name, value in request.items() if name in STORED and value not in (None, "")}
    try:
        values = normal_prompts(values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if "device" not in overrides:
        values = _on_this_machine(values, where)
    asked = {name: value for name, value in values.items() if name not in overrides}
    found = Lookup(str(path), [path.parent], roots, _hashes(content)).resolve(asked)
    logger.info("%s", _listing(where, asked, found))
    return build_request(merge({**values, **found}, overrides), where)


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a result."""
    return path.with_name(path.name + ".json")


def _content(path: Path) -> Mapping[str, Any]:
    """The record of a result. Raises UserError where there is none."""
    from animatediff.media.read import read_metadata

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
    return content


def _on_this_machine(values: dict[str, Any], where: str) -> dict[str, Any]:
    """`values` without a device that is not here, which is said: the best there is takes its place."""
    from animatediff.render.prepare import check_device

    try:
        check_device(values.get("device"))
    except UserError:
        logger.warning("%s: was made on %s, which is not here; left out", where, shown(str(values["device"])))
        return {name: value for name, value in values.items() if name != "device"}
    return values


def _hashes(content: Mapping[str, Any]) -> dict[str, str]:
    """Short hashes of the files of a record, by place; results of earlier versions have none."""
    files = content.get("files")
    files = files if isinstance(files, Mapping) else {}
    return {str(place): value for place, value in files.items() if isinstance(value, str)}


def _listing(where: str, asked: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What a result asks for: a line for the texts, one for each file with the place where it is, one for the rest."""
    lines, rest = [f"{where} asks for:"], []
    for name, value in found.items():
        text = _plain(value)
        if name in PATH_FIELDS and (before := _plain(asked[name])) != text:
            text = f"{text} (recorded as {before})"
        setting = f"`{name}` {_short(text)}"
        if name in PATH_FIELDS or "prompt" in name:
            lines.append(f"  {setting}")
        else:
            rest.append(setting)
    return "\n".join([*lines, *([f"  {', '.join(rest)}"] if rest else [])])


def _plain(value: Any) -> str:
    """A value in words, on one line."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        if "path" in value:
            rest = [f"{key} {_plain(item)}" for key, item in value.items() if key != "path"]
            return " ".join([_plain(value["path"]), *rest])
        return ", ".join(f"{shown(str(key))}={_plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value[:8])) + (f"; and {len(value) - 8} more" if len(value) > 8 else "")
    return shown(str(value))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
