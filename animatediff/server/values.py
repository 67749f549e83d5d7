"""From a client's request to the values of an `AnimateRequest`: names looked up, files taken, nothing dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from animatediff.bundled import CAMERA_MOVES, PREFIX
from animatediff.errors import UserError, brief, did_you_mean
from animatediff.media.write import check_output, check_takes_sound
from animatediff.render.options import BY_NAME, IN_MEMORY, PER_CLIP
from animatediff.render.portable import with_files
from animatediff.render.request import AnimateRequest, build_request
from animatediff.server import derived
from animatediff.server.catalog import BUNDLED, PLACES, Catalog
from animatediff.server.errors import ApiError, refused
from animatediff.server.form import Body
from animatediff.server.schema import EXTRA, FORMATS, NAMES, NOT_HERE, REFUSED, TOP, LoraRef, Reference, VideoRequest
from animatediff.server.sent import Sent
from animatediff.server.settings import Settings
from animatediff.server.uploads import ANY, IMAGE, REFERENCES, VIDEO, Uploads, from_data_url

VIDEOS = tuple(name for name in IN_MEMORY if BY_NAME[name].in_memory == "video")
_KEYFRAME = re.compile(r"keyframes\[(-?\d{1,6})\]", re.ASCII)
BUNDLED_MOVES = {PREFIX + move for move in CAMERA_MOVES}
_PART = "part:"


@dataclass(frozen=True)
class Asked:
    """A request that will do."""

    options: dict[str, Any]
    """Values for `build_request`, files as paths."""
    shown: dict[str, Any]
    """What the client is told of it."""


class Reader:
    """Reads requests against the models and the bounds of one service."""

    def __init__(self, settings: Settings, catalog: Catalog) -> None:
        self._settings, self._catalog = settings, catalog

    def read(self, body: Body, uploads: Uploads) -> Asked:
        """The job that a body asks for. Raises ApiError that names the field."""
        sent = Sent()
        files = _Files(body, uploads, sent)
        wire = _wire(body.values)
        options = self._options(wire, files, sent)
        files.check_all_taken()
        try:
            request = build_request(options)
            _check_output(request, f"result.{wire.output_format}")
        except UserError as error:
            raise sent.refused(error) from error
        self._check_bounds(request, sent)
        shown = {
            "model": wire.model or self._settings.model or BUNDLED,
            "prompt": wire.prompt,
            "size": f"{request.width}x{request.height}" if request.width and request.height else None,
            "seconds": _seconds(request),
            "output_format": wire.output_format,
            "user": wire.user,
            "sent": sent.stored(),
        }
        return Asked(options, shown)

    def _options(self, wire: VideoRequest, files: _Files, sent: Sent) -> dict[str, Any]:
        values = _extra(wire.extra_params)
        for option in values:
            sent.put(f"extra_params.{option}", [option])
        given = {field: getattr(wire, field) for field in TOP}
        given["model"] = wire.model or self._settings.model
        for field, option in TOP.items():
            if given[field] is None:
                continue
            if option in values:
                raise refused(f"{field} is given twice: beside extra_params, and in it as {option}", field)
            values[option] = given[field]
        values |= derived.size(wire, values, sent) | derived.length(wire, values, sent)
        has_video = "video" in values or bool(wire.video_reference)
        values |= derived.interpolation(wire, values, sent, has_video=has_video)
        for field, wanted in REFERENCES.items():
            self._refer(values, field, getattr(wire, field), wanted, files, sent)
        before = {name: sent.name(name) for name in values}
        for name, places in files.of_options().items():
            if name in values:
                raise refused(f"{sent.name(name)} is given twice: as a file, and as {before[name]}", sent.name(name))
            values[name] = places if BY_NAME[name].many else _single(sent.name(name), places)
        self._add_loras(values, wire.lora, sent)
        if "motion_module" not in values and self._settings.motion_module is not None:
            values["motion_module"] = self._settings.motion_module
        return self._resolved(values, files, sent)

    def _refer(self, values: dict[str, Any], field: str, given: Any, wanted: str, files: _Files, sent: Sent) -> None:
        content = files.take(field)
        if content is not None and given is not None:
            raise refused(f"{field} is given twice: as a file, and as a value", field)
        if content is None:
            if (text := _reference(given, field)) is None:
                return
            content = from_data_url(text, field)
        kind, path = files.uploads.take(content, wanted, field)
        option = "image" if kind == IMAGE else "video"
        if option in values:
            raise refused(f"{field}: this request has {sent.name(option)} already; give one of them", field)
        values[option] = files.stored(path)
        sent.put(field, [option])

    def _add_loras(self, values: dict[str, Any], given: LoraRef | list[LoraRef] | None, sent: Sent) -> None:
        """LoRAs of the field `lora` beside those of `extra_params`; the catalog tells which are MotionLoRAs."""
        refs = given if isinstance(given, list) else [given] if given is not None else []
        for ref in refs:
            setting = self._kind_of_lora(ref.name)
            if setting not in values:
                sent.put("lora", [setting])
            there = values.get(setting) or []
            there = list(there) if isinstance(there, list | tuple) else [there]
            values[setting] = [*there, {"path": ref.name, "scale": ref.scale}]

    def _kind_of_lora(self, name: str) -> str:
        """The setting that a LoRA's name belongs to. Raises ApiError for a name of both kinds, or of none."""
        found = {}
        for setting in ("loras", "motion_loras"):
            with suppress(ApiError):
                found[setting] = self._catalog.find(name, setting, "lora")
        if len(set(found.values())) > 1:
            raise refused(f"lora: {name!r} is a LoRA and a MotionLoRA here; write its folder before it", "lora")
        if not found:
            self._catalog.find(name, "loras", "lora")
        is_move = "loras" not in found or Path(found["loras"]).parent.name == "MotionLoRA" or name in BUNDLED_MOVES
        return "motion_loras" if is_move else "loras"

    def _resolved(self, values: Mapping[str, Any], files: _Files, sent: Sent) -> dict[str, Any]:
        """The values with files in place of models' names and of files sent."""

        def found(name: str, setting: str, place: str) -> str:
            param = sent.name(setting)
            if setting == "camera":
                raise refused(f"{param} takes moves such as zoom-in:0.5 here, and no files of poses or videos", param)
            if setting in PLACES:
                return self._catalog.find(name, setting, param)
            if (path := files.path_of(name)) is not None:
                return path
            wanted = VIDEO if setting in VIDEOS else IMAGE
            if setting == "controlnet_video":
                wanted = ANY  # a single image holds as long as the clip lasts
            where = param + place.removeprefix(setting)
            return files.uploads.take(from_data_url(name, where), wanted, where)[1]

        return with_files({name: _in_full(name, value, sent) for name, value in values.items()}, found)

    def _check_bounds(self, request: AnimateRequest, sent: Sent) -> None:
        if request.num_clips != 1:
            several = next(name for name in PER_CLIP if len(getattr(request, name)) > 1)
            raise refused(
                f"{request.num_clips} clips are asked for; one job is one video, so give one seed, one negative prompt "
                "and one prompt_travel",
                sent.name(several),
            )
        most, longest = self._settings.max_steps, self._settings.max_side
        for name, side in (("width", request.width), ("height", request.height)):
            if (pixels := (side or 8) * (request.upscale or 1.0)) > longest:
                error = f"{name}: {pixels:,.0f} pixels, and this server makes at most {longest:,} a side"
                raise sent.refused(UserError(error))
        for name in ("steps", "upscale_steps"):
            if (steps := getattr(request, name)) is not None and steps > most:
                raise sent.refused(UserError(f"{name}={steps}: this server makes at most {most} steps"))


