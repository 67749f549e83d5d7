"""All settings of the extension: names in the API, labels on the page, defaults and ranges, in one table.

Names, labels and defaults are those that users of sd-webui-animatediff know, so that their scripts and the text in
their files go on working.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from animatediff.errors import UserError, brief, did_you_mean

FORMATS = ("GIF", "MP4", "WEBP", "WEBM", "PNG", "TXT")
"""What is written: animations, a folder of frames, the settings as text."""
FRAME = "Frame"
"""A format of the API alone: the frames themselves come back."""
CLOSED_LOOPS = ("N", "R-P", "R+P", "A")
INTERPOLATIONS = ("Off", "FILM")
FREEINIT_FILTERS = ("butterworth", "gaussian", "box", "ideal")
INFOTEXT_NAME = "AnimateDiff"
"""Name of the entry in the text that hosts keep with an image."""
DEFAULT_MODEL = "mm_sd15_v3.safetensors"
FACTS_ALONE = ("mm_hash", "version")
"""Parts of the infotext that are no settings."""
_REQUEST_ID = re.compile(r"[\w-]{0,64}")
"""It is a part of file names."""
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_PART = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What page, API and infotext need to know of a setting."""

    label: str
    kind: type = str
    minimum: float | None = None
    maximum: float | None = None
    step: float = 1
    choices: tuple[str, ...] = ()
    info: str = ""
    infotext: bool = False
    """Whether it is written there."""
    img2img: bool = False
    """Whether it is on that tab alone."""
    page: bool = True
    """Whether the page has it."""


