"""What the all-in-one node does: its fields to a request, the request to frames by the renderer of all front ends."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
import torch

from animatediff.bundled import is_bundled
from animatediff.errors import UserError, did_you_mean
from animatediff.files import Roots
from animatediff.media.upscale import PUBLISHED as UPSCALERS
from animatediff.parse import parse_yaml
from animatediff.prompts.lines import read_travel
from animatediff.render import Renderer, build_request
from animatediff.render.events import Event
from animatediff.render.options import FIELDS, PATH_FIELDS, names_file
from animatediff.render.request_inputs import is_pixels
from animatediff.weights.hub import MOTION_LORAS as MOVES

from .folders import (
    ADAPTERS,
    CAMERAS,
    MOTION_LORAS,
    MOTION_MODULES,
    SPARSECTRLS,
    file_path,
    files,
    input_file,
)
from .messages import OF_FIELDS, in_words

FOLDERS: dict[str, tuple[str, ...]] = {
    "model": ("checkpoints",),
    "motion_module": MOTION_MODULES,
    "vae": ("vae",),
    "text_encoder": ("text_encoders",),
    "text_encoder_2": ("text_encoders",),
    "loras": ("loras",),
    "motion_loras": MOTION_LORAS,
    "domain_adapter": ADAPTERS,
    "embeddings": ("embeddings",),
    "sparsectrl": SPARSECTRLS,
    "controlnet": ("controlnet",),
    "camera_control": CAMERAS,
    "ip_adapter": ("ipadapter", "loras"),
    "ip_adapter_encoder": ("clip_vision",),
    "upscaler": ("upscale_models",),
}
"""Options that name model files -> the host's folders in which they are."""
OF_FILES = ("out", "name", "codec", "max_size", "quality", "loop", "audio")
"""Options of the file that is written: this node writes none."""
REFUSED = {
    **dict.fromkeys(OF_FILES, "is for a file, and this node gives images and a video; connect a node that saves them"),
    "device": "is the host's choice (its option --cpu, --cuda-device)",
    "download": "is left out: a workflow may not fetch files; put them into the folders of models/",
    "inference_config": "names a file outside of the host's folders",
    "sparsectrl_config": "names a file outside of the host's folders",
}
"""Options that the field `options` does not take, and why."""


class Frames(NamedTuple):
    """A rendered clip."""

    images: torch.Tensor
    """(f, h, w, 3) float32 in 0..1."""
    frame_rate: Fraction
    info: str
    """Settings that were used, and notes, a line each."""


def values_of(fields: Mapping[str, Any], options: str) -> dict[str, Any]:
    """Settings of a request from the fields of the node (None: not given) and the lines of its field `options`.

    Raises UserError for unknown or refused options, for one that a field gives already, and for missing files.
    """
    more, _ = parse_yaml(options, "options") if options.strip() else ({}, {})
    more = {} if more is None else more  # comments alone
    if not isinstance(more, Mapping):
        raise UserError("options: expected one option a line, as in `freeinit: 3`")
    for name in more:
        if name not in FIELDS:
            raise UserError(f"options: unknown option {name!r}; {did_you_mean(str(name), FIELDS)}".rstrip("; "))
        if name in REFUSED:
            raise UserError(f"options: {name} {REFUSED[name]}")
        if fields.get(name) is not None:
            raise UserError(f"options: {name} is given twice; it has a field of its own in this node")
    given = {name: value for name, value in fields.items() if value is not None} | dict(more)
    return {name: placed(name, value) for name, value in given.items()}


def placed(option: str, value: Any) -> Any:
    """A value with the files that it names in the host's folders; others as they are. Raises UserError as `file_path`.

    A workflow is often somebody else's: no path outside of the host's folders is opened.
    """
    if option not in PATH_FIELDS or is_pixels(value):
        return value
    if isinstance(value, list | tuple):
        return [placed(option, each) for each in value]
    if isinstance(value, Mapping) and "path" in value:
        return {**value, "path": placed(option, value["path"])}
    if isinstance(value, Mapping):
        return {frame: placed(option, each) for frame, each in value.items()}
    name = str(value)
    if option not in FOLDERS:
        if not names_file(option, name):
            return name
        return str(input_file(name))
    known = {"motion_loras": MOVES, "upscaler": UPSCALERS}.get(option, ())
    if is_bundled(name) or name in known:
        return name
    file, colon, scale = name.rpartition(":")
    if colon and _is_number(scale):
        return {"path": placed(option, file), "scale": float(scale)}
    if name not in (listed := files(FOLDERS[option])):  # a list holds no path that leads out of the folders
        folders = " or ".join(f"models/{folder}" for folder in FOLDERS[option][:2])
        raise UserError(f"there is no file {name} in {folders}; {did_you_mean(name, listed)}put it there")
    return str(file_path(FOLDERS[option], name))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def travel_values(text: str) -> dict[str, Any]:
    """Settings of the field with texts at later frames. Raises UserError as `read_travel`."""
    if not text.strip():
        return {}
    try:
        found = read_travel(text, framed=True)
    except UserError as error:
        raise UserError(f"prompt_travel: {error}") from None
    return {
        "prompt_travel": found.texts,
        "prompt_head": found.head or None,
        "prompt_tail": found.tail or None,
    }


def pixels(images: torch.Tensor) -> Any:
    """The host's IMAGE (f, h, w, c) as uint8 array; of one image (h, w, c)."""
    array = (images[..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return array[0] if len(array) == 1 else array


def render(
    values: Mapping[str, Any],
    *,
    device: str,
    on_event: Callable[[Event], None],
    interrupted: Callable[[], bool],
    keep_model: bool = True,
) -> Frames:
    """Render one clip. Raises UserError for what a user can mend, Cancelled where the host was interrupted.

    keep_model: let the model stay in memory for the next clip.
    """
    request = build_request({**values, "device": device})
    notes: list[str] = []

    def heard(event: Event) -> None:
        if event.note:
            notes.append(in_words(event.note, OF_FIELDS))
        else:
            on_event(event)

    renderer = renderer_of(folder_paths.models_dir, folder_paths.get_output_directory())
    try:
        with closing(renderer.clips([request], on_event=heard, cancel=interrupted, preview=True)) as clips:
            clip = next(clips)
            frames = clip.array()
    finally:
        if not keep_model:
            renderer.unload()
    made = clip.request
    rate = Fraction(made.fps_out or made.fps or 8).limit_denominator(1001)
    images = torch.from_numpy(frames).float().div_(255)
    return Frames(images, rate, "\n".join([_summary(made), *dict.fromkeys(notes)]))


@cache
def renderer_of(models: str, output: str) -> Renderer:
    """The one renderer of the host, which keeps the last model; it looks for files in the host's folders alone."""
    return Renderer(roots=Roots(models=(Path(models),), samples=Path(output), files=()))


def _summary(request: Any) -> str:
    shown = ("seed", "num_frames", "width", "height", "steps", "guidance_scale", "scheduler", "fps", "fps_out")
    found = {name: getattr(request, name) for name in shown}
    return ", ".join(
        f"{name} {value[0] if isinstance(value, tuple) else value}"
        for name, value in found.items()
        if value is not None
    )
