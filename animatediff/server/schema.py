"""What a request may say: OpenAI's fields, vLLM-Omni's names for common ones, and every other option in `extra_params`.

The JSON schema of `extra_params` is made from the options of a request, and stands in the service's OpenAPI.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from animatediff.media import formats
from animatediff.render.options import BY_NAME, FIELDS, IN_MEMORY
from animatediff.server.catalog import PLACES

TOP = {
    "prompt": "prompt",
    "model": "model",
    "negative_prompt": "negative_prompt",
    "num_inference_steps": "steps",
    "guidance_scale": "guidance_scale",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "num_frames": "num_frames",
    "fps": "fps",
}
"""Field of a request -> the option that it is."""
NAMES = {name: f"extra_params.{name}" for name in FIELDS} | {option: field for field, option in TOP.items()}
"""Option -> its name here, in messages."""

_BY_SERVER = "whoever runs the server decides it"
REFUSED = {
    "prompt": "it stands beside extra_params, one text a job",
    "model": "it stands beside extra_params, as `model`",
    "out": "results are stored under the id of their job; `output_format` chooses mp4, webm, gif, ...",
    "name": "results are named by the id of their job",
    "download": "the server fetches nothing; whoever runs it puts models into its folders",
    "device": f"{_BY_SERVER} (animatediff serve --device)",
    "inference_config": "it names a file of the original that is only compared; its values are known from the weights",
    "sparsectrl_config": "it names a file of the original that is only compared; its values are known from the weights",
    "camera_aspect": "it is of files of poses, and a request names moves",
    "video_by_number": "it takes a folder of numbered images, and a request sends single files",
    "controlnet_spread": "it takes a folder of numbered images, and a request sends single files",
}
"""Options that `extra_params` does not take, and why."""
EXTRA = tuple(name for name in FIELDS if name not in REFUSED)
FORMATS = tuple(dict.fromkeys(formats.FORMATS.values()))
"""mp4 and the others that are single files."""
NOT_HERE = {
    "n": "one job is one video; send a request for each",
    "num_outputs_per_prompt": "one job is one video; send a request for each",
    "characters": "there are no characters here; `image_reference` and `extra_params.ip_adapter` carry a likeness",
    "guidance_scale_2": "there is one guidance scale, `guidance_scale`",
    "flow_shift": "it is a setting of flow models; samplers are chosen by `extra_params.scheduler`",
}
"""Fields of OpenAI and vLLM-Omni that do not exist here, and what to take in their place."""


class Reference(BaseModel):
    """An image or a video: a data URL, or the file of a multipart form."""

    model_config = ConfigDict(extra="forbid")

    image_url: str | None = Field(None, description="data:image/...;base64,...; other addresses are not fetched.")
    video_url: str | None = Field(None, description="data:video/...;base64,...")
    file_id: str | None = Field(None, description="Refused: no files are kept beside those of jobs.")


class LoraRef(BaseModel):
    """A LoRA or MotionLoRA of the server by its name, and how strongly it acts."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=300)
    scale: float = Field(1.0, allow_inf_nan=False)


class VideoRequest(BaseModel):
    """A video to render."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1, description="What to show.")
    model: str | None = Field(None, max_length=300, description="Base model, one of GET /v1/models.")
    seconds: str | int | float | None = Field(
        None, description="Length; with `fps`, or 8 frames a second, it decides `num_frames`."
    )
    size: str | None = Field(None, max_length=20, description="WIDTHxHEIGHT in pixels, multiples of 8.")
    input_reference: str | Reference | None = Field(
        None, description="Image of the first frame, or a video to start from; the content tells which."
    )
    user: str | None = Field(None, max_length=200, description="Your own mark; it is kept with the job and told back.")
    negative_prompt: str | None = Field(None, description=BY_NAME["negative_prompt"].help)
    num_inference_steps: int | None = Field(None, ge=1, description=BY_NAME["steps"].help)
    guidance_scale: float | None = Field(None, allow_inf_nan=False, description=BY_NAME["guidance_scale"].help)
    seed: int | None = Field(None, description="-1, or none, is random; the seed that was used is told.")
    width: int | None = Field(None, description=BY_NAME["width"].help)
    height: int | None = Field(None, description=BY_NAME["height"].help)
    num_frames: int | None = Field(None, description=BY_NAME["num_frames"].help)
    fps: float | None = Field(None, allow_inf_nan=False, description=BY_NAME["fps"].help)
    lora: LoraRef | list[LoraRef] | None = Field(None, description="LoRAs and MotionLoRAs of the server by name.")
    image_reference: str | Reference | None = Field(None, description="Image of the first frame.")
    video_reference: str | Reference | None = Field(None, description="Video to start from.")
    enable_frame_interpolation: bool | None = Field(
        None, description="Make frames in between by optical flow: the clip lasts as long, at a higher rate."
    )
    frame_interpolation_exp: int | None = Field(
        None,
        ge=1,
        le=4,
        description="The rate is multiplied by 2 to this power (1). `extra_params.fps_out` says it itself.",
    )
    output_format: str = Field("mp4", description="Format of the result.", json_schema_extra={"enum": list(FORMATS)})
    extra_params: dict[str, Any] = Field(default_factory=dict, description="Every other option of AnimateDiff.")


@cache
def request_schema() -> dict[str, Any]:
    """JSON schema of a request, with that of `extra_params` inside; self-contained."""
    schema = VideoRequest.model_json_schema(ref_template="#/$defs/{model}")
    extra = extra_schema()
    for name, option in TOP.items():
        if option in extra["properties"]:
            schema["properties"][name] |= _bounds(extra["properties"][option])
    defs = schema.pop("$defs", {}) | extra.pop("$defs", {})
    schema["properties"]["extra_params"] = extra
    return _inlined(schema, defs)


def extra_schema() -> dict[str, Any]:
    """JSON schema of `extra_params`, from the options of a request."""
    from animatediff.render.request import AnimateRequest

    whole = copy.deepcopy(AnimateRequest.model_json_schema())
    properties = {name: whole["properties"][name] for name in EXTRA}
    for name in EXTRA:
        if name in IN_MEMORY:
            note = " A data URL (data:image/png;base64,...), or a file of a multipart form under this name."
        elif name in PLACES:
            note = " By its name on the server (GET /v1/models)."
        elif name == "camera":
            note = " Here moves only: files of poses and videos are not taken."
        else:
            continue
        properties[name]["description"] = properties[name].get("description", "").removesuffix(".") + "." + note
    return {
        "type": "object",
        "description": "Every option of AnimateDiff, by its name in Python and YAML.",
        "properties": properties,
        "additionalProperties": False,
        "$defs": whole.get("$defs", {}),
    }


def _bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """The range of an option's value."""
    found = schema.get("items", schema)
    names = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "multipleOf")
    return {name: found[name] for name in names if name in found}


def _inlined(value: Any, defs: dict[str, Any]) -> Any:
    """A schema without references."""
    if isinstance(value, list):
        return [_inlined(item, defs) for item in value]
    if not isinstance(value, dict):
        return value
    if isinstance(reference := value.get("$ref"), str):
        rest = {key: item for key, item in value.items() if key != "$ref"}
        return _inlined(copy.deepcopy(defs[reference.rsplit("/", 1)[-1]]) | rest, defs)
    return {key: _inlined(item, defs) for key, item in value.items()}
