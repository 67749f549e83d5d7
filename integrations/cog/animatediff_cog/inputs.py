"""Every input of the Cog model, made from the options of a request.

An input is one parameter of `Runner.run`, with what Cog's `Input(...)` says of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from animatediff.media.formats import FORMATS
from animatediff.render.declare import Option
from animatediff.render.options import BY_NAME, OPTIONS
from animatediff.server.catalog import PLACES

from .models import Models
from .settings import Settings

_BY_DEPLOYER = "whoever deploys the model decides it"
NOT_HERE = {
    "out": "the result is the output of the prediction; `output_format` chooses mp4, gif, webm or another",
    "name": "the result is the output of the prediction, and needs no title",
    "download": "nothing is fetched while a prediction runs; models are put into models/ when the image is built",
    "device": _BY_DEPLOYER,
    "inference_config": "it names a file of the original that is only compared; its values are known from the weights",
    "sparsectrl_config": "it names a file of the original that is only compared; its values are known from the weights",
    "camera_aspect": "it is of files of poses, and a prediction takes moves by name",
    "video_by_number": "it takes a folder of numbered images, and a prediction gets single files",
    "controlnet_spread": "it takes a folder of numbered images, and a prediction gets single files",
}
"""Options that are no inputs, and why."""
SUFFIXES = {name: f".{name}" for name in dict.fromkeys(FORMATS.values())}
"""Word of `output_format` -> suffix of the file."""
MOVES = {
    "zoom_in": "ZoomIn",
    "zoom_out": "ZoomOut",
    "pan_left": "PanLeft",
    "pan_right": "PanRight",
    "pan_up": "TiltUp",
    "pan_down": "TiltDown",
    "rolling_clockwise": "RollingClockwise",
    "rolling_anticlockwise": "RollingAnticlockwise",
}
"""`{this}_motion_strength` -> the MotionLoRA that it is the scale of."""
ABOVE = 0.001
"""Smallest distance from a bound that a value must be above; Cog knows bounds that belong to their range alone."""
ACCEPT = {"image": "image/*", "video": "video/*,image/*"}
ORDER = (
    *("Prompts", "Image and motion", "Animate an image", "Video to start from", "Model", "Long clips and loops"),
    *("Images to show", "Portraits and poses", "Movement of a video", "ControlNet", "Path of the camera", "Upscale"),
    *("Output", "Machine"),
)
"""Panels of options, as they follow one another in a form."""
LONGER = {
    "prompt": "What to show.",
    "negative_prompt": "What to avoid.",
    "prompt_travel": "Texts at later frames, such as 12=summer.",
    "seed": "-1, or none, is random; the seed that was used is among the metrics and in the logs.",
    "model": "Image model.",
    "motion_module": "Motion module; the bundled one goes with the bundled model alone.",
    "vae": "VAE in place of the model's own.",
    "loras": "LoRAs of the image model, each NAME or NAME:SCALE.",
    "motion_loras": "MotionLoRAs, each NAME or NAME:SCALE; the eight camera moves are ZoomIn, PanLeft, ....",
    "domain_adapter": "Domain adapter of v3, NAME or NAME:SCALE.",
    "embeddings": "Textual inversions, each NAME or NAME:TOKEN.",
    "upscaler": "Enlarge the finished frames.",
    "motion_scale": "How much motion modules add: 1.2, or along the clip 0=1.0,15=0.3.",
    "control_images": "Images that the clip shows.",
    "control_indices": "At which frames, one for each image; -1 is the last.",
    "keyframes": "Images of any frames.",
    "ip_adapter_image": "Images for the IP-Adapter (image).",
    "drive": "Video that leads the clip, with `image` for its looks: a ControlNet and an IP-Adapter of this model.",
    "drive_kind": "What is followed: auto, pose, lineart, softedge, canny, scribble, depth or normal.",
    "controlnet": "ControlNets.",
    "controlnet_video": "Videos that they follow; one, or one for each.",
    "controlnet_preprocess": "Make sketches of their frames: scribble, canny, openpose or none; one, or one for each.",
    "controlnet_scale": "How strongly each acts.",
    "controlnet_start": "Fraction of the steps from which on each acts.",
    "controlnet_end": "Fraction of the steps up to which each acts.",
    "camera": "Path of the camera: moves such as zoom-in:0.5, pan-left:0.2@ease-in-out.",
    "video": "Video or animated image to start from.",
    "video_start": "Where to begin in it, in seconds.",
    "video_duration": "How much of it to take, in seconds.",
    "ip_adapter_encoder": "Its CLIP image encoder, a folder (beside it). By its name in models/IP-Adapter.",
}
"""Descriptions where the one for a command line does not fit."""


@dataclass(frozen=True, kw_only=True)
class CogInput:
    """One input."""

    name: str
    kind: str
    """`str`, `int`, `float`, `bool` or `Path`."""
    description: str
    many: bool = False
    required: bool = False
    default: Any = None
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] | None = None
    accept: str | None = None
    deprecated: bool = False

    @property
    def annotation(self) -> str:
        """Of the parameter."""
        kind = f"list[{self.kind}]" if self.many else self.kind
        return kind if self.required or self.default is not None else f"{kind} | None"


@cache
def options_taken() -> tuple[str, ...]:
    """Options that are inputs, in the order of the form."""
    shown = sorted(OPTIONS, key=lambda option: ORDER.index(option.panel))
    return tuple(option.name for option in shown if option.name not in NOT_HERE)


def settable() -> list[str]:
    """Inputs that `settings.yaml` may say something of."""
    return ["output_format", *(name for name in options_taken() if not BY_NAME[name].in_memory)]


def own_inputs(settings: Settings) -> list[CogInput]:
    """Inputs under our names."""
    models = Models(settings.models)
    return [
        found
        for panel, options in groupby((BY_NAME[name] for name in options_taken()), key=lambda option: option.panel)
        for found in (
            *_first_of(panel, settings),
            *(one for option in options for one in _inputs_of(option, settings, models)),
        )
    ]


def _first_of(panel: str, settings: Settings) -> Iterator[CogInput]:
    """Inputs that are no option, before those of a panel."""
    if panel == "Output":
        format = settings.defaults.get("output_format", "mp4")
        yield CogInput(
            name="output_format",
            kind="str",
            description=f"Format of the result ({format}).",
            choices=tuple(SUFFIXES),
        )
    if panel == "Model":
        for name, move in MOVES.items():
            yield CogInput(
                name=f"{name}_motion_strength",
                kind="float",
                default=0.0,
                description=f"Camera move: the scale of the MotionLoRA {move}; 0 is none.",
                ge=0,
                le=1,
            )


def _inputs_of(option: Option, settings: Settings, models: Models) -> Iterator[CogInput]:
    name, kind = option.name, _kind_of(option)
    many = option.many and not (option.per_clip and name != "prompt_travel")
    yield CogInput(
        name=name,
        kind=kind,
        many=many,
        required=option.required,
        default=_default_of(option, many, settings.defaults),
        description=_described(option, many, settings.defaults),
        choices=_choices_of(option, many, models),
        accept=ACCEPT.get(option.in_memory),
        **_bounds_of(option, kind, many, settings.limits),
    )
    if name == "keyframes":
        yield CogInput(
            name="keyframe_indices",
            kind="int",
            many=True,
            description="At which frames `keyframes` stand, one for each image; -1 is the last.",
        )


def _kind_of(option: Option) -> str:
    if option.in_memory:
        return "Path"
    return "str" if option.name == "motion_scale" else option.entry.__name__


def _default_of(option: Option, many: bool, defaults: Mapping[str, Any]) -> Any:
    """The default in Cog's own place; None where it must show that the input, or one by another name, was left out."""
    if option.required or many or option.name in ("motion_scale", "prompt_travel"):
        return None
    value = option.default[0] if isinstance(option.default, tuple) else option.default  # of those with one a clip
    return value if value in (None, "") else defaults.get(option.name, value)


