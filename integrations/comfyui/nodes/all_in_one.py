"""The node for newcomers: a prompt to images and a video, with no other node and no download."""

# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_api.latest import InputImpl, Types, io
from PIL import Image

from animatediff.errors import OUT_OF_MEMORY, Cancelled
from animatediff.limits import MAX_FRAMES
from animatediff.render.events import Event
from animatediff.render.options import BY_NAME, MAX_SEED
from animatediff.sampling.schedulers import SCHEDULERS
from animatediff.weights.hub import MOTION_LORAS as MOVES

from .. import animate
from ..folders import ADAPTERS, MOTION_LORAS, MOTION_MODULES, NONE, SPARSECTRLS, files
from ..messages import OF_FIELDS, in_host_words

AUTO, NOTHING, BUNDLED = "auto", "none", "bundled"
"""First entries of the lists: what the model recommends, no file, the model that comes with AnimateDiff."""
PREVIEW_PIXELS = 512


class Animate(io.ComfyNode):
    """A prompt -> IMAGE and VIDEO, by AnimateDiff's own sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to the host."""
        return io.Schema(
            node_id="AnimateDiffAnimate",
            display_name="AnimateDiff Animate (all in one)",
            category="AnimateDiff",
            description="A prompt to a clip in one node. The bundled model needs no download; it draws simple figures.",
            search_aliases=["text to video", "animate", "gif"],
            inputs=[*_in_sight(), *_advanced()],
            outputs=[
                io.Image.Output(display_name="images"),
                io.Video.Output(display_name="video"),
                io.String.Output(display_name="info", tooltip="The settings that were used, and notes."),
            ],
        )

    @classmethod
    def execute(cls, options: str = "", keep_model: bool = True, **fields: Any) -> io.NodeOutput:
        """Render the clip, with the host's progress, preview and interrupt."""
        with in_host_words(OF_FIELDS):
            return cls._rendered(options, keep_model, fields)

    @staticmethod
    def _rendered(options: str, keep_model: bool, fields: dict[str, Any]) -> io.NodeOutput:
        values = animate.values_of(_settings(fields), options)
        device = comfy.model_management.get_torch_device()
        if device.type != "cpu":  # what the host holds there is loaded again when it is asked for
            comfy.model_management.unload_all_models()
        try:
            found = animate.render(
                values,
                device=str(device),
                on_event=_progress(),
                interrupted=comfy.model_management.processing_interrupted,
                keep_model=keep_model,
            )
        except Cancelled:
            comfy.model_management.throw_exception_if_processing_interrupted()
            raise
        except (MemoryError, comfy.model_management.OOM_EXCEPTION) as error:
            raise MemoryError(OUT_OF_MEMORY) from error
        components = Types.VideoComponents(images=found.images, audio=None, frame_rate=found.frame_rate)
        return io.NodeOutput(found.images, InputImpl.VideoFromComponents(components), found.info)


