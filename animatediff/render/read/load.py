"""Requests from files: the original's YAML in all its forms, our own mapping, and the request inside a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import Lines, find, parse_json, parse_yaml, read_text
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.read.original import ALIASES, RENAMED, is_run, settings_of
from animatediff.render.read.travel_json import DATA, is_travel_json, settings_of_travel
from animatediff.render.request import PATH_FIELDS, AnimateRequest, build_request

PER_PROMPT = ("negative_prompt", "seed")


def load_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, pretrained_model_path: str | None = None
) -> list[AnimateRequest]:
    """The requests of a configuration file, in order.

    Taken are the original's list of runs, its 2023 mapping of names to runs, and a mapping that is one run; keys are
    the original's or those of AnimateRequest. A list under `motion_module` gives one request for each. JSON files of
    animatediff-cli-prompt-travel give one.
    overrides: settings that win over the file's; pretrained_model_path: replaces the file's, not its dreambooth_path.
    Raises UserError that names the file, the line, and the nearest known key.
    """
    path = Path(path)
    if path.suffix.lower() == ".json" and is_travel_json(data := parse_json(read_text(path), str(path))):
        folders = [path.parent, DATA]
        values = resolve(settings_of_travel(data, str(path), folders), folders)
        if pretrained_model_path:
            values["model"] = pretrained_model_path
        return [build_request(merge(values, overrides or {}), str(path))]
    return parse_config(
        read_text(path), overrides, where=str(path), folder=path.parent, pretrained_model_path=pretrained_model_path
    )


def parse_config(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    where: str = "configuration",
    folder: Path = Path(),
    pretrained_model_path: str | None = None,
) -> list[AnimateRequest]:
    """The same for a text; `folder` is where its relative paths are tried first."""
    data, lines = parse_yaml(text, where)
    requests = []
    for label, run, run_lines in _runs(data, lines, where):
        place = f"{where}, {label}" if label else where
        requests += _requests(run, run_lines, place, overrides or {}, folder, pretrained_model_path)
    return requests


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


def _requests(
    run: Mapping[Any, Any],
    lines: Mapping[str, int],
    where: str,
    overrides: Mapping[str, Any],
    folder: Path,
    pretrained_model_path: str | None,
) -> list[AnimateRequest]:
    run = dict(run)
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
    values = merge(resolve(values, [folder]), overrides)
    names = {**RENAMED, **ALIASES}
    lines = {**lines, **{names[key]: line for key, line in lines.items() if key in names}}
    lines = {key: line for key, line in lines.items() if key not in overrides}
    modules = values.pop("motion_module", None)
    listed = modules if isinstance(modules, list) and modules else [modules]
    return [build_request({**values, "motion_module": module}, where, lines) for module in listed]


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with those of `overrides` on top; other prompts than the file's take as many seeds as they need."""
    overrides = normal_prompts(overrides) if _starts_travel(overrides) else overrides
    merged = {**values, **overrides}
    if "prompt" in overrides and "prompt_travel" not in overrides:  # other prompts than the file's, not on its way
        merged.pop("prompt_travel", None)
    if "prompt" in overrides:
        count = len(overrides["prompt"]) if isinstance(overrides["prompt"], (list, tuple)) else 1
        for name in PER_PROMPT:
            if name not in overrides and isinstance(merged.get(name), list) and len(merged[name]) > 1:
                merged[name] = merged[name][:count] if len(merged[name]) >= count else merged[name][:1]
    return merged


def _starts_travel(overrides: Mapping[str, Any]) -> bool:
    """Whether these settings say what the clip shows from its first frame on, and on the way."""
    return "prompt" in overrides or any(str(frame) == "0" for frame in overrides.get("prompt_travel") or ())


def resolve(values: Mapping[str, Any], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """`values` with every file name replaced by the file found (see `find`)."""

    def found(value: Any, kind: str) -> Any:
        if isinstance(value, str) and value:
            return find(value, folders, kind)
        if isinstance(value, (list, tuple)):
            return [found(item, kind) for item in value]
        if isinstance(value, Mapping) and "path" in value:
            return {**value, "path": found(value["path"], kind)}
        if isinstance(value, Mapping):  # keyframes as {frame: file}
            return {key: found(item, kind) for key, item in value.items()}
        return value

    return {key: found(value, PATH_FIELDS[key]) if key in PATH_FIELDS else value for key, value in values.items()}


def load_result(path: str | Path, overrides: Mapping[str, Any] | None = None) -> AnimateRequest:
    """The request that made a result: a video, a picture, a folder of frames, or the JSON file beside it.

    Raises UserError if it carries none.
    """
    from animatediff.media.read import read_metadata

    path = Path(path)
    sidecar = sidecar_of(path)
    if path.suffix.lower() == ".json":
        content = parse_json(read_text(path), str(path))
    else:
        if path.suffix.lower() in (".yaml", ".yml"):
            raise UserError(f"{path}: is a configuration; give it with --config")
        content = read_metadata(path)
        if "request" not in content and sidecar.is_file():
            content = parse_json(read_text(sidecar), str(sidecar))
    if not isinstance(content, Mapping) or not isinstance(content.get("request"), Mapping):
        raise UserError(
            f"{path}: carries no request; expected a file made by `animatediff animate`, or the .json beside it"
        )
    values = resolve(settings_of(content["request"], f"{path}: "), [path.parent])
    return build_request(merge(values, overrides or {}), str(path))


def sidecar_of(path: Path) -> Path:
    """The JSON file beside a result."""
    return path.with_name(path.name + ".json")
