"""From the inputs of a prediction to the request that is rendered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.bundled import bundled_path, is_bundled, set_path
from animatediff.errors import UserError, brief, renamed
from animatediff.limits import FLAGS, LIMITS
from animatediff.media.write import check_output, check_takes_sound
from animatediff.render.declare import Option
from animatediff.render.options import BY_NAME
from animatediff.render.portable import with_files
from animatediff.render.request import AnimateRequest, build_request
from animatediff.server.catalog import BUNDLED, PLACES

from .inputs import MOVES, NOT_HERE, SUFFIXES, CogInput, own_inputs
from .models import Models, is_move
from .published import ALIASES, ASPECTS, in_our_inputs, published_inputs, size_of
from .settings import Settings

NAMES = {
    **{name: f"{LIMITS[name].variable} (whoever deploys the model sets it)" for name in FLAGS},
    "out": "output_format",
    "download": "download (which is not taken here)",
}
"""Setting -> its name here, in messages, where that is another one."""
_BUNDLED_SIDE, _SIDES = 64, {"SDXL": 1024}
"""Pixels along each side that models were trained on, by what they were made for; 512 for all others."""


@dataclass
class Asked:
    """A prediction to render."""

    request: AnimateRequest
    suffix: str
    """Of the file."""
    notes: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """File that was sent -> its input."""


class Reader:
    """Reads the inputs of predictions. Raises UserError for what will not do, in our inputs' names."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models = Models(settings.models)
        own = {item.name: item for item in own_inputs(settings)}
        self.inputs: dict[str, CogInput] = own | {item.name: item for item in published_inputs(own)}
        """Every input by its name, in the order of the form."""

    def read(self, given: Mapping[str, Any]) -> Asked:
        """The request of a prediction; `given` may hold all inputs, None where they were left out."""
        asked_for = {name: value for name, value in given.items() if value is not None and value != ""}
        if extra := next((name for name in asked_for if name not in self.inputs), None):
            raise UserError(f"{extra} is not taken: {NOT_HERE.get(extra, 'there is no such input')}")
        notes: list[str] = []
        files: dict[str, str] = {}
        for name in asked_for:
            self._check(name, asked_for[name])
        values = in_our_inputs(asked_for, notes)
        values = {**self._defaults(values), **values}
        suffix = SUFFIXES[values.pop("output_format", "mp4")]
        aspect = values.pop("aspect", None)
        moves = {move: values.pop(f"{name}_motion_strength", 0) for name, move in MOVES.items()}
        values = self._parsed(values, files)
        resolved = self._resolved(values)
        self._move(resolved, moves, {is_move(lora["path"]) for lora in values.get("motion_loras", ())})
        if aspect is not None:
            resolved |= self._size(aspect, resolved)
        request = build_request(resolved)
        if request.num_clips != 1:
            raise UserError(f"{request.num_clips} clips are asked for; one prediction makes one")
        check_output(f"clip{suffix}", request.codec, request.max_size)
        if request.audio:
            check_takes_sound(f"clip{suffix}")
        return Asked(request, suffix, notes, files)

    def check_models(self, request: AnimateRequest) -> None:
        """Raise UserError for an image model without a motion module, or the other way round, unless it is bundled."""
        model, motion_module = request.model, request.motion_module
        if model is None and motion_module not in (None, BUNDLED):
            given, why, lacking = f"motion_module={motion_module}", "no image model is given for it", "model"
        elif motion_module is None and not (model is None or is_bundled(model) or _moves(Path(model))):
            given, why, lacking = f"model={model}", "an image model does not move by itself", "motion_module"
        else:
            return
        names = [name for name in self._models.choices(lacking) if not is_bundled(name)]
        raise UserError(
            f"{given}: {why}; give {lacking}, "
            + (f"one of {', '.join(names)}" if names else "of which there is none here")
        )

    def _defaults(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the deployment, without those that what is given decides.

        Its motion module is not for the bundled model, and its size not for another aspect.
        """
        decided = {"motion_module"} if is_bundled(values.get("model")) else set[str]()
        decided |= {"width", "height"} if "aspect" in values else set()
        return {name: value for name, value in self._settings.defaults.items() if name not in decided}

    def _check(self, name: str, value: Any) -> None:
        """Raise UserError for a value out of the range that Cog's server checks where it has the schema."""
        item = self.inputs[name]
        if item.choices is not None and name not in PLACES and value not in item.choices:
            raise UserError(f"{name}={brief(value)}: known are {', '.join(item.choices)}")
        if item.kind == "int" and isinstance(value, float):
            raise UserError(
                f"{name}={value!r}: expected a whole number of 64 bits"
            )  # JSON's readers make 2**64 a float
        if item.ge is None or item.le is None or not isinstance(value, int | float):
            return
        of_ours = ALIASES.get(name, name)  # whose own range the request checks
        if (of_ours not in BY_NAME or of_ours in self._settings.limits) and not item.ge <= value <= item.le:
            raise UserError(f"{name}={value:g}: expected {item.ge:g} to {item.le:g}")

    def _parsed(self, values: Mapping[str, Any], files: dict[str, str]) -> dict[str, Any]:
        """Values of options, with names of models as they were written."""
        values = dict(values)
        frames = values.pop("keyframe_indices", None)
        found: dict[str, Any] = {}
        for name, value in values.items():
            option = BY_NAME[name]
            if option.in_memory:
                many = self.inputs[name].many
                paths = [_sent(one, name) for one in (value if many else [value])]
                files |= dict.fromkeys(paths, name)
                found[name] = paths if many else paths[0]
            elif option.parse is not None:
                found[name] = _parse(option, value)
            else:
                found[name] = value
        images = found.get("keyframes")
        if (images is None) != (frames is None) or len(images or ()) != len(frames or ()):
            raise UserError(
                f"keyframes has {len(images or ())} images and keyframe_indices {len(frames or ())} frames; give one "
                "frame for each image"
            )
        if images is not None:
            found["keyframes"] = [{"frame": at, "path": path} for at, path in zip(frames or (), images, strict=True)]
        return found

    def _move(self, values: dict[str, Any], moves: Mapping[str, float], given: set[str | None]) -> None:
        """Put the camera moves among the MotionLoRAs. given: moves that are there."""
        shown = {move: f"{name}_motion_strength" for name, move in MOVES.items()}
        for move, scale in moves.items():
            if not scale:
                continue
            if move in given:
                raise UserError(f"{shown[move]} and motion_loras both give {move}; give one of them")
            lora = {"path": self._camera_move(move, values, shown[move]), "scale": scale}
            values["motion_loras"] = [*values.get("motion_loras", ()), lora]

    def _resolved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with files in place of names of models."""

        def found(name: str, setting: str, _: str) -> str:
            if setting == "camera":
                raise UserError("`camera` takes moves such as zoom-in:0.5 here, and no files of poses")
            if setting not in PLACES:
                return name
            if setting == "motion_loras" and (move := is_move(name)) is not None:
                return self._camera_move(move, values, setting)
            return self._models.find(name, setting)

        return with_files(dict(values), found)

    def _camera_move(self, move: str, values: Mapping[str, Any], shown: str) -> str:
        model, motion_module = values.get("model"), values.get("motion_module")
        return self._models.camera_move(move, model=model, motion_module=motion_module, shown=shown)

    def _size(self, aspect: str, values: Mapping[str, Any]) -> dict[str, int]:
        """Width and height of an aspect: beside one that is given, or of the pixels that the model was trained on."""
        width, height = values.get("width"), values.get("height")
        if width is not None and height is not None:
            raise UserError(f"aspect={aspect}, width and height are given; give width and height alone")
        if width is not None:
            return {"height": max(8, round(width / ASPECTS[aspect] / 8) * 8)}
        if height is not None:
            return {"width": max(8, round(height * ASPECTS[aspect] / 8) * 8)}
        width, height = size_of(aspect, _trained_side(values.get("model"), values.get("motion_module")))
        return {"width": width, "height": height}


def in_our_names(text: str, files: Mapping[str, str], models: Path) -> str:
    """A message with our inputs' names in place of settings, of the files that were sent, and of the models' folder."""
    for path, name in files.items():
        text = text.replace(path, name).replace(Path(path).name, name)
    text = text.replace(str(set_path()), "bundled")
    for folder in (models, models.parent, bundled_path().parent):
        text = text.replace(f"{folder}/", "")
    return renamed(text, NAMES).replace("`", "")


def _parse(option: Option, value: Any) -> Any:
    assert option.parse is not None
    try:
        return option.parse(value)
    except UserError as error:
        raise UserError(f"{option.name}: {error}") from None


def _sent(value: Any, name: str) -> str:
    """The file of an input. Cog leaves texts that are no addresses as they are; they must not name files of ours."""
    if isinstance(value, str) or not isinstance(value, os.PathLike):
        raise UserError(f"{name}: expected the address of a file (https://...) or a data URL, got {brief(value)}")
    return os.fspath(value)


def _moves(model: Path) -> bool:
    """Whether a folder has a motion module of its own."""
    return (model / "motion_adapter").is_dir()


def _trained_side(model: str | None, motion_module: str | None) -> int:
    from animatediff.weights.inspect import describe

    if is_bundled(model) or (model is None and motion_module is None):
        return _BUNDLED_SIDE
    made_for = str(describe(model or str(motion_module)).get("made_for"))
    return _SIDES.get(made_for, 512)