def _in_sight() -> list[Any]:
    """What a first clip needs."""
    return [
        _text("prompt", "a fox moving right on a green background"),
        _text("negative_prompt", ""),
        _files("model", BUNDLED, f"{BUNDLED}/neon", names=("checkpoints",)),
        _files("motion_module", AUTO, names=MOTION_MODULES),
        io.Int.Input("seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip=_help("seed")),
        _whole("num_frames", MAX_FRAMES.value),
        _whole("width", 16384, 8),
        _whole("height", 16384, 8),
        _whole("steps", 1000),
        io.Float.Input(
            "guidance_scale",
            default=-1.0,
            min=-1.0,
            max=1000.0,
            step=0.1,
            tooltip=f"{_help('guidance_scale')} -1: auto.",
        ),
        io.Float.Input("fps", default=0.0, min=0.0, max=240.0, step=1.0, tooltip=f"{_help('fps')} 0: auto."),
        _files("motion_lora", NOTHING, *MOVES, names=MOTION_LORAS, option="motion_loras"),
        _strength("motion_lora_strength"),
        io.Image.Input("image", optional=True, tooltip=_help("image")),
        io.Image.Input("last_image", optional=True, tooltip=_help("last_image")),
        io.Image.Input("video", optional=True, tooltip="Images to start from, as many as the clip has frames."),
    ]  # fmt: skip


def _advanced() -> list[Any]:
    """What comes later; everything else is in `options`."""
    return [
        io.String.Input(
            "prompt_travel",
            multiline=True,
            default="",
            optional=True,
            advanced=True,
            tooltip="Texts at later frames, a line each: `8: a fox in winter`.",
        ),
        io.Combo.Input(
            "scheduler", options=[AUTO, *SCHEDULERS], default=AUTO, optional=True, advanced=True,
            tooltip=_help("scheduler"),
        ),
        io.Float.Input(
            "motion_scale", default=1.0, min=0.0, max=10.0, step=0.05, optional=True, advanced=True,
            tooltip="How much motion modules add.",
        ),
        io.Boolean.Input("closed_loop", default=False, optional=True, advanced=True, tooltip=_help("closed_loop")),
        io.Float.Input(
            "strength", default=0.6, min=0.01, max=1.0, step=0.01, optional=True, advanced=True,
            tooltip="Of `video`: how much of it is changed.",
        ),
        _files("lora", NOTHING, names=("loras",), option="loras", advanced=True),
        _strength("lora_strength", advanced=True),
        _files("vae", AUTO, names=("vae",), advanced=True),
        _files("domain_adapter", NOTHING, names=ADAPTERS, advanced=True),
        _files("sparsectrl", AUTO, names=SPARSECTRLS, advanced=True),
        io.String.Input(
            "options",
            multiline=True,
            default="",
            optional=True,
            advanced=True,
            placeholder="freeinit: 3",
            tooltip="Any other option of AnimateDiff, one a line, as in a configuration file.",
        ),
        io.Boolean.Input(
            "keep_model", default=True, optional=True, advanced=True,
            tooltip="Keep the model in memory for the next clip.",
        ),
    ]  # fmt: skip


def _help(option: str) -> str:
    return BY_NAME[option].help


def _text(option: str, default: str) -> Any:
    return io.String.Input(
        option, multiline=True, default=default, dynamic_prompts=True, tooltip=_help(option).partition(";")[0] + "."
    )


def _whole(option: str, most: int, step: int = 1) -> Any:
    """A whole number, 0 for what the model recommends."""
    return io.Int.Input(option, default=0, min=0, max=most, step=step, tooltip=f"{_help(option)} 0: auto.")


def _files(name: str, *first: str, names: tuple[str, ...], option: str | None = None, advanced: bool = False) -> Any:
    """A list of the files in folders of the host, behind words of ours."""
    listed = [file for file in files(names) if file != NONE]
    return io.Combo.Input(
        name,
        options=[*first, *listed],
        default=first[0],
        optional=advanced,
        advanced=advanced or None,
        tooltip=_help(option or name),
    )


def _strength(name: str, *, advanced: bool = False) -> Any:
    return io.Float.Input(
        name, default=1.0, min=-10.0, max=10.0, step=0.05, optional=advanced, advanced=advanced or None,
        tooltip="How strongly it acts.",
    )  # fmt: skip


def _settings(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of the node as settings of a request; None where the model's own choice is wanted."""
    found = dict(fields)
    for name in ("num_frames", "width", "height", "steps", "fps"):
        found[name] = found.get(name) or None
    if (guidance := found.get("guidance_scale")) is not None and guidance < 0:
        found["guidance_scale"] = None
    for name in ("motion_module", "scheduler", "vae", "domain_adapter", "sparsectrl"):
        if found.get(name) in (AUTO, NOTHING):
            found[name] = None
    for name, option in (("motion_lora", "motion_loras"), ("lora", "loras")):
        file, scale = found.pop(name, NOTHING), found.pop(f"{name}_strength", 1.0)
        found[option] = None if file in (NOTHING, None) else [{"path": file, "scale": scale}]
    for name in ("image", "last_image", "video"):
        found[name] = None if found.get(name) is None else animate.pixels(found[name])
    if found.get("video") is None:
        found["strength"] = None
    # What has the value that it has anyway is not given, so that the field `options` may say it.
    for name in ("motion_scale", "closed_loop", "negative_prompt"):
        if found.get(name) in (1.0, False, ""):
            found[name] = None
    return found | animate.travel_values(found.pop("prompt_travel", "") or "")


def _progress() -> Callable[[Event], None]:
    """Steps of a phase as the host's progress bar, with its preview; the bar notices the host's interrupt too."""
    bars: dict[str, Any] = {}

    def heard(event: Event) -> None:
        if event.total <= 0:
            return
        bar = bars.setdefault(event.phase, comfy.utils.ProgressBar(event.total))
        preview = None
        if event.preview is not None:
            preview = ("JPEG", Image.fromarray(event.preview), PREVIEW_PIXELS)
        bar.update_absolute(event.step, event.total, preview)

    return heard


NODES = [Animate]