class _Files:
    """Files of a form, until the options that they belong to are known."""

    def __init__(self, body: Body, uploads: Uploads, sent: Sent) -> None:
        self.uploads, self._sent = uploads, sent
        self._left = list(body.files)
        self._stored: dict[str, str] = {}

    def stored(self, path: str) -> str:
        """A mark that stands for a file already judged; no client can write it."""
        mark = f"{_PART}{len(self._stored)}"
        self._stored[mark] = path
        return mark

    def path_of(self, mark: str) -> str | None:
        return self._stored.get(mark)

    def take(self, field: str) -> bytes | None:
        """The one file of a field."""
        own = [content for name, content in self._left if name == field]
        if len(own) > 1:
            raise refused(f"{field}: {len(own)} files, expected one", field)
        self._left = [pair for pair in self._left if pair[0] != field]
        return own[0] if own else None

    def of_options(self) -> dict[str, list[Any]]:
        """The files of fields that bear the names of options: `control_images`, `keyframes[8]`."""
        found: dict[str, list[Any]] = {}
        rest = []
        for field, content in self._left:
            keyframe = _KEYFRAME.fullmatch(field)
            name = "keyframes" if keyframe else field.removeprefix("extra_params[").removesuffix("]").removesuffix("[]")
            if name not in IN_MEMORY or (name == "keyframes" and not keyframe):
                rest.append((field, content))
                continue
            wanted = ANY if name == "controlnet_video" else BY_NAME[name].in_memory
            self._sent.put(NAMES[name] if field.startswith("extra_params[") else name, [name])
            mark = self.stored(self.uploads.take(content, wanted, self._sent.name(name))[1])
            found.setdefault(name, []).append({"frame": int(keyframe[1]), "path": mark} if keyframe else mark)
        self._left = rest
        return found

    def check_all_taken(self) -> None:
        """Raise ApiError for a file under a field that takes none."""
        if self._left:
            field = self._left[0][0][:80]
            known = [*REFERENCES, *IN_MEMORY]
            names = ", ".join(known)
            raise refused(
                f"{field!r} takes no file; {did_you_mean(field, known)}files go under {names} (keyframes[8])",
                field,
                "unknown_parameter",
            )


