"""Training configurations read from YAML, in our keys or the original's; every mistake is named with its line."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from animatediff.errors import UserError, brief
from animatediff.files import config_file, find, parse_yaml, read_text
from animatediff.render.request import unknown_key
from animatediff.training.config import OF_NEW_MODULES, OLD_NAMES, ONLY_FOR, TrainConfig, current_names, warn_old_names
from animatediff.training.forks import OURS
from animatediff.training.original import as_written, from_original, is_original

logger = logging.getLogger(__name__)

PATHS = {
    ("model",): "StableDiffusion",
    ("vae",): "StableDiffusion",
    ("unet",): "StableDiffusion",
    ("motion_module",): "Motion_Module",
    ("domain_adapter",): "MotionLoRA",
    ("domain_adapter", "path"): "MotionLoRA",
    ("start_from",): "Motion_Module",
    ("data", "path"): "",
    ("data", "video_folder"): "",
    ("validation", "data", "path"): "",
    ("validation", "data", "video_folder"): "",
}
"""Settings that name a file or folder, and the folder under models/ where such files live."""


def load_train_config(path: str | Path, settings: Sequence[str] = ()) -> TrainConfig:
    """Read the configuration in a YAML file, with `settings` ("data.height=64") on top.

    Relative file names are tried beside the file, then in the working directory. Raises UserError that names the file,
    the line, and the nearest known key.
    """
    path = config_file(path)
    values, lines = parse_yaml(read_text(path), str(path))
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path}: expected settings as `key: value`, found {type(values).__name__}")
    where = str(path)
    original = None
    if is_original(values):
        original = from_original(values, where, {key[0]: line for key, line in lines.items() if len(key) == 1})
        for note in original.notes:
            logger.info("%s: %s", path, note)
        values = original.settings
        lines = _lines_of(original.written, lines)
    values, old = current_names(values, f"{where}: ")
    given, old_given = current_names(dict(map(_setting, settings)), "`settings`: ")
    warn_old_names({*old, *old_given}, f"{path}: ")
    for name, value in given.items():
        _put(values, name, value)
    values.setdefault("out", str(Path("outputs") / path.stem))
    lines = {(OLD_NAMES.get(key[0], key[0]), *key[1:]): line for key, line in lines.items()}
    written = {} if original is None else original.written
    config = build_train_config(values, where, lines, folder=path.parent, written=written)
    if original is not None and (epochs := {k: v for k, v in original.epochs.items() if k not in given}):
        steps = steps_of_epochs(config, epochs, where, written)
        counted = ", ".join(f"{written.get(name, name)}={count}" for name, count in steps.items())
        logger.info("%s: by the clips of the data, %s", path, counted)
        config = build_train_config(values | steps, where, lines, folder=path.parent, written=written)
    for name, stages in ONLY_FOR.items():
        if name in config.model_fields_set and config.stage not in stages and getattr(config, name) is not None:
            logger.warning("%s: %s does nothing in the stage %s", path, written.get(name, name), config.stage)
    if config.stage == "motion" and config.start_from is not None:
        for name in OF_NEW_MODULES:
            if name in config.model_fields_set and getattr(config, name) != TrainConfig.model_fields[name].default:
                text = f"{written.get(name, name)} has no effect: it is as in {written.get('start_from', 'start_from')}"
                logger.warning("%s: %s=%s", path, text, config.start_from)
    return config


def build_train_config(
    values: Mapping[str, Any],
    where: str = "",
    lines: Mapping[tuple[Any, ...], int] | None = None,
    *,
    folder: Path = Path(),
    written: Mapping[str, str] | None = None,
) -> TrainConfig:
    """Validate settings. Raises UserError that names every mistake, up to five.

    written: setting -> the key that the user wrote it as, for messages.
    """
    found = {key: _found((key,), value, folder) for key, value in values.items()}
    try:
        config = TrainConfig.model_validate(found)
    except ValidationError as error:
        sentences = [_sentence(item, where, lines or {}) for item in error.errors(include_url=False)[:5]]
        raise UserError("\n".join(dict.fromkeys(as_written(text, written or {}) for text in sentences))) from error
    config.written.update(written or {})
    return config


def _lines_of(written: Mapping[str, str], lines: Mapping[tuple[Any, ...], int]) -> dict[tuple[Any, ...], int]:
    """The lines of settings, from those of the keys that they were written as."""
    found = ((tuple(name.split(".")), tuple(key.split("."))) for name, key in written.items())
    return {name: lines[key] for name, key in found if key in lines}


def steps_of_epochs(
    config: TrainConfig, epochs: Mapping[str, float], where: str, written: Mapping[str, str]
) -> dict[str, int]:
    """Settings given in epochs as steps. Raises UserError for data that does not say how many clips it has."""
    from animatediff.training.data.sources import kind_of, list_items

    clips = config.clips()
    kind = kind_of(clips)
    if kind == "webdataset":
        raise UserError(
            f"{where}: epochs of shards are not known, since they do not say how many clips they hold: give numbers "
            "of steps, by max_train_steps and checkpointing_steps"
        )
    number = clips.num_items if kind == "sprites" else len(list_items(clips, kind).items)
    processes = int(os.environ.get("WORLD_SIZE", "1") or 1)
    update = config.batch_size * config.gradient_accumulation_steps * processes
    return {name: max(1, math.ceil(number * count / update)) for name, count in epochs.items()}


def _setting(text: str) -> tuple[str, Any]:
    """Name and value of `a.b=value`; the value is YAML, for lists and numbers."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"`settings` {text!r}: expected KEY=VALUE, such as data.height=64")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"`settings` {text!r}: the value is not valid YAML") from error


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Lay the value of a setting `a.b` over nested values."""
    *parents, last = name.split(".")
    place = values
    for parent in parents:
        inner = place.get(parent)
        inner = dict(inner) if isinstance(inner, Mapping) else {}
        place[parent] = inner
        place = inner
    place[last] = value


def _found(place: tuple[str, ...], value: Any, folder: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _found((*place, key), item, folder) for key, item in value.items()}
    if place not in PATHS or not isinstance(value, str) or not value or value == "bundled":
        return value
    return find(value, [folder], PATHS[place])


def _model_at(place: Sequence[Any]) -> type[BaseModel] | None:
    """The class that has the settings at a place in the configuration."""
    model: type[BaseModel] | None = TrainConfig
    for part in place:
        field = model.model_fields.get(part) if model is not None else None
        if field is None:
            return None
        candidates = [field.annotation, *get_args(field.annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return model


def _sentence(item: Any, where: str, lines: Mapping[tuple[Any, ...], int]) -> str:
    location: tuple[Any, ...] = tuple(item["loc"])
    line = next((lines[location[:n]] for n in (2, 1) if location[:n] in lines and len(location) >= n), None)
    place = where + (f", line {line}" if line else "")
    prefix = f"{place}: " if place else ""
    name = ".".join(str(part) for part in location)
    text = item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        model = _model_at(location[:-1])
        if len(location) == 1 and name in OURS:
            return f"{prefix}unknown setting {name!r}; did you mean {OURS[name]!r}?"
        inside = f"in {'.'.join(map(str, location[:-1]))}: " if len(location) > 1 else ""
        return str(unknown_key(item["loc"][-1], model.model_fields if model else (), prefix + inside))
    if item["type"] == "missing":
        return f"{prefix}{name} is missing"
    if not location or item["type"] == "value_error":
        return f"{prefix}{f'{name}: ' if name else ''}{text}"
    return f"{prefix}{name}={brief(item['input'])}: {text[:1].lower()}{text[1:]}"