def _setting(default: Any, label: str, **facts: Any) -> Any:
    kind = facts.pop("kind", type(default))
    return field(default=default, metadata={"facts": Facts(label=label, kind=kind, **facts)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What users say; names of fields are the keys of the API. Made by `from_api`, `from_ui` and `from_infotext`."""

    enable: bool = _setting(False, "Enable AnimateDiff")
    model: str = _setting(DEFAULT_MODEL, "Motion module", infotext=True)
    format: tuple[str, ...] = _setting(("GIF", "PNG"), "Save format", choices=(*FORMATS, FRAME))
    video_length: int = _setting(
        0,
        "Number of frames",
        minimum=0,
        maximum=4096,
        infotext=True,
        info="0: the context batch size, or all of the video",
    )
    fps: int = _setting(8, "FPS", minimum=1, maximum=240, infotext=True, info="Frames per second of the file")
    loop_number: int = _setting(
        0,
        "Display loop number",
        minimum=0,
        maximum=65535,
        infotext=True,
        info="Times that GIF and WEBP play; 0: for ever",
    )
    closed_loop: str = _setting(
        "R-P",
        "Closed loop",
        choices=CLOSED_LOOPS,
        infotext=True,
        info="N: none. R-P, R+P, A: windows of a long clip go round. R+P, A: prompts too. A: a short clip runs back.",
    )
    batch_size: int = _setting(
        16,
        "Context batch size",
        minimum=1,
        maximum=32,
        infotext=True,
        info="Frames that the motion module sees at once",
    )
    stride: int = _setting(
        1, "Stride", minimum=1, maximum=32, infotext=True, info="2 and more: also windows of every second frame, ..."
    )
    overlap: int = _setting(
        -1,
        "Overlap",
        minimum=-1,
        maximum=31,
        infotext=True,
        info="Frames that windows share; -1: a quarter of a window",
    )
    interp: str = _setting("Off", "Frame Interpolation", choices=INTERPOLATIONS, infotext=True)
    interp_x: int = _setting(
        10, "Interp X", minimum=1, maximum=10, infotext=True, info="Frames for each one, where interpolation is on"
    )
    freeinit_enable: bool = _setting(False, "Enable FreeInit", infotext=True)
    freeinit_filter: str = _setting("butterworth", "Filter Type", choices=FREEINIT_FILTERS, infotext=True)
    freeinit_ds: float = _setting(0.25, "d_s", minimum=0.0, maximum=1.0, step=0.01, infotext=True)
    freeinit_dt: float = _setting(0.25, "d_t", minimum=0.0, maximum=1.0, step=0.01, infotext=True)
    freeinit_iters: int = _setting(3, "FreeInit Iterations", minimum=2, maximum=5, infotext=True)
    video_source: str = _setting("", "Video source", img2img=True)
    video_path: str = _setting(
        "", "Video path", img2img=True, info="Or a video, or a folder of images, on the machine that this page runs on"
    )
    mask_path: str = _setting("", "Mask path", page=False)
    latent_power: float = _setting(
        1.0, "Latent power", minimum=0.1, maximum=10.0, step=0.1, img2img=True, infotext=True
    )
    latent_scale: float = _setting(
        32.0, "Latent scale", minimum=1.0, maximum=128.0, step=0.1, img2img=True, infotext=True
    )
    last_frame: Any = field(
        default=None, metadata={"facts": Facts(label="Optional last frame", kind=object, img2img=True)}
    )
    latent_power_last: float = _setting(
        1.0, "Latent power of last frame", minimum=0.1, maximum=10.0, step=0.1, img2img=True, infotext=True
    )
    latent_scale_last: float = _setting(
        32.0, "Latent scale of last frame", minimum=1.0, maximum=128.0, step=0.1, img2img=True, infotext=True
    )
    request_id: str = _setting("", "Request id", page=False)

    @classmethod
    def from_api(cls, given: Any) -> Settings:
        """Settings of a mapping, by the names of the API; what it leaves out has its default.

        Raises UserError, one for all that is wrong: unknown names, values of another type or out of range.
        """
        if not isinstance(given, Mapping):
            raise UserError(f"AnimateDiff: args[0] is an object of settings, got {brief(given)}")
        return cls._read(given, in_text=False)

    @classmethod
    def from_ui(cls, values: Sequence[Any], *, img2img: bool) -> Settings:
        """Settings of the page's components, in the order of `page_names`. Raises UserError as `from_api`.

        Where the first value is a mapping, the API was called: then that is all.
        """
        if values and isinstance(values[0], Mapping):
            return cls.from_api(values[0])
        names = page_names(img2img=img2img)
        if len(values) != len(names):
            raise UserError(f"AnimateDiff: {len(values)} values for {len(names)} settings; reload the page")
        given = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        return cls._read(given, in_text=False)

    @classmethod
    def from_infotext(cls, text: str) -> tuple[dict[str, Any], list[str]]:
        """Settings that the entry in a host's infotext states, and the names in it that are none of them.

        Raises UserError for values that cannot be read.
        """
        stated = parts_of(text)
        strange = [name for name in stated if name not in FACTS and name not in FACTS_ALONE]
        given = {name: value for name, value in stated.items() if name in FACTS}
        read = cls._read(given, in_text=True)
        return {name: getattr(read, name) for name in given}, strange

    @classmethod
    def _read(cls, given: Mapping[Any, Any], *, in_text: bool) -> Settings:
        wrong, read = [], {}
        for name, value in given.items():
            if name not in FACTS:
                hint = did_you_mean(name, FACTS) if isinstance(name, str) else ""
                wrong.append(f"unknown setting {brief(name)}; {hint}known are {', '.join(FACTS)}")
                continue
            try:
                read[name] = _value(name, value, in_text=in_text)
            except UserError as error:
                wrong.append(str(error))
        if wrong:
            raise UserError(f"AnimateDiff: {'; '.join(wrong)}")
        return cls(**read)

    def to_infotext(self, **facts: object) -> str:
        """The entry for a host's infotext: settings that change the result, then `facts` such as the file's hash.

        Those of FreeInit and of the initial images are written where they act.
        """
        names = [name for name, fact in FACTS.items() if fact.infotext]
        if not self.freeinit_enable:
            names = [name for name in names if not name.startswith("freeinit_") or name == "freeinit_enable"]
        names = [name for name in names if not FACTS[name].img2img or getattr(self, name) != DEFAULTS[name]]
        stated = {name: getattr(self, name) for name in names} | facts
        return ", ".join(f"{name}: {_quoted(str(value))}" for name, value in stated.items())


FACTS: dict[str, Facts] = {part.name: part.metadata["facts"] for part in fields(Settings)}
"""Name -> what is known of the setting, in the order of the page."""
DEFAULTS: dict[str, Any] = {part.name: part.default for part in fields(Settings)}


def page_names(*, img2img: bool) -> list[str]:
    """Names of the settings that a tab of the page has, in its order."""
    return [name for name, facts in FACTS.items() if facts.page and (img2img or not facts.img2img)]


def said(name: str) -> str:
    """A setting by both of its names, for messages.

    >>> said("video_length")
    'Number of frames (video_length)'
    """
    return f"{FACTS[name].label} ({name})"


def parts_of(text: str) -> dict[str, str]:
    """Names and values of `name: value, name: "quoted, value"`. Quoted text that is no JSON stays as it is written.

    >>> parts_of('model: "a, b.ckpt", fps: 8')
    {'model': 'a, b.ckpt', 'fps': '8'}
    """
    found = {}
    for name, value in _PART.findall(text):
        found[name.strip()] = _unquoted(value) if value.startswith('"') else value.strip()
    return found


def _unquoted(value: str) -> str:
    try:
        return json.loads(value)
    except ValueError:  # written by hand: a backslash alone, no mark at the end
        return value.strip().strip('"')


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,:"\n]', value) or value != value.strip() else value


def _value(name: str, value: Any, *, in_text: bool) -> Any:
    """The value of a setting in its type. Raises UserError that names the setting and says what is expected."""
    facts = FACTS[name]
    if name == "format":
        return _formats(value, in_text=in_text)
    if facts.kind is object:
        return value
    if facts.kind is bool:
        known = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
        read = known.get(value.lower()) if in_text and isinstance(value, str) else value
        if not isinstance(read, bool):
            raise UserError(f"{said(name)} is true or false, got {brief(value)}")
        return read
    if facts.kind is str:
        return _text(name, value)
    return _number(name, value, in_text=in_text)


def _text(name: str, value: Any) -> str:
    facts = FACTS[name]
    if name == "video_source" and value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{said(name)} is a text, got {brief(value)}")
    if name == "request_id" and not _REQUEST_ID.fullmatch(value):
        raise UserError(f"{said(name)} is at most 64 letters, digits, - and _, got {brief(value)}")
    if facts.choices and value not in facts.choices:
        hint = did_you_mean(value, facts.choices)
        raise UserError(f"{said(name)} is one of {', '.join(facts.choices)}, got {value!r}; {hint}".rstrip("; "))
    return value


def _number(name: str, value: Any, *, in_text: bool) -> int | float:
    facts = FACTS[name]
    what = "a whole number" if facts.kind is int else "a number"
    assert facts.minimum is not None and facts.maximum is not None
    wanted = f"{said(name)} is {what} from {facts.minimum:g} to {facts.maximum:g}"
    try:
        number = (
            float(value) if in_text or (isinstance(value, int | float) and not isinstance(value, bool)) else math.nan
        )
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not facts.minimum <= number <= facts.maximum or (facts.kind is int and number != int(number)):
        raise UserError(f"{wanted}, got {brief(value)}")
    return facts.kind(number)


def _formats(value: Any, *, in_text: bool) -> tuple[str, ...]:
    known = FACTS["format"].choices
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")] if in_text else [value]
    if not isinstance(value, list | tuple):
        raise UserError(f"{said('format')} is a list of {', '.join(known)}, got {brief(value)}")
    spelled = {choice.lower(): choice for choice in known}
    for one in value:
        if not isinstance(one, str) or one.lower() not in spelled:
            hint = did_you_mean(one, known) if isinstance(one, str) else ""
            raise UserError(f"{said('format')}: unknown format {brief(one)}; {hint}known are {', '.join(known)}")
    if not value:
        raise UserError(f"{said('format')}: choose at least one of {', '.join(known)}")
    return tuple(dict.fromkeys(spelled[one.lower()] for one in value))
