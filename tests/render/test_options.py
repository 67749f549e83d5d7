"""Every option of the table: reachable from command line, file and Python, to the same request, and with an effect."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support import conditions
from support.fake_pipeline import FakePipeline
from support.paths import ROOT
from typer.testing import CliRunner

from animatediff.cli import animate
from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.limits import LIMITS
from animatediff.media import images, numbered, source, stills
from animatediff.pipelines.arguments import RANGES, Arguments
from animatediff.render import AnimateRequest, build_request, drive, load_result, parse_config
from animatediff.render.declare import Option
from animatediff.render.finish import finish_of
from animatediff.render.inputs import input_arguments, look_into, sound_of
from animatediff.render.models import ModelSpec
from animatediff.render.options import BY_NAME, CALL_OPTIONS, FLAGS, IN_MEMORY, MODEL_OPTIONS, OPTIONS
from animatediff.render.prepare import to_come
from animatediff.render.renderer import call_arguments, with_defaults

NAMES = [item.name for item in OPTIONS]
_NETS = {"controlnet": ["c.safetensors"], "controlnet_video": ["v.mp4"]}
_IMAGES = {"sparsectrl": "s.ckpt", "control_images": ["a.png"]}
_GROUPS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"video": "v.mp4"}, "strength audio video_fps video_start video_duration video_by_number"),
    (_IMAGES, "sparsectrl control_images control_indices control_preprocess normalize_condition_images"),
    ({"image": "a.png"}, "image_mode ip_adapter"),
    ({"image": "a.png", "width": 32, "height": 32}, "resize"),
    ({"prompt_travel": {3: "y"}}, "prompt_interpolation prompt_hold prompt_loop"),
    ({"ip_adapter": "i.bin", "image": "a.png"}, "ip_adapter_image ip_adapter_encoder"),
    (_NETS, "controlnet controlnet_video controlnet_preprocess controlnet_scale controlnet_start controlnet_end"),
    (_NETS, "controlnet_spread"),
    (
        {"camera_control": "c.ckpt", "camera": "zoom-in"},
        "camera_control camera camera_scale camera_aspect",
    ),
    ({"upscale": 2.0}, "upscale_strength upscale_steps"),
    ({"controlnet": ["c_scribble.safetensors"]}, "drive"),
    ({"drive": "v.mp4", "controlnet": ["c_scribble.safetensors"]}, "drive_kind"),
)
NEEDS = {name: settings for settings, names in _GROUPS for name in names.split()}
"""Options that mean nothing alone -> the settings that they need."""


_STRUCTURED: dict[str, tuple[list[str], Any]] = {
    "loras": (["a.st:0.5", "b.st"], [{"path": "a.st", "scale": 0.5}, "b.st"]),
    "motion_loras": (["ZoomIn:0.5"], [{"path": "ZoomIn", "scale": 0.5}]),
    "domain_adapter": (["d.ckpt:0.5"], {"path": "d.ckpt", "scale": 0.5}),
    "embeddings": (["bad.pt:ugly"], [{"path": "bad.pt", "token": "ugly"}]),
    "keyframes": (["3=k.png", "-1=l.png"], {3: "k.png", -1: "l.png"}),
    "prompt_travel": (["3=later", '5="much, later"'], {3: "later", 5: "much, later"}),
    "motion_scale": (["0=1.0,3=0.5"], {0: 1.0, 3: 0.5}),
    "image_affinity": (["0=1.0,3=0.5"], {0: 1.0, 3: 0.5}),
    "controlnet_spread": (["0.5,0.25"], [[0.5, 0.25]]),
    "seed": ([str(2**64 - 1)], 2**64 - 1),
    "image_mode": (["latents"], "latents"),
    "vram": (["6GB"], "6GB"),
    "camera": (["zoom-in:0.5, pan-left"], "zoom-in:0.5, pan-left"),
}


def example(option: Option) -> tuple[list[str], Any]:
    """A value that is not the default: as words of the command line, and as it stands in a file and in Python."""
    if option.name in _STRUCTURED:
        return _STRUCTURED[option.name]
    if option.entry is bool:
        return [], True
    if option.choices is not None:
        default = option.default[0] if option.many else option.default
        word = next(word for word in option.choices if word != default)
        return [word], word
    if option.entry is str:
        text = f"{option.name}.png" if option.folder is not None else f"some {option.name}"
        return [text], text
    number = near(option)
    return [str(number)], number


def near(option: Option) -> float:
    """A number in the range of an option that is not its default."""
    within = option.range
    default = option.default[0] if option.many else option.default
    step = (within.multiple_of if within else None) or (1 if option.entry is int else 0.125)
    for factor in range(1, 100):
        number = option.entry(factor * step)
        try:
            if within is not None:
                within.check(option.name, number)
        except UserError:
            continue
        if number != default:
            return number
    raise AssertionError(f"{option.name}: no number in {within}")


def needed(name: str) -> dict[str, Any]:
    """A request in which the option means something, without the option."""
    return {"prompt": "x", **{key: value for key, value in NEEDS.get(name, {}).items() if key != name}}


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The settings that the command line gives to what renders."""
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(animate, "run", lambda values, **_: given.append(values))
    result = CliRunner().invoke(app, ["animate", *words])
    assert result.exit_code == 0, result.output
    return given[0]


