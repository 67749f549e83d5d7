"""Requests from configurations: the original's YAML in all its forms, and our own mapping."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Lines, Roots, config_file, parse_json, parse_yaml, read_text
from animatediff.limits import MAX_RUNS
from animatediff.render.options import PATH_FIELDS
from animatediff.render.read.lookup import Lookup
from animatediff.render.read.merge import merge
from animatediff.render.read.original import ALIASES, EACH, RENAMED, is_run, settings_of
from animatediff.render.read.place import without_what_is_not_its_own
from animatediff.render.read.travel_file import data_folders
from animatediff.render.read.travel_json import is_travel_json, settings_of_travel
from animatediff.render.request import AnimateRequest, build_request


def load_config(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    pretrained_model_path: str | None = None,
    roots: Roots = HERE,
) -> list[AnimateRequest]:
    """The requests of a configuration file, in order.

    Taken are the original's list of runs, its 2023 mapping of names to runs, and a mapping that is one run; keys are
    the original's or those of AnimateRequest. A list under `motion_module`, `guidance_scale` or `steps` gives one
    request for each. JSON files of animatediff-cli-prompt-travel and animatediff-cli give one.
    overrides: settings that win over the file's; pretrained_model_path: replaces the file's, not its dreambooth_path;
    roots: where files are looked for that are not beside this one.
    The file may be a stranger's: it never decides whether the network is asked (`download` is left out), `out` is a new
    file below the working directory or left out, and files that it names lie in the folders of `Lookup`.
    Raises UserError that names the file, the line, and the nearest known key.
    """
    path = config_file(path)
    data: Any = parse_json(read_text(path), str(path)) if path.suffix.lower() == ".json" else None
    _check_is_no_other(data, path)
    if is_travel_json(data):
        folders, length = data_folders(path, roots), (overrides or {}).get("num_frames")
        settings = settings_of_travel(data, str(path), folders, roots, num_frames=length)
        users = {"model": pretrained_model_path} if pretrained_model_path else {}
        values = merged(settings, Lookup(str(path), folders, roots), {**users, **(overrides or {})})
        return [build_request(values, str(path))]
    return parse_config(
        read_text(path),
        overrides,
        where=str(path),
        folder=path.parent,
        pretrained_model_path=pretrained_model_path,
        roots=roots,
    )


def parse_config(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    where: str = "configuration",
    folder: Path = Path(),
    pretrained_model_path: str | None = None,
    roots: Roots = HERE,
) -> list[AnimateRequest]:
    """The same for a text; `folder` is where its relative paths are tried first."""
    data, lines = parse_yaml(text, where)
    requests = []
    for label, run, run_lines in _runs(data, lines, where):
        place = f"{where}, {label}" if label else where
        values, known_lines = _settings(run, run_lines, place, pretrained_model_path)
        is_users = pretrained_model_path is not None and values.get("model") == pretrained_model_path
        users = {"model": pretrained_model_path} if is_users else {}
        values = merged(values, Lookup(place, [folder], roots), {**users, **(overrides or {})})
        known_lines = {key: line for key, line in known_lines.items() if key not in (overrides or {})}
        runs = each(values)
        MAX_RUNS.check(len(requests) + len(runs), f"{where}: holds {len(requests) + len(runs):,} runs or more")
        requests += [build_request(one, place, known_lines) for one in runs]
    return requests


def merged(values: Mapping[str, Any], lookup: Lookup, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run as far as a file decides them, with the files that it names found, and others on top."""
    values = {name: value for name, value in values.items() if name not in PATH_FIELDS or name not in overrides}
    values = without_what_is_not_its_own(values, lookup.where, overrides)
    return merge(lookup.resolve(values), overrides)


def each(values: dict[str, Any]) -> list[dict[str, Any]]:
    """A run for each entry of a list of motion modules, steps or guidance scales."""
    runs = [values]
    for name in EACH:
        if isinstance(listed := values.get(name), list) and listed:
            count = len(runs) * len(listed)
            MAX_RUNS.check(count, f"lists of {', '.join(EACH)} come to {count:,} runs or more")
            runs = [{**run, name: one} for run in runs for one in listed]
    return runs


def _check_is_no_other(data: Any, path: Path) -> None:
    """Raise UserError for JSON of another program, or of a result, naming what takes it."""
    if not isinstance(data, Mapping):
        return
    if isinstance(data.get("request"), Mapping):
        raise UserError(f"{path}: is the record of a result; `animatediff animate --from` repeats it")
    if "last_node_id" in data or any(isinstance(node, Mapping) and "class_type" in node for node in data.values()):
        raise UserError(f"{path}: is a workflow of ComfyUI, which cannot be read; give its settings as options")
    if "alwayson_scripts" in data:
        raise UserError(f"{path}: is a request to A1111's web page, which cannot be read; give its settings as options")


def _runs(data: Any, lines: Lines, where: str) -> list[tuple[str, Mapping[Any, Any], dict[str, int]]]:
    """(label, run, line of each key) for every run of a parsed file."""
    if isinstance(data, list):
        named = [(f"run {index + 1}", index, run) for index, run in enumerate(data)]
    elif isinstance(data, Mapping) and data and not is_run(data) and all(isinstance(v, Mapping) for v in data.values()):
        named = [(f"run {str(key)[:40]!r}", key, run) for key, run in data.items()]
    elif isinstance(data, Mapping) and data:
        return [("", data, {key[0]: line for key, line in lines.items() if len(key) == 1})]
    else:
        raise UserError(f"{where}: expected a list of runs or a mapping of settings, found {_kind(data)}")
    if not named:
        raise UserError(f"{where}: holds no runs")
    for label, _, run in named:
        if not isinstance(run, Mapping):
            raise UserError(f"{where}, {label}: expected settings as `key: value`, found {_kind(run)}")
    return [
        (label, run, {key[1]: line for key, line in lines.items() if len(key) == 2 and key[0] == index})
        for label, index, run in named
    ]


def _kind(value: Any) -> str:
    if value is None or value in ({}, []):
        return "nothing"
    return {"str": "text", "list": "a list", "dict": "a mapping"}.get(type(value).__name__, f"a {type(value).__name__}")


def _settings(
    run: Mapping[Any, Any], lines: Mapping[str, int], where: str, pretrained_model_path: str | None
) -> tuple[dict[str, Any], dict[str, int]]:
    """The settings of a run, and the line of each, by the names of AnimateRequest."""
    if pretrained_model_path:
        run = {k: v for k, v in run.items() if k not in ("base_model_path", "model", "base")}
        run["pretrained_model_path"] = pretrained_model_path
    try:
        values = settings_of(run, f"{where}: ")
    except UserError as error:
        unknown = next((key for key in lines if f"setting {key!r}" in str(error)), None)
        if unknown is None:
            raise
        raise UserError(str(error).replace(f"{where}: ", f"{where}, line {lines[unknown]}: ", 1)) from error
    names = {**RENAMED, **ALIASES}
    return values, {**lines, **{names[key]: line for key, line in lines.items() if key in names}}