def _wire(values: Mapping[str, Any]) -> VideoRequest:
    known = VideoRequest.model_fields
    for name in values:
        if name in NOT_HERE:
            raise refused(f"{name}: {NOT_HERE[name]}", name, "unsupported_parameter")
        if name not in known:
            if name in REFUSED:
                raise refused(f"{name} is not taken: {REFUSED[name]}", name, "unsupported_parameter")
            hint = f"it belongs into extra_params, as extra_params.{name}" if name in EXTRA else ""
            hint = hint or did_you_mean(name[:80], known) + f"known are {', '.join(known)}"
            raise refused(f"unknown field {name[:80]!r}; {hint}", name[:80], "unknown_parameter")
    try:
        wire = VideoRequest.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = [str(part) for part in first["loc"] if str(part) in known or isinstance(part, int)]
        name = place[0] if place else "the body"
        if first["type"] == "missing":
            raise refused(f"{'.'.join(map(str, first['loc']))} is missing", name) from error
        text = first["msg"][:1].lower() + first["msg"][1:]
        raise refused(f"{name}={brief(first['input'])}: {text}", name) from error
    if wire.output_format not in FORMATS:
        hint = did_you_mean(wire.output_format[:80], FORMATS)
        raise refused(
            f"output_format={wire.output_format[:80]!r}: {hint}known are {', '.join(FORMATS)}", "output_format"
        )
    return replace_blank(wire)


def replace_blank(wire: VideoRequest) -> VideoRequest:
    """The request with nothing in place of an empty model."""
    return wire.model_copy(update={"model": None}) if wire.model is not None and not wire.model.strip() else wire


def _extra(given: Mapping[str, Any]) -> dict[str, Any]:
    for name in given:
        if name in REFUSED:
            raise refused(
                f"extra_params.{name} is not taken: {REFUSED[name]}", f"extra_params.{name}", "unsupported_parameter"
            )
        if name not in EXTRA:
            field = TOP.get(name)
            hint = f"it stands beside extra_params, or in it as {field}" if field else did_you_mean(name[:80], EXTRA)
            raise refused(
                f"extra_params: unknown option {name[:80]!r}; {hint or 'see /openapi.json'}",
                f"extra_params.{name[:80]}",
                "unknown_parameter",
            )
    return {name: value for name, value in given.items() if value is not None}


def _check_output(request: AnimateRequest, file: str) -> None:
    """Raise UserError where the format that is asked for does not hold what else is asked for."""
    check_output(file, request.codec, request.max_size)
    if request.audio:
        check_takes_sound(file)


def _seconds(request: AnimateRequest) -> str | None:
    if request.num_frames is None or request.fps is None:
        return None
    return f"{request.num_frames / request.fps:g}"


def _reference(given: str | Reference | None, field: str) -> str | None:
    if given is None or isinstance(given, str):
        return given or None
    if given.file_id is not None:
        raise refused(f"{field}.file_id: no files are kept here; send the file itself", field)
    urls = [url for url in (given.image_url, given.video_url) if url is not None]
    if len(urls) != 1:
        raise refused(f"{field}: expected image_url or video_url, one of them", field)
    return urls[0]


def _single(name: str, places: list[Any]) -> Any:
    if len(places) > 1:
        raise refused(f"{name}: {len(places)} files, expected one", name)
    return places[0]


def _in_full(name: str, value: Any, sent: Sent) -> Any:
    """A value without the short forms in which a name of a file stands among other things."""
    option = BY_NAME[name]
    if option.folder is None or option.convert is None:
        return value
    try:
        return option.convert(value)
    except (UserError, ValueError, TypeError) as error:
        raise refused(f"{sent.name(name)}: {error}", sent.name(name)) from error