class Film:
    """Stands for a video file: frames that depend on its name and on the part that is taken."""

    path, size, has_audio, held, frames = Path("v.mp4"), (60, 30), True, False, None
    indices = tuple(range(40))

    def __init__(
        self, given: Any, *, setting: str, hold: bool = False, fps: float | None, start: float, duration: float | None
    ) -> None:
        self.part, self.fps = f"{given} {fps} {start} {duration}", fps or 8.0

    def check(self, num_frames: int) -> None:
        """It is whole."""

    def read(self, num_frames: int, width: int, height: int, resize: str) -> np.ndarray:
        shade = sum(f"{self.part} {resize}".encode()) % 251
        frames = np.full((num_frames, height, width, 3), 20, np.uint8)
        frames[:, 4 + shade // 16 :, 4 + shade % 16 :] = 150  # a corner, of which sketches show where it is
        return frames


def drawn(given: Any, setting: str = "") -> Image.Image:
    """Stands for an image file: a ramp that depends on its name."""
    ramp = (np.arange(30 * 60).reshape(30, 60) * 7 + sum(str(given).encode())) % 200
    return Image.fromarray(ramp.astype(np.uint8)).convert("RGB")


def plain(value: Any) -> Any:
    """A value that can be compared: pixels, seeds and the fields of objects in place of the objects."""
    if isinstance(value, torch.Generator):
        return value.initial_seed()
    if isinstance(value, (np.ndarray, Image.Image)):
        return np.asarray(value).tobytes()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return plain(vars(value)) if is_dataclass(value) else value


def effect(request: AnimateRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the model is loaded from, what the pipeline is called with, and how the file is written."""
    monkeypatch.setattr(images, "as_image", drawn)
    monkeypatch.setattr(images, "open_image", drawn)
    monkeypatch.setattr(stills, "check_image", lambda path: None)
    monkeypatch.setattr(source, "open_source", Film)
    monkeypatch.setattr(numbered, "check_readable", lambda paths: None)
    monkeypatch.setattr(numbered, "numbered_images", lambda folder: {0: Path(folder) / "0000.png"})
    monkeypatch.setattr(drive, "sample", lambda film: conditions.scenes(2, 32))
    request = drive.driven(request, look=False)
    spec = ModelSpec.of(request)
    pipe: Any = FakePipeline()
    pipe.sparsectrl_kind = "rgb"
    inputs = look_into(request)
    clip = with_defaults(request, inputs, pipe).clip(0)
    call = call_arguments(clip) | input_arguments(clip, inputs, "rgb")[0]
    writer = {"fps": clip.fps, "quality": clip.quality, "loop": clip.loop, "sound": sound_of(clip)}
    writer |= {"out": clip.out, "name": clip.name, "codec": clip.codec, "max_size": clip.max_size}
    writer |= {"finish": finish_of(clip)}
    try:
        fetched = to_come("mm_sd_v14.ckpt", download=request.download)
    except UserError:
        fetched = "refused"
    return {"model": spec.settings.model_dump(), "call": plain(call), "writer": plain(writer), "fetched": fetched}


@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_the_same_from_command_line_file_and_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    option = BY_NAME[name]
    words, value = example(option)
    positional = not option.flag.startswith("-")
    flags = words if positional else [text for word in words or [""] for text in (option.flag, word) if text]
    base = needed(name)
    values = parsed(flags if positional else [*flags, "x"], monkeypatch)
    assert set(values) == {"prompt", name}, "one flag, one setting"
    on_line = build_request({**base, **values} if name != "prompt" else values)
    assert on_line == build_request({**base, name: value})
    (from_file,) = parse_config(yaml.safe_dump([{**base, name: value}], sort_keys=False))
    if name == "download":  # the command line alone decides it
        on_line = build_request(base)
    assert on_line == from_file
    if option.short:
        assert parsed([option.short, *words, "x"], monkeypatch) == values


@pytest.mark.parametrize("name", NAMES)
def test_changing_an_option_changes_what_is_loaded_called_or_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = needed(name)
    _, value = example(BY_NAME[name])
    try:
        before = build_request(base)
    except UserError:  # one of two that come together
        before = build_request({**base, name: "pan-right" if name == "camera" else "another.png"})
    after = build_request({**base, name: value})
    assert getattr(before, name) != getattr(after, name)
    before = before.model_copy(update={"seed": (1,)})
    after = after if name == "seed" else after.model_copy(update={"seed": (1,)})
    assert effect(before, monkeypatch) == effect(before, monkeypatch), "the test sees the option alone"
    assert effect(before, monkeypatch) != effect(after, monkeypatch)


def test_files_may_be_path_objects() -> None:
    names = [item.name for item in OPTIONS if item.folder is not None and item.name not in _STRUCTURED]
    for name in names:
        assert build_request({**needed(name), name: Path("a.png")}) == build_request({**needed(name), name: "a.png"})


def test_flags_are_exact_and_unlike_each_other() -> None:
    parameters = {parameter.name: parameter.opts for parameter in animate.command().params}
    own = {"config", "result", "folder", "list_words", "plan", "save_every", "no_resume", "quiet", "help", "help_all"}
    assert set(parameters) - own - set(LIMITS) == set(NAMES)
    for name, flag in FLAGS.items():
        assert flag in parameters[name] or not flag.startswith("-")
    every = [flag for flags in parameters.values() for flag in flags]
    assert len(every) == len(set(every))


def test_help_lists_every_option_in_its_panel_with_its_text() -> None:
    text = CliRunner().invoke(app, ["animate", "--help"], env={"COLUMNS": "250"}).stdout
    panels = re.split(r"╭─ (.*?) ─+╮", text)
    rows = dict(zip(panels[1::2], panels[2::2], strict=True))
    for option in OPTIONS:
        panel = rows[option.panel] if option.flag.startswith("-") else rows["Arguments"]
        (row,) = (line for line in panel.splitlines() if re.match(rf"│ +{re.escape(option.flag)} ", line))
        assert option.help.removesuffix(".") in row


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_has_what_a_form_needs(name: str) -> None:
    option, field = BY_NAME[name], AnimateRequest.model_json_schema()["properties"][name]
    assert field["description"] == option.help and field["panel"] == option.panel
    assert ("default" in field) != option.required
    entry = field["items"] if option.many else field
    within = option.range
    if within is not None:
        assert field.get("unit", "") == within.unit
        assert (entry.get("minimum"), entry.get("exclusiveMinimum")) == (within.ge, within.gt)
        assert (entry.get("maximum"), entry.get("multipleOf")) == (within.le, within.multiple_of)
    if option.choices is not None:
        assert set(entry["enum"]) - {None} == set(option.choices)
        assert all(re.search(rf"\b{re.escape(word)}\b", option.help) for word in option.choices), "help names all words"


def test_defaults_and_ranges_are_those_of_the_pipeline() -> None:
    arguments = {item.name: item.default for item in fields(Arguments)}
    for name, argument in CALL_OPTIONS.items():
        assert BY_NAME[name].default == arguments[argument]
        assert argument not in RANGES or BY_NAME[name].range is RANGES[argument]
    # every argument that is a setting is an option, or is made of options
    own = {"latents", "eta", "output_type", "callback_on_step_end", "on_progress", "cancel", "resume", "save_every"}
    # those that users of diffusers write in a call
    own |= {
        "num_videos_per_prompt", "prompt_embeds", "negative_prompt_embeds", "ip_adapter_image_embeds", "return_dict",
        "prompt_2", "negative_prompt_2", "pooled_prompt_embeds", "negative_pooled_prompt_embeds", "original_size",
        "crops_coords_top_left", "target_size", "negative_original_size", "negative_crops_coords_top_left",
        "negative_target_size", "pag_scale", "pag_adaptive_scale", "timesteps", "sigmas", "denoising_end",
        "cross_attention_kwargs", "freeinit_fast", "freeinit_order", "control_guidance_start", "control_guidance_end",
        "guess_mode", "enforce_inference_steps", "callback_on_step_end_tensor_inputs",
    }  # fmt: skip
    assert set(arguments) - own - {item.argument for item in OPTIONS} == set()


def test_options_of_the_model_are_those_that_decide_what_is_loaded() -> None:
    from animatediff.pipelines.precision import DTYPES

    loaded = (
        "model motion_module family vae text_encoder text_encoder_2 prediction_type use_ema loras motion_loras "
        "conv_in_from_file domain_adapter embeddings sparsectrl sparsectrl_config scheduler device dtype cpu_offload "
        "compile inference_config ip_adapter ip_adapter_encoder ip_adapter_scale controlnet camera_control"
    )
    assert set(MODEL_OPTIONS) == set(loaded.split())
    assert set(BY_NAME["dtype"].choices or ()) <= {"auto", *DTYPES}


def test_the_help_names_the_strength_that_a_video_gets() -> None:
    from animatediff.pipelines.conditions.video import VIDEO_STRENGTH

    assert BY_NAME["strength"].unset == f"{VIDEO_STRENGTH:g}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blend": "pyramd"}, "unknown blend 'pyramd'; did you mean 'pyramid'? known are pyramid, flat, "),
        ({"width": 100}, "width=100: expected a positive multiple of 8 pixels (nearest: 96 or 104)"),
        ({"steps": 0}, "steps=0: expected 1 to 1000"),
        ({"seed": [1, -2]}, "seed[1]=-2: expected a seed of 64 bits"),
        ({"controlnet_end": [0.5, 2.0]}, "controlnet_end[1]=2.0: expected 0 to 1"),
        ({"motion_scale": "fast"}, "motion_scale='fast': 'fast' is no finite number"),
        ({"fast": True}, "fast=True: expected a level, such as balanced"),
        ({"fast": "quick"}, "unknown fast 'quick'; known are off, balanced, max"),
        ({"image": 3}, "image=3: expected the name of a file, a PIL image, an array or a tensor"),
        ({"widht": 8}, "unknown setting 'widht'; did you mean 'width'?"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_expected(values: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        build_request({"prompt": "x", **values})
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1


def test_off_is_a_level_also_where_yaml_has_read_it_as_false() -> None:
    assert [request.fast for request in parse_config("prompt: x\nfast: off\n")] == ["off"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--keyframe", "a.png"], "animatediff: --keyframe: expected FRAME=FILE, such as 8=c.png, got 'a.png'"),
        (["--prompt-at", "later"], "animatediff: --prompt-at: expected a frame and a text"),
        (["--controlnet", "c"], "controlnet is given without controlnet_video; add --controlnet-video"),
        (["--ip-adapter", "i"], "add --ip-adapter-image, or --image"),
    ],
)
def test_the_command_line_names_its_flags(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["animate", "x", *words])
    assert result.exit_code == 2 and message in result.stderr and "`" not in result.stderr


# -- images and videos in memory ---------------------------------------------------------------------------------------

RED = Image.new("RGB", (8, 4), (200, 10, 10))
KINDS: dict[str, Callable[[], Any]] = {
    "PIL": lambda: RED,
    "array": lambda: np.asarray(RED),
    "tensor": lambda: torch.from_numpy(np.asarray(RED).copy()),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", IN_MEMORY)
def test_an_input_in_memory_is_held_as_it_is_and_noted_in_the_record(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option, image = BY_NAME[name], KINDS[kind]()
    given = {2: image} if name == "keyframes" else [image, image] if option.in_memory == "video" else image
    base = {"sparsectrl": "s.ckpt"} if name == "control_images" else needed(name)
    request = build_request({"prompt": "x", **base, name: given})
    held = getattr(request, name)
    while not (held is image or isinstance(held, str)):
        held = held.path if name == "keyframes" and hasattr(held, "path") else held[0]
    assert held is image
    assert request == build_request({"prompt": "x", **base, name: given})
    stored = request.stored()
    assert "sha256" in str(stored[name]) and str(list(np.asarray(RED).shape))[1:-1] in str(stored[name])
    path = tmp_path / "a.mp4.json"
    path.write_text(json.dumps({"request": stored}))
    with pytest.raises(UserError, match=f"in memory, which are not kept; give `{name}` again") as error:
        load_result(path)
    assert len(str(error.value).splitlines()) == 1
    again = load_result(path, {name: "3=a.png" if name == "keyframes" else "a.png"})
    assert again.stored()[name] != stored[name]


def test_other_pixels_are_another_request() -> None:
    one = build_request({"prompt": "x", "image": RED})
    assert one == build_request({"prompt": "x", "image": np.asarray(RED)})
    assert one != build_request({"prompt": "x", "image": Image.new("RGB", (8, 4))})
    assert one != build_request({"prompt": "x", "image": "red.png"})


def test_the_table_needs_no_pydantic_and_a_request_of_files_no_torch() -> None:

    code = (
        "import sys\nfrom animatediff.render import OPTIONS\nassert 'pydantic' not in sys.modules\n"
        "from animatediff.render import build_request\n"
        "build_request({'prompt': 'x', 'image': 'a.png', 'dtype': 'float16', 'prompt_interpolation': 'slerp'})\n"
        "bad = {'torch', 'numpy', 'PIL'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