def _described(option: Option, many: bool, defaults: Mapping[str, Any]) -> str:
    """What an input is for, with the default where Cog's own place for it stays empty."""
    text = LONGER.get(option.name, option.help)
    default = option.unset if option.name not in LONGER else ""
    if many and isinstance(option.default, tuple) and len(option.default) == 1:
        default = str(option.default[0])
    if option.name in defaults and _default_of(option, many, defaults) is None:
        default = str(defaults[option.name])
    text = f"{text.removesuffix('.')} ({default})." if default else text
    if (folders := PLACES.get(option.name)) and option.name != "ip_adapter_encoder":
        text += f" By {'their names' if many else 'its name'} in {' or '.join(f'models/{name}' for name in folders)}."
    return text


def _choices_of(option: Option, many: bool, models: Models) -> tuple[str, ...] | None:
    """Words of an input, where there are two at least; Cog knows none for lists."""
    if many:
        return None
    choices = models.choices(option.name) if option.name in ("model", "motion_module") else option.choices
    return choices if choices and len(choices) > 1 else None


def _bounds_of(option: Option, kind: str, many: bool, limits: Mapping[str, float]) -> dict[str, Any]:
    """The range, as far as Cog knows it: with its bounds, and for single numbers."""
    if many or kind not in ("int", "float"):
        return {}
    low = high = None
    if (within := option.range) is not None and within.choices is None:
        low = within.ge if within.gt is None else within.gt + ABOVE
        high = within.le
    if option.name in limits:
        high = limits[option.name]
    number = int if kind == "int" else float
    return {name: number(value) for name, value in (("ge", low), ("le", high)) if value is not None}
